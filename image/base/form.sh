#!/bin/sh
# Builds another form of the stand-in base, or finds it built already, and prints its reference on stdout.
#
# usage: image/base/form.sh nonroot|unified [LITELLM_VERSION]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
form=$1
base=$("$here/build.sh" "${2:-1.106.2}")
image=$base-$form
if ! log=$(docker build --tag "$image" --build-arg "BASE=$base" "$here/$form" 2>&1); then
    printf '%s\n' "$log" >&2
    exit 1
fi
printf '%s\n' "$image"
