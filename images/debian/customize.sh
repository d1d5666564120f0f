#!/bin/sh
# Runs in mmdebstrap when everything is installed; $1 is the new system.
set -eu
root=$1

# Each machine makes its own at its first start.
rm -f "$root"/etc/ssh/ssh_host_*_key "$root"/etc/ssh/ssh_host_*_key.pub
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
echo localhost >"$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"

printf 'PARTUUID=%s / ext4 rw,discard,errors=remount-ro 0 1\n' "$ROOT_PARTUUID" >"$root/etc/fstab"
printf 'PARTUUID=%s /boot/efi vfat umask=0077,noauto,x-systemd.automount,x-systemd.idle-timeout=60 0 0\n' \
    "$ESP_PARTUUID" >>"$root/etc/fstab"
mkdir -p "$root/boot/efi"

# Where kernel-install puts the entries of kernels that are installed later.
mkdir -p "$root/etc/kernel/install.d"
echo debian >"$root/etc/kernel/entry-token"
echo "$CMDLINE" >"$root/etc/kernel/cmdline"

cp -R "$FILES"/. "$root/"

# Nothing that wakes by itself: a server of this kind is updated by whoever runs it. Nothing at the start that serves
# hardware, file systems and consoles which a VM of this cluster does not have.
while read -r unit; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done <<'UNITS'
apt-daily.timer
apt-daily-upgrade.timer
dpkg-db-backup.timer
e2scrub_all.timer
e2scrub_reap.service
fstrim.timer
systemd-boot-update.service
systemd-boot-random-seed.service
systemd-pcrphase.service
systemd-pcrphase-sysinit.service
systemd-pstore.service
systemd-binfmt.service
systemd-network-generator.service
systemd-udev-load-credentials.service
proc-sys-fs-binfmt_misc.automount
sys-kernel-config.mount
sys-kernel-debug.mount
sys-kernel-tracing.mount
sys-fs-fuse-connections.mount
dev-hugepages.mount
UNITS
mkdir -p "$root/etc/systemd/system-generators"
for generator in cryptsetup debug gpt-auto hibernate-resume integritysetup rc-local run ssh tpm2 veritysetup; do
    ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-$generator-generator"
done
chroot "$root" systemctl --quiet enable systemd-networkd.service systemd-resolved.service serial-getty@ttyS0.service
chroot "$root" systemctl --quiet disable systemd-networkd-wait-online.service
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"

# How this machine reached the mirror, and what was left out because of the size.
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"

# The caches that a changed /usr asks for at the next start are those of this one.
for folder in etc var; do
    printf 'TIMESTAMP_NSEC=%s000000000\n' "$SOURCE_DATE_EPOCH" >"$root/$folder/.updated"
done

# What depends on when and where it was built.
rm -rf "$root"/var/log/* "$root"/var/cache/* "$root"/var/lib/apt/lists/* "$root"/tmp/* "$root"/run/*
rm -f "$root"/etc/passwd- "$root"/etc/group- "$root"/etc/shadow- "$root"/etc/gshadow- "$root"/var/lib/dpkg/*-old
mkdir -p "$root/var/log/journal" "$root/var/cache/apt/archives/partial"
