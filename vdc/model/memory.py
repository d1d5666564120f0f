"""What a guest's saved memory can be loaded into: a machine that is the same in all that QEMU and the guest rely on.

QEMU itself notices some differences and takes others for granted; whoever loads a memory compares first. Pure.
"""

from __future__ import annotations

from typing import Final

from vdc.model.base import Record
from vdc.model.manifest import Display, Firmware

LAYOUT: Final = (
    1  # of the devices that a guest gets; raise it with any change that a saved memory does not survive
)

_WORDS: Final = {
    "layout": "arrangement of devices",
    "qemu_version": "QEMU",
    "cpu_model": "CPU",
    "cpus": "number of CPUs",
    "memory_bytes": "size of memory",
    "disk_sizes_bytes": "sizes of disks",
    "macs": "MAC addresses",
    "ports": "ports",
}


class SavedMachine(Record):
    """The machine that a memory was saved of. All of it has to be the same again."""

    layout: int = LAYOUT
    machine: str
    accelerator: str
    qemu_version: str
    cpu_model: str
    cpus: int
    memory_bytes: int
    firmware: Firmware
    display: Display
    disk_sizes_bytes: tuple[int, ...]
    macs: tuple[str, ...]
    ports: tuple[str, ...]  # by which the guest is talked to
    has_config: bool
    has_seed: bool


def difference(saved: SavedMachine, now: SavedMachine) -> str:
    """The first thing in which a machine differs from the saved one, in words; empty where there is none."""
    for name in SavedMachine.model_fields:
        before, after = getattr(saved, name), getattr(now, name)
        if before != after:
            word = _WORDS.get(name, name.removeprefix("has_"))
            return f"{word} {_text(after)} in place of {_text(before)}"
    return ""


def _text(value: object) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
