#!/usr/bin/env bash
# Writes requirements/*.txt anew from pyproject.toml and requirements/*.in. The locks hold
# for every Python that is supported, carry the hashes of all files of a release, and name
# no index: where packages come from is the machine's own pip configuration.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
readonly here root

readonly OLDEST_PYTHON=3.11

compile() {
    "$tools/bin/uv" pip compile --quiet --upgrade --universal --python-version "$OLDEST_PYTHON" \
        --generate-hashes --no-emit-index-url --no-emit-find-links \
        --custom-compile-command 'make lock' "$@"
}

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools"
"$tools/bin/pip" install --quiet --disable-pip-version-check uv

cd "$root"
compile requirements/build.in -o requirements/build.txt
compile pyproject.toml -o requirements/base.txt
compile pyproject.toml --extra s3 --constraint requirements/base.txt -o requirements/s3.txt
compile pyproject.toml --extra dev --constraint requirements/s3.txt -o requirements/dev.txt
compile requirements/libvirt.in -o requirements/libvirt.txt
