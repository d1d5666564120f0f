"""VMs of other systems: their descriptions into manifests, and back.

Reading and writing are pure (`domain`, `incoming`, `outgoing` and what they use). `libvirt` alone asks a libvirt,
by a child process, and never changes anything there; `contents` alone reads disks.
"""
