#!/bin/sh
# Makes .venv with what the tests need, once for each state of tests/requirements.txt.
set -eu

cd "$(dirname "$0")/.."
stamp=.venv/requirements.cksum
wanted=$(cksum <tests/requirements.txt)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

say() { printf 'tests: %s\n' "$*" >&2; }

python=${PYTHON:-python3}
usable() { "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

usable || image/install.sh python3 python3-venv || true
if ! usable; then
    say "Python 3.11 or newer with its venv module is needed; set PYTHON to one"
    exit 1
fi
say "installing the test tools into .venv"
"$python" -m venv --clear .venv
.venv/bin/pip install --quiet --quiet --disable-pip-version-check --requirement tests/requirements.txt
printf '%s\n' "$wanted" >"$stamp"
