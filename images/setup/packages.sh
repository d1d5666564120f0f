#!/usr/bin/env bash
# Installs the Debian packages of packages.list that are missing, and nothing else:
# no upgrade, no recommended packages, no daemon that was not there before.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
# shellcheck source=../lib/common.sh
. "$here/../lib/common.sh"
# shellcheck source=../lib/debian.sh
. "$here/../lib/debian.sh"

readonly POLICY=/usr/sbin/policy-rc.d

wanted_packages() { grep -v '^#' "$here/packages.list"; }

missing_packages() {
    local installed
    # dpkg-query fails when it knows none of some name; what it prints is right all the same.
    # shellcheck disable=SC2016
    installed=$(wanted_packages | xargs dpkg-query --show \
        --showformat '${Package} ${db:Status-Status}\n' 2>/dev/null | sed -n 's/ installed$//p') || true
    wanted_packages | grep -vxF "$installed" || true
}

require_debian() {
    local ID='' VERSION_ID='' PRETTY_NAME='this system'
    # shellcheck disable=SC1091
    [[ -r /etc/os-release ]] && . /etc/os-release
    [[ $ID == debian && ${VERSION_ID%%.*} -ge 12 ]] && return
    fail "$PRETTY_NAME is not Debian 12 or 13" \
        "install the packages of images/setup/packages.list by its own means and use VDC_SKIP_PACKAGES=1"
}

install_packages() {
    apt install --yes --no-install-recommends "$@" && return
    # Unknown or outdated names: only now is it worth asking the archives.
    update_package_lists
    apt install --yes --no-install-recommends "$@"
}

# Packages must not start what they bring: the agent uses libvirt's library without its
# daemon. A policy that the machine has already is left alone.
hold_daemons() {
    [[ -e $POLICY ]] && return
    trap 'rm -f "$POLICY"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
}

# The policy keeps daemons from starting now; this keeps them from starting at boot.
disable_units() {
    local installed=" $* "
    [[ -d /run/systemd/system ]] || return 0
    [[ $installed != *" docker-registry "* ]] || systemctl --quiet disable docker-registry
    [[ $installed == *" libvirt-daemon-system "* ]] || return 0
    systemctl list-unit-files --no-legend --state=enabled 'libvirt*' 'virt*d.*' 'virt*d-*.socket' |
        awk '{ print $1 }' | xargs --no-run-if-empty systemctl --quiet disable
}

main() {
    local missing
    if [[ -n ${VDC_SKIP_PACKAGES:-} ]]; then
        step "packages: skipped (VDC_SKIP_PACKAGES)"
        return
    fi
    require_debian
    mapfile -t missing < <(missing_packages)
    if [[ ${#missing[@]} -eq 0 ]]; then
        step "packages: all installed"
        return
    fi
    require_root "installing packages (${missing[*]})"
    step "packages: installing ${missing[*]}"
    hold_daemons
    run_quietly packages "repair apt or install them by hand: ${missing[*]}" install_packages "${missing[@]}"
    disable_units "${missing[@]}"
}

main "$@"
