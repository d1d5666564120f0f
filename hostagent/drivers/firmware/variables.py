"""A VM's UEFI variables: one raw file in its folder, made from a template before the first start.

Dangers: the file belongs to QEMU while the VM runs; replace it only before a start. What the guest writes
while it is protected does not reach the secondary's file (lockstep.md, limits): the primary's file has to be
carried over with `replace_vars` before the secondary's host starts the guest cold. Blocking: each write
waits for the disk, call from a worker thread.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from hostagent.drivers.process.files import sync_directory
from hostagent.drivers.process.foreign import size_of_foreign
from hostagent.drivers.process.users import owner_of
from vdc.model.errors import ConflictError, NotFoundError

VARS_FILE = "vars.fd"


def prepare_vars(template: Path, vm_dir: Path) -> Path:
    """Make the VM's variables from `template` unless it has some already; returns their file.

    Raises NotFoundError without the template, ConflictError where the VM's file does not have the template's
    size: QEMU would not start, and overwriting would lose the guest's boot entries and keys.
    """
    target = vm_dir / VARS_FILE
    try:
        content = template.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{template} does not exist", code="firmware-missing", hint="run make setup"
        ) from error
    if _size_of(target) is None:
        _write(target, content)
    _check_size(target, len(content))
    return target


def replace_vars(vm_dir: Path, content: bytes) -> None:
    """Put another host's copy in place of this VM's variables; the VM must not run here.

    Raises ConflictError where the sizes differ, and leaves the old file as it was.
    """
    target = vm_dir / VARS_FILE
    if _size_of(target) is not None:
        _check_size(target, len(content))
    _write(target, content)


def _size_of(target: Path) -> int | None:
    """None where there are none. The folder is its guest's, who may have put anything there."""
    try:
        return size_of_foreign(target)
    except PermissionError as error:
        raise ConflictError(f"{target} is not a file", code="firmware-vars-mismatch") from error


def _check_size(target: Path, expected_bytes: int) -> None:
    actual = _size_of(target)
    if actual != expected_bytes:
        raise ConflictError(
            f"{target} has {actual} bytes where the firmware wants {expected_bytes}",
            code="firmware-vars-mismatch",
            hint="it belongs to another firmware; remove it to start with fresh variables",
        )


def _write(target: Path, content: bytes) -> None:
    """Replace the file as a whole, durably, or leave it as it was. It belongs to whom the folder belongs."""
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        owner = owner_of(target.parent)
        with os.fdopen(handle, "wb") as file:
            os.fchown(file.fileno(), owner, owner)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    sync_directory(target.parent)
