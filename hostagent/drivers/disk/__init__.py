"""Disk files of the VMs on this host: qemu-img in the sandbox, and which files make up a copy."""
