#!/usr/bin/env bash
# The static tools side by side, then the unit tests. A tool that is content takes one
# line; of one that is not, everything it said is shown.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
readonly here root
# shellcheck source=../lib/common.sh
. "$here/../lib/common.sh"
# shellcheck source=../lib/go.sh
. "$here/../lib/go.sh"

readonly BIN=$root/.venv/bin

run_shellcheck() {
    # By first line, not by name: the guest's scripts have no ending.
    # What tests compare with is no script, whatever a line of it looks like.
    grep -rlIE --exclude-dir=.venv --exclude-dir=.git --exclude-dir='.*_cache' --exclude-dir=golden \
        -e '^#!.*[/ ](ba)?sh$' -e '^# shellcheck shell=' . | xargs shellcheck
}

# Format, vet and tests of the container guests' init.
run_go() {
    local unformatted
    if ! command -v go >/dev/null; then
        echo "left out: no Go on this machine"
        return
    fi
    unformatted=$(gofmt -l images)
    [[ -z $unformatted ]] || { echo "not formatted: $unformatted" && return 1; }
    in_go images/container/init vet ./... && in_go images/container/init test ./...
}

# The slowest first: they share the processors.
readonly TOOLS=(
    "mypy|$BIN/mypy"
    "go|run_go"
    "shellcheck|run_shellcheck"
    "yamllint|$BIN/yamllint --strict -c $here/yamllint.yaml ."
    "import-linter|$BIN/lint-imports"
    "ruff check|$BIN/ruff check --quiet --output-format concise ."
    "ruff format|$BIN/ruff format --check --output-format concise ."
)

start_tools() {
    local tool command
    for tool in "${TOOLS[@]}"; do
        read -ra command <<<"${tool#*|}"
        "${command[@]}" >"$logs/${tool%%|*}" 2>&1 &
        processes+=($!)
    done
}

collect_tools() {
    local index name
    for index in "${!TOOLS[@]}"; do
        name=${TOOLS[index]%%|*}
        if wait "${processes[index]}"; then
            step "$name: ok"
        else
            step "$name: FAILED"
            sed 's/^/    /' "$logs/$name"
            failed+=("$name")
        fi
    done
}

cd "$root"
[[ -x $BIN/pytest ]] || fail "there is no .venv yet" "run make setup"
require_commands shellcheck
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
processes=()
failed=()
start_tools
collect_tools
step "unit tests"
"$BIN/pytest" tests/unit -n auto || failed+=("unit tests")
[[ ${#failed[@]} -eq 0 ]] || fail "$(printf '%s, ' "${failed[@]}" | sed 's/, $//') did not pass" "see above"
