"""The sandbox of QEMU and of the tools that read a VM's disks. Pure.

Beside the system (vdc/confinement/sandbox.py) they see the guest's own folder and, read-only, the image store. They
have no network: taps and connections come as descriptors.
"""

from __future__ import annotations

from pathlib import Path

from hostagent.drivers.qemu.spec import IMAGE_DIR, VM_DIR
from vdc.confinement import sandbox
from vdc.confinement.sandbox import Bind, User


def sandboxed(
    argv: list[str],
    user: User,
    *,
    runtime_root: Path | None,
    vm_dir: Path,
    image_dir: Path,
    status_fd: int | None = None,
    devices: tuple[str, ...] = (),
    has_network: bool = False,
) -> list[str]:
    """`argv` as `user` over `vm_dir`, which is to belong to that user; see the general `sandboxed`."""
    return sandbox.sandboxed(
        argv, user, runtime_root=runtime_root, devices=devices, has_network=has_network, status_fd=status_fd,
        binds=(Bind(vm_dir, VM_DIR, is_writable=True), Bind(image_dir, IMAGE_DIR)),
    )  # fmt: skip
