#!/bin/sh
# Builds the stand-in base image, or finds it built already, and prints its reference on stdout.
#
# usage: image/base/build.sh [LITELLM_VERSION]
#
# Needs: a Docker engine, root, Debian or Ubuntu (mmdebstrap is installed when missing), a Debian mirror
# and a Python package index. The reference carries a digest of everything that goes in, so that an
# unchanged stand-in is built once per machine.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
litellm_version=${1:-1.106.2}
prisma_version=0.15.0
suite=trixie
packages=ca-certificates,python3,python3-venv,libsndfile1,tzdata,bash
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
ca_bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}

say() { printf 'stand-in base: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# LiteLLM leaves open how new its packages may be: FastAPI 0.140 no longer has what 1.96 imports. With the SDK for A2A, as
# LiteLLM's own image has it, newer releases serve agents.
requirements() {
    printf '%s\n' "litellm[proxy]==$litellm_version" "prisma==$prisma_version"
    case "$litellm_version" in
        1.83.*) ;;
        1.96.*) printf '%s\n' 'fastapi<0.140' 'starlette<1.7' ;;
        *) printf '%s\n' 'a2a-sdk>=1.1,<2' ;;
    esac
}

# LiteLLM 1.110 wants the very latest of its own helper packages, which not every index has. Tables for a database and
# what takes a licence are in them, none of which is used here.
overrides() {
    case "$litellm_version" in
        1.110.*) printf '%s\n' litellm-proxy-extras litellm-enterprise 'litellm-proxy; sys_platform == "none"' ;;
    esac
}

rootfs_key=$(printf '%s %s' "$suite" "$packages" | sha256sum | cut -c1-12)
rootfs=guarded-litellm-stand-in-rootfs:$rootfs_key
key=$({
    printf '%s\n' "$rootfs_key"
    requirements
    overrides
    cat "$here/Dockerfile" "$here/prod_entrypoint.sh"
} | sha256sum | cut -c1-12)
image=guarded-litellm-stand-in:$litellm_version-$key

if docker image inspect "$image" >/dev/null 2>&1; then
    say "$image is already here"
    printf '%s\n' "$image"
    exit 0
fi

[ "$(id -u)" = 0 ] || die "building it needs root (mmdebstrap); run make as root, or set BASE_IMAGE to an image this machine can pull"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

if ! docker image inspect "$rootfs" >/dev/null 2>&1; then
    if ! command -v mmdebstrap >/dev/null 2>&1; then
        say "installing mmdebstrap"
        "$here/../install.sh" mmdebstrap debian-archive-keyring ||
            die "set BASE_IMAGE to an image this machine can pull"
    fi
    say "making a Debian $suite root file system (about half a minute)"
    mmdebstrap --quiet --variant=minbase --include="$packages" \
        --keyring=/usr/share/keyrings/debian-archive-keyring.gpg "$suite" "$work/rootfs.tar" "$mirror" >&2
    docker import "$work/rootfs.tar" "$rootfs" >/dev/null
    rm -f "$work/rootfs.tar"
fi

say "installing litellm[proxy] $litellm_version into it (about two minutes)"
mkdir "$work/context"
requirements >"$work/context/requirements.txt"
overrides >"$work/context/overrides.txt"
cp "$here/Dockerfile" "$here/prod_entrypoint.sh" "$work/context/"
cp "$ca_bundle" "$work/context/ca-bundle.crt"
if ! docker build --tag "$image" \
    --build-arg "ROOTFS=$rootfs" \
    ${PIP_INDEX_URL:+--build-arg "PIP_INDEX_URL=$PIP_INDEX_URL"} \
    "$work/context" >"$work/log" 2>&1; then
    tail -n 40 "$work/log" >&2
    die "the build failed"
fi
say "built $image"
printf '%s\n' "$image"
