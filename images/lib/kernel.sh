# shellcheck shell=bash
# Guests that QEMU boots with a kernel and an initrd of ours: Debian's cloud kernel, some of
# its drivers, and a root folder as a cpio archive. The kernel is only unpacked, never
# installed. Needs common.sh and debian.sh.

# Of the two kernels that Debian supports this one unpacks itself in a third of the time
# under emulation (LZ4, the newer one is Zstandard): a second less to boot.
readonly KERNEL_SUITE=bookworm
readonly KERNEL_PACKAGE=linux-image-cloud-amd64
# Fixed, because it ends up in what is made.
readonly EPOCH=1700000000

# kernel_options: what every guest's kernel is told. no_timer_check: an emulated processor on a
# busy host may get no time just when the kernel waits for its timer, which it then calls broken.
kernel_options() { echo 'console=ttyS0 quiet panic=0 no_timer_check'; }

# unpack_kernel WORK [PACKAGES]: the kernel, and packages beside it, into WORK/system.
unpack_kernel() {
    unpack_debian "$KERNEL_SUITE" "$KERNEL_PACKAGE${2:+,$2}" "$1/system" "$1/packages"
}

# add_modules SYSTEM LIST ROOT: copy the listed drivers and what they depend on, uncompressed,
# and write the order in which to load them.
add_modules() {
    local system=$1 list=$2 target=$3/lib/modules release file name
    release=$(basename "$system"/lib/modules/*)
    mkdir -p "$target"
    depmod --basedir "$system" "$release"
    grep -v '^#' "$list" |
        xargs modprobe --dirname "$system" --set-version "$release" --show-depends --ignore-install --all |
        sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' |
        while read -r file; do
            name=$(basename "${file%.xz}")
            if [[ $file == *.xz ]]; then xz -dc "$file" >"$target/$name"; else cp "$file" "$target/$name"; fi
            echo "$name"
        done >"$target/order"
    [[ -s $target/order ]] || fail "no driver found for kernel $release" "check modules.list"
}

# pack_root FOLDER INITRD: sorted names, one timestamp, no owner: nothing of the machine is left in it.
pack_root() {
    find "$1" -exec touch --no-dereference --date="@$EPOCH" {} +
    (cd "$1" && find . -mindepth 1 -print0 | LC_ALL=C sort -z |
        cpio --null --create --format=newc --owner=0:0 --reproducible --quiet) >"$2"
}
