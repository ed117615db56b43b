#!/bin/sh
# Makes sure that a Docker engine answers: starts the installed one, or installs one on Debian and Ubuntu as root.
# Prints nothing when the engine is there already.
set -eu

say() { printf 'docker engine: %s\n' "$*" >&2; }
answers() { docker info >/dev/null 2>&1; }

answers && exit 0

if [ "$(id -u)" != 0 ]; then
    say "none answers; start Docker, or run this as root on Debian or Ubuntu to have it installed"
    exit 1
fi
if ! command -v dockerd >/dev/null 2>&1; then
    if ! command -v apt-get >/dev/null 2>&1; then
        say "none is installed and this is neither Debian nor Ubuntu; see https://docs.docker.com/engine/install/"
        exit 1
    fi
    say "installing Debian's docker.io"
    "$(dirname "$0")/install.sh" docker.io iptables
fi
answers && exit 0

log=/var/log/guarded-litellm-dockerd.log
say "starting dockerd (log: $log)"
# An engine that was killed leaves pid files behind; when their numbers have gone to other processes meanwhile, a new
# engine takes those for the old one.
forget_unless_running() {
    [ -f "$1" ] && [ "$(cat "/proc/$(cat "$1")/comm" 2>/dev/null)" != "$2" ] && rm -f "$1"
    return 0
}
forget_unless_running /var/run/docker.pid dockerd
forget_unless_running /var/run/docker/containerd/containerd.pid containerd
nohup dockerd >"$log" 2>&1 </dev/null &
waited=0
until answers; do
    waited=$((waited + 1))
    if [ "$waited" -gt 60 ]; then
        say "dockerd did not answer within a minute; its last words:"
        tail -n 5 "$log" >&2
        exit 1
    fi
    sleep 1
done
