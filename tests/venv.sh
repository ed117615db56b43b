#!/bin/sh
# Makes .venv with what the tests need, once for each state of tests/requirements.txt.
set -eu

cd "$(dirname "$0")/.."
stamp=.venv/requirements.sha256
wanted=$(sha256sum <tests/requirements.txt)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

say() { printf 'tests: %s\n' "$*" >&2; }

python=${PYTHON:-python3}
usable() { "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

if ! usable && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "installing Python's venv module"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3 python3-venv; } >&2
fi
if ! usable; then
    say "Python 3.11 or newer with its venv module is needed; set PYTHON to one"
    exit 1
fi
say "installing the test tools into .venv"
"$python" -m venv --clear .venv
.venv/bin/pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
printf '%s\n' "$wanted" >"$stamp"
