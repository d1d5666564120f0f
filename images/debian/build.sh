#!/usr/bin/env bash
# Builds the image debian: a small Debian server on a disk that boots by UEFI (with Secure Boot, too)
# and by BIOS, with cloud-init, QEMU's guest agent and an SSH server. Nothing is mounted on this machine.
#
# Output: $VDC_CACHE_DIR/images/debian/<version>/ with image.json and disk.qcow2.
# The same packages give the same bytes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
# shellcheck source=../lib/common.sh
. "$here/../lib/common.sh"
# shellcheck source=../lib/debian.sh
. "$here/../lib/debian.sh"

readonly SUITE=trixie
readonly KIND=images/debian
readonly RUNTIME=$VDC_CACHE_DIR/runtime/current
# Fixed, because they end up in the image.
export SOURCE_DATE_EPOCH=1700000000
export TZ=UTC
readonly DISK_GUID=5D6F5D4E-8D2B-4C58-9C1C-6D79631A0010
export ESP_PARTUUID=5d6f5d4e-8d2b-4c58-9c1c-6d79631a0011
export ROOT_PARTUUID=5d6f5d4e-8d2b-4c58-9c1c-6d79631a0012
readonly ROOT_UUID=5d6f5d4e-8d2b-4c58-9c1c-6d79631a0013
readonly ESP_VOLUME=5d6f5d4e
readonly DISK_MIB=2048 ESP_FROM_MIB=1 ESP_MIB=127
readonly ROOT_FROM_MIB=$((ESP_FROM_MIB + ESP_MIB))
readonly ROOT_MIB=$((DISK_MIB - ROOT_FROM_MIB - 1)) # the last one is for the second partition table
# no_timer_check: an emulated processor on a busy host may get no time just when the kernel waits for its timer, which
# it then calls broken.
export CMDLINE="root=PARTUUID=$ROOT_PARTUUID rw console=tty0 console=ttyS0 quiet no_timer_check"
export FILES=$here/files

# in_runtime FOLDER COMMAND...: a program of the runtime root that sees this folder alone, as /vm.
in_runtime() {
    local folder=$1
    shift
    bwrap --unshare-all --ro-bind "$RUNTIME/" / --dev /dev --proc /proc --tmpfs /tmp --bind "$folder" /vm \
        --setenv SOURCE_DATE_EPOCH "$SOURCE_DATE_EPOCH" --setenv LC_ALL C.UTF-8 "$@"
}

# security_source: the line of the archive of security updates, where this machine's apt knows one.
security_source() {
    # The variables in the format are apt's.
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian-Security' |
        awk -v suite="$SUITE" '!seen++ { printf "deb %s %s-security main\n", $0, suite }'
}

# install_system TAR: packages with their scripts, run in mmdebstrap's own mount namespace.
install_system() {
    local mirror security option options=()
    mirror=$(require_debian_mirror)
    security=$(security_source)
    while IFS= read -r option; do
        options+=(--aptopt="$option")
    done < <(proxy_options)
    mmdebstrap --mode=root --variant=minbase --format=tar --architectures=amd64 --keyring="$DEBIAN_KEYRING" \
        --include="$(grep -v '^#' "$here/packages.list" | paste -sd,)" \
        --aptopt='APT::Install-Recommends "false"' "${options[@]}" \
        --dpkgopt=force-unsafe-io \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --essential-hook="$here/prepare.sh" --customize-hook="$here/customize.sh" \
        "$SUITE" "$1" "deb $mirror $SUITE main" ${security:+"$security"}
}

# take_boot_files TAR FOLDER: kernel, initrd and loaders, out of the new system.
take_boot_files() {
    mkdir -p "$2"
    tar --extract --file "$1" --directory "$2" --wildcards --transform 's,.*/,,' \
        './boot/vmlinuz-*' './boot/initrd.img-*' ./usr/lib/shim/shimx64.efi.signed \
        ./usr/lib/systemd/boot/efi/systemd-bootx64.efi.signed
}

