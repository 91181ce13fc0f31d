#!/usr/bin/env bash
# Make .venv with everything that `make study` and `make test` need. `make setup` calls this when
# .venv/ready is missing or older than what it depends on; PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=.venv
UNFINISHED=$VENV/unfinished
CPU_INDEX=https://download.pytorch.org/whl/cpu

fail() {
    printf '%s\n' "make setup: $1" "${@:2}" >&2
    exit 1
}

# As the package itself decides, so that a machine that studies on its GPU has a torch for it.
has_nvidia() {
    compgen -G '/dev/nvidia[0-9]*' >/dev/null || [ -e /usr/lib/wsl/lib/libcuda.so.1 ]
}

pip() {
    "$VENV/bin/python" -m pip --disable-pip-version-check --no-input "$@"
}

command -v "$PYTHON" >/dev/null || fail "$PYTHON is not here. Install Python 3.11 or newer:" \
    "  sudo apt-get install python3 python3-venv"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail \
    "Python 3.11 or newer is needed, and $PYTHON is $("$PYTHON" -V 2>&1)." \
    "Name another one: make setup PYTHON=python3.12"
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || fail \
    "$PYTHON lacks its venv module. On Debian and Ubuntu:" \
    "  sudo apt-get install python3-venv"

# A set-up that was killed can leave half a package behind, which pip takes for a whole one.
if [ -e "$UNFINISHED" ]; then
    echo "The last set-up did not finish: starting again."
    rm -rf "$VENV"
fi
mkdir -p "$VENV"
touch "$UNFINISHED"
rm -f "$VENV/ready"
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"

export PIP_CONSTRAINT=$PWD/constraints.txt
pip install --quiet --upgrade pip setuptools

# PyPI's torch for Linux brings gigabytes of CUDA along, so a machine without an NVIDIA device takes
# PyTorch's CPU build where its index answers. Only torch itself: the rest comes from PyPI, pinned.
torch=$(grep '^torch==' constraints.txt)
if has_nvidia; then
    echo "NVIDIA device found: $torch with CUDA."
elif pip --timeout 5 --retries 0 index versions torch --index-url "$CPU_INDEX" >/dev/null 2>&1 &&
    pip --retries 1 install --no-deps --index-url "$CPU_INDEX" "$torch"; then
    echo "No NVIDIA device found: CPU build of $torch."
else
    echo "No NVIDIA device found, and $CPU_INDEX does not answer: $torch from the default index."
fi

pip install --no-build-isolation --editable . --group test --group checking

rm "$UNFINISHED"
touch "$VENV/ready"
