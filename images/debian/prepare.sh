#!/bin/sh
# Runs in mmdebstrap before the packages beyond the essential ones are installed; $1 is the new system.
set -eu
root=$1

# What the kernel's own script reads when it makes the initrd.
mkdir -p "$root/usr/share" "$root/etc"
cp -R "$FILES/usr/share/initramfs-tools" "$root/usr/share/"
cp -R "$FILES/etc/initramfs-tools" "$root/etc/"
