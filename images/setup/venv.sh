#!/usr/bin/env bash
# Makes .venv: the locked Python packages (every one checked against its hash) and this
# checkout, installed so that edits take effect. An existing .venv is brought up to date
# in place.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
readonly here root
# shellcheck source=../lib/common.sh
. "$here/../lib/common.sh"

readonly VENV=$root/.venv
# Written last, so that an interrupted run is taken up again.
readonly STAMP=$VENV/.installed
readonly MIN_PYTHON=3.11

is_new_enough() {
    "$1" -c "import sys; sys.exit(sys.version_info < (${MIN_PYTHON/./, }))" 2>/dev/null
}

find_python() {
    local python
    for python in python3 /usr/bin/python3; do
        if is_new_enough "$python"; then
            command -v "$python"
            return
        fi
    done
    fail "no Python $MIN_PYTHON or newer" "install python3 (Debian 12 and 13 have it)"
}

# A venv knows its own place; after a move its programs start nothing.
is_usable() { is_new_enough "$VENV/bin/python" && grep -qsF "$VENV" "$VENV/bin/activate"; }

fingerprint() {
    is_usable && echo "$VENV"
    "$VENV/bin/python" --version
    digest_of "$root"/requirements/*.txt "$root/pyproject.toml" "$here/venv.sh"
}

pip_install() { "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input "$@"; }

install_locked() {
    cd "$root"
    pip_install --require-hashes -r requirements/build.txt
    pip_install --require-hashes -r requirements/dev.txt
    # libvirt-python exists as source only; it is compiled against this machine's libvirt
    # with the build tools pinned above.
    pip_install --require-hashes --no-deps --no-build-isolation -r requirements/libvirt.txt
    pip_install --no-deps --no-build-isolation --editable .
}

main() {
    local python
    if [[ -r $STAMP && $(<"$STAMP") == "$(fingerprint 2>/dev/null)" ]]; then
        step "Python environment: up to date"
        return
    fi
    python=$(find_python)
    step "Python environment: installing locked packages into .venv"
    if ! is_usable; then
        rm -rf "$VENV"
        run_quietly venv "install python3-venv" "$python" -m venv "$VENV"
    fi
    rm -f "$STAMP"
    run_quietly pip "check that pip reaches its package index" install_locked
    fingerprint >"$STAMP"
}

main "$@"
