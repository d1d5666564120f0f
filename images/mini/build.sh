#!/usr/bin/env bash
# Builds the demo image mycelium/mini: Debian's cloud kernel, a busybox initrd with
# mini-services, and a small data disk. The kernel is only unpacked, never installed.
#
# Output: $VDC_CACHE_DIR/images/mini/<version>/ with image.json, vmlinuz, initrd, disk.qcow2.
# The same inputs give the same bytes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
# shellcheck source=../lib/common.sh
. "$here/../lib/common.sh"
# shellcheck source=../lib/debian.sh
. "$here/../lib/debian.sh"
# shellcheck source=../lib/kernel.sh
. "$here/../lib/kernel.sh"

readonly KIND=images/mini
readonly DISK_SIZE=64M
# Fixed, because it ends up in the disk image.
readonly DISK_UUID=5d6f5d4e-8d2b-4c58-9c1c-6d79631a0001
readonly RUNTIME=$VDC_CACHE_DIR/runtime/current

compile_services() {
    gcc -std=c17 -static -O2 -Wall -Wextra -Werror -s -Wl,--build-id=none \
        -o "$1" "$here"/src/*.c
}

populate_root() {
    local system=$1 root=$2 busybox=$1/bin/busybox applets applet
    # The next release keeps it elsewhere.
    [[ -x $busybox ]] || busybox=$system/usr/bin/busybox
    mkdir -p "$root"/{bin,data,dev,etc,proc,run,sys,tmp}
    install -m 755 "$busybox" "$root/bin/busybox"
    applets=$("$busybox" --list)
    for applet in $applets; do
        [[ $applet == busybox ]] || ln -s busybox "$root/bin/$applet"
    done
    install -m 755 "$here/init" "$root/init"
    install -m 755 "$here/udhcpc" "$root/etc/udhcpc"
    install -m 644 "$here/profile" "$root/etc/profile"
    echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
    compile_services "$root/bin/mini-services"
    add_modules "$system" "$here/modules.list" "$root"
}

make_disk() {
    local folder=$1
    truncate --size="$DISK_SIZE" "$folder/disk.raw"
    E2FSPROGS_FAKE_TIME=$EPOCH mke2fs -q -F -t ext4 -L data -m 0 -U "$DISK_UUID" \
        -E "hash_seed=$DISK_UUID,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0" "$folder/disk.raw"
    bwrap --ro-bind "$RUNTIME/" / --dev /dev --proc /proc --bind "$folder" /vm \
        qemu-img convert -f raw -O qcow2 /vm/disk.raw /vm/disk.qcow2
    rm "$folder/disk.raw"
}

write_description() {
    cat >"$1/image.json" <<-JSON
	{
	  "name": "mycelium/mini:latest",
	  "kind": "kernel",
	  "arch": "x86_64",
	  "kernel": "vmlinuz",
	  "initrd": "initrd",
	  "cmdline": "console=tty0 $(kernel_options)",
	  "disk": "disk.qcow2",
	  "disk_format": "qcow2",
	  "min_memory_bytes": 134217728
	}
	JSON
}

build() {
    local version=$1 work=$2 image=$2/image
    require_commands mmdebstrap bwrap gcc cpio mke2fs depmod xz
    [[ -d $RUNTIME ]] || fail "the runtime root is missing" "run make runtime"
    step "demo image: building mycelium/mini"
    mkdir -p "$image"
    run_quietly mini-unpack "check that the Debian mirror carries $KERNEL_SUITE" \
        unpack_kernel "$work" busybox-static
    run_quietly mini-initrd "fix the recipe in images/mini" populate_root "$work/system" "$work/root"
    pack_root "$work/root" "$image/initrd"
    cp "$work"/system/boot/vmlinuz-* "$image/vmlinuz"
    run_quietly mini-disk "check the runtime root (make runtime)" make_disk "$image"
    write_description "$image"
    publish "$KIND" "$version" "$image"
    step "demo image: mycelium/mini in $VDC_CACHE_DIR/$KIND/$version"
}

ensure_artefact "$KIND" \
    "$(digest_of "$here"/{build.sh,init,udhcpc,profile,modules.list} "$here"/src/* "$here"/../lib/{debian,kernel}.sh)" \
    "demo image" build
