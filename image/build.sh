#!/bin/sh
# Builds the guarded image.
#
# usage: image/build.sh [IMAGE [BASE_IMAGE]]
#
# The base is pulled, or taken from this machine when it is here already. Where neither works the stand-in base is
# built and used instead, with a warning that cannot be missed; STAND_IN=never refuses instead.
#
# RELEASE=1 is for images that are given to others: the base has to be named by its digest and is never a stand-in.
set -eu

cd "$(dirname "$0")/.."
image=${1:-guarded-litellm:latest}
wanted=${2:-docker.litellm.ai/berriai/litellm:main-stable}

say() { printf 'image: %s\n' "$*" >&2; }

if [ -n "${RELEASE:-}" ]; then
    if ! printf '%s\n' "$wanted" | grep -Eqx '[^@]+@sha256:[0-9a-f]{64}'; then
        say "a released image needs its base by digest: BASE_IMAGE=name@sha256:..., not $wanted (RELEASE=1)"
        exit 1
    fi
    STAND_IN=never
fi

base=$wanted
if docker pull --quiet "$wanted" >/dev/null 2>&1; then
    say "pulled the base $wanted"
elif docker image inspect "$wanted" >/dev/null 2>&1; then
    say "the base $wanted could not be pulled; using the one on this machine"
elif [ "${STAND_IN:-}" = never ]; then
    say "the base $wanted could not be pulled (STAND_IN=never)"
    exit 1
else
    cat >&2 <<END
*********************************************************************************************
* The base image could not be pulled:
*   $wanted
* Building on a STAND-IN base instead (Debian and LiteLLM from the package index).
* It behaves the same for trying and testing. Do not ship what is built on it.
*********************************************************************************************
END
    base=$(image/base/build.sh)
fi

# The digest in the reference, else a registry's where there is one; an image that only exists here has its own id.
case "$base" in
    *@sha256:*) digest=${base##*@} ;;
    *) digest=$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$base" |
        sed -n 's/.*@//p' | head -n 1) ;;
esac
[ -n "$digest" ] || digest=$(docker image inspect --format '{{.Id}}' "$base")
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
created=$(git log -1 --format=%cI 2>/dev/null || date -u +%Y-%m-%dT%H:%M:%SZ)

source=$(git config --get remote.origin.url 2>/dev/null | sed 's#//[^@/]*@#//#' || true)

# With GNU tar the files go in with fixed modes and times: a strict umask cannot make the guard unreadable for other
# users, and the same commit gives the same layers.
context() {
    tar --create --exclude=__pycache__ --sort=name --owner=0 --group=0 --mode='u=rwX,go=rX' --mtime="$created" \
        Dockerfile .dockerignore entrypoint.sh hook image/launcher tests/mock_akto
}
if tar --version 2>/dev/null | grep -q 'GNU tar'; then source_of_build=-; else source_of_build=.; fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT INT TERM
if ! { [ "$source_of_build" = . ] || context; } |
    docker build --tag "$image" \
        --build-arg "BASE_IMAGE=$base" \
        --build-arg "VERSION=$version" \
        --build-arg "REVISION=$revision" \
        --build-arg "CREATED=$created" \
        --build-arg "SOURCE=${source:-unknown}" \
        --build-arg "BASE_NAME=$base" \
        --build-arg "BASE_DIGEST=$digest" \
        "$source_of_build" >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
fi
say "built $image on $base"
