#!/usr/bin/env bash
# Builds the runtime root: a read-only Debian system that holds QEMU and its
# companions and is run through bwrap. Packages are only unpacked: nothing is
# executed in the root and no package script runs.
#
# Output: $VDC_CACHE_DIR/runtime/<version>/, manifest.json in it says what is inside.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
# shellcheck source=../lib/common.sh
. "$here/../lib/common.sh"
# shellcheck source=../lib/debian.sh
. "$here/../lib/debian.sh"

# QEMU comes from backports, what backports does not have from the release.
readonly SUITE=trixie
readonly BACKPORTS=$SUITE-backports
# Older ones cannot hold a pair in lockstep.
readonly MIN_QEMU_MAJOR=11
# vm and images are where the sandbox binds a VM's own folder and its base images.
readonly MOUNT_POINTS=(proc sys run tmp var/tmp dev vm images)
readonly PROGRAMS=(qemu-system-x86_64 qemu-img etcd etcdctl dnsmasq swtpm busybox)

# make_runnable ROOT: what package scripts would have made.
make_runnable() {
    local root=$1 dir
    for dir in bin sbin lib lib64; do
        [[ -e $root/$dir ]] || ln -s "usr/$dir" "$root/$dir"
    done
    # Names and addresses of the machine it was built on have no business in it.
    rm -rf "${root:?}"/{dev,var/cache,var/lib/apt} "$root"/etc/{apt,hostname,resolv.conf}
    for dir in "${MOUNT_POINTS[@]}"; do
        mkdir -p "$root/$dir"
    done
    ln -s ../run "$root/var/run"
    # dnsmasq and swtpm_setup look their users up even when told to stay root.
    cat >"$root/etc/passwd" <<-'PASSWD'
	root:x:0:0:root:/:/usr/sbin/nologin
	tss:x:100:100:TPM:/:/usr/sbin/nologin
	nobody:x:65534:65534:nobody:/:/usr/sbin/nologin
	PASSWD
    printf 'root:x:0:\ntss:x:100:\nnogroup:x:65534:\n' >"$root/etc/group"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
    printf 'passwd: files\ngroup: files\nhosts: files\n' >"$root/etc/nsswitch.conf"
}

in_root() {
    local root=$1
    shift
    bwrap --unshare-net --ro-bind "$root" / --dev /dev --proc /proc --tmpfs /tmp "$@"
}

qemu_version() {
    in_root "$1" qemu-system-x86_64 --version | sed -n 's/^QEMU emulator version \([0-9.]*\).*/\1/p'
}

check_programs() {
    local root=$1 program flag output
    for program in "${PROGRAMS[@]}"; do
        case $program in
            etcdctl) flag=version ;;
            busybox) flag=--help ;;
            *) flag=--version ;;
        esac
        output=$(in_root "$root" "$program" "$flag" 2>&1) ||
            fail "$program does not run in the runtime root: ${output##*$'\n'}" \
                "check that bwrap works: bwrap --ro-bind / / true"
    done
}

check_qemu() {
    local version=$1
    [[ ${version%%.*} =~ ^[0-9]+$ && ${version%%.*} -ge $MIN_QEMU_MAJOR ]] ||
        fail "$BACKPORTS has QEMU ${version:-of an unknown version}, lockstep needs $MIN_QEMU_MAJOR or newer" \
            "use a mirror that carries a newer one"
}

write_manifest() {
    local root=$1 packages=$2 version=$3 qemu=$4
    python3 - "$root/manifest.json" "$packages" "$version" "$SUITE" "$qemu" <<-'PYTHON'
	import json, sys

	target, packages, version, suite, qemu = sys.argv[1:]
	with open(packages, encoding="utf-8") as lines:
	    installed = dict(sorted(line.rstrip("\n").split("\t") for line in lines))
	record = {"version": version, "suite": suite, "qemu": qemu, "packages": installed}
	with open(target, "w", encoding="utf-8") as out:
	    json.dump(record, out, indent=2)
	    out.write("\n")
	PYTHON
}

build() {
    local version=$1 work=$2 qemu
    require_commands mmdebstrap bwrap python3
    step "runtime root: unpacking $SUITE with QEMU from $BACKPORTS"
    run_quietly runtime-unpack "check that the Debian mirror carries $SUITE and $BACKPORTS" \
        unpack_debian "$SUITE $BACKPORTS" "$(grep -v '^#' "$here/packages.list" | paste -sd,)" \
        "$work/root" "$work/packages"
    make_runnable "$work/root"
    check_programs "$work/root"
    qemu=$(qemu_version "$work/root")
    check_qemu "$qemu"
    write_manifest "$work/root" "$work/packages" "$version" "$qemu"
    chmod 755 "$work/root"
    publish runtime "$version" "$work/root"
    step "runtime root: QEMU $qemu in $VDC_CACHE_DIR/runtime/$version"
}

ensure_artefact runtime "$(digest_of "$here"/{build.sh,packages.list} "$here/../lib/debian.sh")" \
    "runtime root" build