# make_esp BOOT IMAGE: the partition that the firmware reads. As `kernel-install` would have filled it, so
# that kernels which the guest installs later take the place of this one.
make_esp() {
    local boot=$1 image=$2 kernel release folder
    kernel=$(basename "$boot"/vmlinuz-*)
    release=${kernel#vmlinuz-}
    folder=debian/$release
    printf 'timeout 0\ndefault debian-*\neditor no\n' >"$boot/loader.conf"
    echo type1 >"$boot/entries.srel"
    printf 'title Debian\nversion %s\nsort-key debian\noptions %s\nlinux /%s/linux\ninitrd /%s/initrd.img-%s\n' \
        "$release" "$CMDLINE" "$folder" "$folder" "$release" >"$boot/entry.conf"
    printf 'DEFAULT newest\nLABEL newest\n  LINUX /%s/linux\n  INITRD /%s/initrd.img-%s\n  APPEND %s\n' \
        "$folder" "$folder" "$release" "$CMDLINE" >"$boot/syslinux.cfg"
    truncate --size="${ESP_MIB}M" "$image"
    mkfs.vfat --invariant -F 32 -i "$ESP_VOLUME" -n ESP -h "$((ESP_FROM_MIB * 2048))" "$image" >/dev/null
    mmd -i "$image" ::/EFI ::/EFI/BOOT ::/EFI/systemd ::/loader ::/loader/entries ::/debian "::/$folder" ::/syslinux
    # The first stage is signed by Microsoft and knows the next one by this name alone.
    mcopy -i "$image" "$boot/shimx64.efi.signed" ::/EFI/BOOT/BOOTX64.EFI
    mcopy -i "$image" "$boot/systemd-bootx64.efi.signed" ::/EFI/BOOT/grubx64.efi
    mcopy -i "$image" "$boot/systemd-bootx64.efi.signed" ::/EFI/systemd/systemd-bootx64.efi
    mcopy -i "$image" "$boot/loader.conf" "$boot/entries.srel" ::/loader/
    mcopy -i "$image" "$boot/entry.conf" "::/loader/entries/debian-$release.conf"
    mcopy -i "$image" "$boot/$kernel" "::/$folder/linux"
    mcopy -i "$image" "$boot/initrd.img-$release" "::/$folder/"
    mcopy -i "$image" "$boot/syslinux.cfg" ::/syslinux/
    syslinux --directory /syslinux --install "$image"
}

# make_root TAR IMAGE: nothing in it is left for the guest's kernel to initialise.
make_root() {
    local folder
    folder=$(dirname "$2")
    truncate --size="${ROOT_MIB}M" "$2"
    in_runtime "$folder" mke2fs -q -F -t ext4 -L root -m 1 -U "$ROOT_UUID" -d "/vm/$(basename "$1")" \
        -J size=16 -E "hash_seed=$ROOT_UUID,lazy_itable_init=0,lazy_journal_init=0,nodiscard" "/vm/$(basename "$2")"
}

# make_disk WORK IMAGE: both partitions on one disk.
make_disk() {
    local work=$1 disk=$1/disk.raw
    truncate --size="${DISK_MIB}M" "$disk"
    sfdisk --quiet "$disk" <<-LAYOUT
	label: gpt
	label-id: $DISK_GUID
	start=${ESP_FROM_MIB}MiB, size=${ESP_MIB}MiB, type=uefi, uuid=$ESP_PARTUUID, name=esp, attrs=LegacyBIOSBootable
	start=${ROOT_FROM_MIB}MiB, size=${ROOT_MIB}MiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=$ROOT_PARTUUID, name=root
	LAYOUT
    dd if=/usr/lib/syslinux/mbr/gptmbr.bin of="$disk" bs=440 count=1 conv=notrunc status=none
    dd if="$work/esp.img" of="$disk" bs=1M seek="$ESP_FROM_MIB" conv=notrunc,sparse status=none
    dd if="$work/root.img" of="$disk" bs=1M seek="$ROOT_FROM_MIB" conv=notrunc,sparse status=none
    in_runtime "$work" qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd /vm/disk.raw /vm/image/disk.qcow2
}

write_description() {
    cat >"$1/image.json" <<-'JSON'
	{
	  "name": "debian:latest",
	  "kind": "disk",
	  "arch": "x86_64",
	  "disk": "disk.qcow2",
	  "disk_format": "qcow2",
	  "firmware": "uefi",
	  "min_memory_bytes": 268435456
	}
	JSON
}

build() {
    local version=$1 work=$2
    require_commands mmdebstrap bwrap mkfs.vfat mcopy syslinux sfdisk
    [[ -d $RUNTIME ]] || fail "the runtime root is missing" "run make runtime"
    mkdir -p "$work/image"
    step "image debian: installing $SUITE"
    run_quietly debian-install "check that the Debian mirror carries $SUITE" install_system "$work/root.tar"
    step "image debian: making the disk"
    run_quietly debian-boot "fix the recipe in images/debian" take_boot_files "$work/root.tar" "$work/boot"
    run_quietly debian-esp "check mtools and syslinux (make setup)" make_esp "$work/boot" "$work/esp.img"
    run_quietly debian-root "check the runtime root (make runtime)" make_root "$work/root.tar" "$work/root.img"
    run_quietly debian-disk "check the runtime root (make runtime)" make_disk "$work"
    write_description "$work/image"
    publish "$KIND" "$version" "$work/image"
    step "image debian: in $VDC_CACHE_DIR/$KIND/$version"
}

mapfile -t files < <(find "$here/files" -type f | LC_ALL=C sort)
ensure_artefact "$KIND" "$(digest_of "$here"/{build.sh,prepare.sh,customize.sh,packages.list} "${files[@]}" \
    "$here/../lib/debian.sh")" "image debian" build
