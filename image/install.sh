#!/bin/sh
# Installs Debian packages, as root on Debian or Ubuntu. Quiet, unless it fails.
#
# usage: image/install.sh PACKAGE...
set -eu

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "install: $* must be installed by hand; only root on Debian or Ubuntu has it done" >&2
    exit 1
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT INT TERM
export DEBIAN_FRONTEND=noninteractive
# Two tests may want something at once. -o: a service that apt starts does not inherit the lock.
if ! flock -o /run/guarded-litellm-install.lock \
    sh -c 'apt-get update && apt-get install --yes "$@"' install "$@" >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    echo "install: $* could not be installed" >&2
    exit 1
fi
