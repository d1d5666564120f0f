# shellcheck shell=bash
# Helpers that every recipe and set-up script shares: messages, the artefact
# cache, and publishing an artefact so that readers never see half of one.
#
# An artefact lives at $VDC_CACHE_DIR/<kind>/<version>/, <version> being a digest
# of everything it is made from; `current` beside it points at the wanted one.

readonly VDC_CACHE_DIR="${VDC_CACHE_DIR:-/var/cache/vdc}"
readonly LOCK_WAIT_S=1800

# Artefacts are the same whoever makes them, and everybody may read them.
umask 022

step() { printf '==> %s\n' "$*"; }

# fail WHAT HINT: a user gets one line with what to do, never a trace.
fail() {
    printf 'error: %s; %s\n' "$1" "$2" >&2
    exit 1
}

require_root() {
    [[ $(id -u) -eq 0 ]] || fail "$1 needs root" "run it again with sudo"
}

require_commands() {
    local command
    for command in "$@"; do
        command -v "$command" >/dev/null || fail "$command is missing" "run make setup"
    done
}

# digest_of FILE...: a short digest of names and contents, independent of where
# the checkout is.
digest_of() {
    local file
    for file in "$@"; do
        printf '%s\n' "${file##*/}"
        cat -- "$file"
    done | sha256sum | cut -c1-12
}

# log_folder: beside the artefacts, or where one may write without being root.
log_folder() {
    local folder=$VDC_CACHE_DIR/log
    mkdir -p "$folder" 2>/dev/null && [[ -w $folder ]] || folder=${TMPDIR:-/tmp}/vdc-log-$(id -u)
    mkdir -p "$folder"
    echo "$folder"
}

# run_quietly NAME HINT COMMAND...: the output of a long command is noise while it
# works and the only clue when it does not: keep it, show its last complaint.
run_quietly() {
    local name=$1 hint=$2 log status complaint
    shift 2
    log=$(log_folder)/$name.log
    # errexit is off inside anything that is tested with || or if; hence this way.
    set +e
    (
        set -e
        "$@"
    ) >"$log" 2>&1
    status=$?
    set -e
    [[ $status -eq 0 ]] && return
    complaint=$(grep -E '^(E:|error|ERROR)' "$log" | tail -n 1) || true  # it may say nothing of the kind
    fail "$name failed: ${complaint:-$(tail -n 1 "$log")}" "$hint (its output is in $log)"
}

# lock_kind KIND: two builds of one artefact at a time would only waste work;
# the lock is held until the calling script ends.
lock_kind() {
    mkdir -p "$VDC_CACHE_DIR/$1"
    exec {artefact_lock}>"$VDC_CACHE_DIR/$1/.lock"
    flock --wait "$LOCK_WAIT_S" "$artefact_lock" ||
        fail "another build of $1 does not end" "end it and try again"
}

# is_current KIND VERSION: already published and pointed at?
is_current() {
    [[ $(readlink "$VDC_CACHE_DIR/$1/current" 2>/dev/null) == "$2" && -d $VDC_CACHE_DIR/$1/$2 ]]
}

# point_current KIND VERSION: replace the link in one rename.
point_current() {
    ln -sfn "$2" "$VDC_CACHE_DIR/$1/.current.$$"
    mv -T "$VDC_CACHE_DIR/$1/.current.$$" "$VDC_CACHE_DIR/$1/current"
}

# publish KIND VERSION BUILT: move a finished folder of the same file system to
# its place and point `current` at it. Older versions stay: guests may run from them.
publish() {
    rm -rf "${VDC_CACHE_DIR:?}/$1/$2"
    mv -T "$3" "$VDC_CACHE_DIR/$1/$2"
    point_current "$1" "$2"
}

# ensure_artefact KIND VERSION TITLE BUILD: make the wanted version current; only if it
# does not exist run BUILD VERSION WORK_FOLDER, which ends with publish.
ensure_artefact() {
    local kind=$1 version=$2 title=$3 build=$4 work
    if is_current "$kind" "$version"; then
        step "$title: up to date ($version)"
        return
    fi
    require_root "building the $title"
    lock_kind "$kind"
    if [[ -d $VDC_CACHE_DIR/$kind/$version ]]; then
        point_current "$kind" "$version"
        step "$title: built before ($version)"
        return
    fi
    rm -rf "${VDC_CACHE_DIR:?}/$kind"/.build.*
    work=$(mktemp -d "$VDC_CACHE_DIR/$kind/.build.XXXXXX")
    # shellcheck disable=SC2064  # the folder's name is wanted as it is now
    trap "rm -rf '$work'" EXIT
    "$build" "$version" "$work"
}
