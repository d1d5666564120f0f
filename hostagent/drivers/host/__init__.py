"""Plain inventory of this host from /proc and /sys, without libvirt."""
