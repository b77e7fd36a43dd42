#!/bin/sh
# Makes the checkout's virtual environment. Usage: sh tests/rig/venv.sh PYTHON FOLDER
# May touch: FOLDER and the checkout's .cache/.
# Must never: install anything on the machine, or need to be root.
set -eu
python=$1
venv=$2

fail() {
    echo "setup: $1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 ||
    fail "no '$python' here; install Python 3.11 or newer, or name one: make setup PYTHON=..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed, '$python' is $("$python" -V 2>&1); name another: make setup PYTHON=..."

rm -rf "$venv"
if "$python" -c 'import ensurepip' 2>/dev/null; then
    "$python" -m venv "$venv"
else
    # Debian keeps pip's wheel out of its Python. Fetch the wheel, without installing a package.
    pip=$(find /usr/share/python-wheels -name 'pip-*.whl' 2>/dev/null | head -n 1)
    if [ -z "$pip" ]; then
        root=$("$python" -m tests.rig.debs python3-pip-whl) ||
            fail "this Python has no ensurepip; install the package python3-venv and try again"
        pip=$(find "$root/usr/share/python-wheels" -name 'pip-*.whl' | head -n 1)
    fi
    "$python" -m venv --without-pip "$venv"
    "$venv/bin/python" "$pip/pip" install --quiet --no-index --disable-pip-version-check "$pip"
fi
