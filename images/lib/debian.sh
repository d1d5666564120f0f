# shellcheck shell=bash
# Where Debian comes from on this machine. The mirror is asked of apt itself, so
# that every form of configuration counts (deb822, one line, options, includes),
# and no address is written into the project.

readonly DEBIAN_KEYRING="${DEBIAN_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}"

readonly APT_LOCK_TIMEOUT_S=600
readonly UPDATE_TRIES=20
readonly UPDATE_PAUSE_S=3

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get --quiet -o DPkg::Lock::Timeout="$APT_LOCK_TIMEOUT_S" "$@"
}

# update_package_lists: apt waits for dpkg's lock by itself, but not for that of its
# lists. A source that cannot be fetched is no reason to stop: what counts is whether the
# wanted packages are known afterwards.
update_package_lists() {
    local try output
    for ((try = 0; try < UPDATE_TRIES; try++)); do
        output=$(apt update 2>&1) && break
        printf '%s\n' "$output"
        [[ $output == *"Could not get lock"* ]] || break
        sleep "$UPDATE_PAUSE_S"
    done
}

# debian_mirror: the address of the archive that serves this release of Debian
# itself. Origin and label are the archive's own signed words: they tell it from
# security (label Debian-Security), backports (origin Debian Backports) and
# third-party archives that name the same suite.
debian_mirror() {
    # The variables in the format are apt's.
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(REPO_URI)' \
        'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
        awk '/^(https?|file|copy|mirror(\+[a-z]+)?):/ && !seen++'
}

# require_debian_mirror: the same, or one line about what is wrong.
require_debian_mirror() {
    local mirror
    mirror=$(debian_mirror)
    if [[ -z $mirror ]]; then
        # A container image comes without lists, and without lists apt knows no origin.
        update_package_lists >&2
        mirror=$(debian_mirror)
    fi
    [[ -n $mirror ]] || fail "apt knows no Debian archive" \
        "add one to /etc/apt/sources.list.d and run apt-get update"
    printf '%s\n' "$mirror"
}

# proxy_options: the proxies of this machine's apt, one a line, for an apt that
# does not read this machine's configuration.
proxy_options() {
    apt-config dump --format '%f "%v";%n' Acquire | awk 'tolower($0) ~ /^acquire::https?::proxy/'
}

# unpack_debian SUITES PACKAGES ROOT RECORD: unpack packages (comma-separated, with
# what they depend on) from the suites (the last one is preferred) into ROOT, and
# write "name<tab>version" of each into RECORD. Runs no package script.
unpack_debian() {
    local suites=$1 packages=$2 root=$3 record=$4 mirror suite option
    local options=() sources=()
    mirror=$(require_debian_mirror)
    for suite in $suites; do
        sources+=("deb $mirror $suite main")
    done
    # mmdebstrap runs an apt of its own.
    while IFS= read -r option; do
        options+=(--aptopt="$option")
    done < <(proxy_options)
    # The hook runs while the archives are still there: unpacking alone leaves no
    # record of versions behind. Its text is for the shell that mmdebstrap starts.
    # shellcheck disable=SC2016
    local list_packages='for deb in "$1"/var/cache/apt/archives/*.deb; do
        dpkg-deb --show --showformat "\${Package}\t\${Version}\n" "$deb"
    done >'
    mmdebstrap --mode=root --variant=extract --format=directory --architectures=amd64 \
        --keyring="$DEBIAN_KEYRING" --include="$packages" \
        --aptopt="APT::Default-Release \"${suites##* }\"" "${options[@]}" \
        --extract-hook="$list_packages '$record'" \
        "${suites%% *}" "$root" "${sources[@]}"
}
