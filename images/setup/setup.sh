#!/usr/bin/env bash
# Everything that `make setup` does, in order; each step says whether it had work to do.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here

"$here/packages.sh"
"$here/venv.sh"
"$here/../runtime/build.sh"
"$here/../mini/build.sh"
"$here/../container/build.sh"
