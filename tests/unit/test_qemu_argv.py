"""Command lines against golden files; `UPDATE_GOLDEN=1 pytest tests/unit/test_qemu_argv.py` rewrites them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from hostagent.drivers.disk.copy import CopyRecord, CopyState, disk_specs
from hostagent.drivers.process import User
from hostagent.drivers.qemu.argv import primary_argv, secondary_argv
from hostagent.drivers.qemu.sandbox import sandboxed
from hostagent.drivers.qemu.spec import (
    AGENT_PORT,
    AGENT_SOCKET,
    DiskBoot,
    GuestPort,
    KernelBoot,
    MachineSpec,
    NicSpec,
)
from vdc.model.manifest import Display, Firmware
from vdc.model.units import GIB, MIB

GOLDEN = Path(__file__).parent / "golden" / "qemu"


def record(*heads: str) -> CopyRecord:
    return CopyRecord(uid="u", epoch=1, state=CopyState.CLEAN, heads=heads)


SMALL = MachineSpec(
    name="web",
    uid="6f1f2a8e-5a5c-4a39-9d5e-0c6f1e0f7a01",
    cpus=1,
    memory_bytes=256 * MIB,
    boot=KernelBoot("/images/k", "/images/i", "console=ttyS0 vdc.ip=10.77.0.10/24"),
    disks=disk_specs(record("disk0.qcow2")),
    nics=(NicSpec("vdt7", "52:54:00:00:00:07"),),
)
LARGE = replace(
    SMALL,
    cpus=4,
    memory_bytes=8 * GIB,
    boot=DiskBoot(),
    disks=disk_specs(record("parent0.qcow2", "parent1.qcow2")),
    nics=(NicSpec("vdt7", "52:54:00:00:00:07"), NicSpec("vdt8", "52:54:00:00:00:08")),
    accelerator="kvm",
    cpu_model="EPYC",
    firmware=Firmware.UEFI_SECURE,
    tpm=True,
    display=Display.VNC,
    guest_ports=(GuestPort(AGENT_PORT, AGENT_SOCKET), GuestPort("out.0", "out.log", is_log=True)),
    has_seed=True,
)
CONTAINER = replace(
    SMALL,
    guest_ports=(GuestPort("guest.0", "guest.sock"), GuestPort("output.0", "output.log", is_log=True)),
    config_name="opt/config",
)
CASES = {
    "primary-container": primary_argv(CONTAINER, [7]),
    "secondary-container": secondary_argv(CONTAINER, [7]),
    "primary-small": primary_argv(SMALL, [7]),
    "secondary-small": secondary_argv(SMALL, [7]),
    "primary-large": primary_argv(LARGE, [7, 8]),
    "secondary-large": secondary_argv(LARGE, [7, 8]),
    "primary-pc-uefi": primary_argv(
        replace(SMALL, machine="pc", firmware=Firmware.UEFI, disks=(), nics=()), []
    ),
    "sandbox-runtime": sandboxed(
        ["qemu"],
        User(1900000007, groups=(993,)),
        runtime_root=Path("/r"),
        vm_dir=Path("/s/vms/web"),
        image_dir=Path("/s/images"),
        status_fd=7,
    ),
    "sandbox-host": sandboxed(
        ["qemu-img"],
        User(1900000007),
        runtime_root=None,
        vm_dir=Path("/v"),
        image_dir=Path("/i"),
        devices=(),
        has_network=False,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_command_line_is_the_golden_one(name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    text = "\n".join(CASES[name]) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("spec", [SMALL, LARGE])
def test_both_roles_show_the_guest_the_same_machine(spec: MachineSpec) -> None:
    def of_the_guest(argv: list[str]) -> list[str]:
        kept = []
        for option, value in zip(argv, [*argv[1:], ""], strict=True):
            if option == "-blockdev" and json.loads(value)["driver"] in ("qcow2", "replication", "quorum"):
                continue
            if option.startswith("-") and option != "-incoming":
                kept.append(f"{option} {value}")
        return kept

    primary, secondary = (
        of_the_guest(argv(spec, range(7, 7 + len(spec.nics)))) for argv in (primary_argv, secondary_argv)
    )
    assert [one for one in primary if not one.startswith("-blockdev")] == [
        one for one in secondary if not one.startswith("-blockdev")
    ]


def test_no_argument_is_empty_or_has_a_newline() -> None:
    for argv in CASES.values():
        assert all(argument and "\n" not in argument for argument in argv)


@pytest.mark.parametrize(
    "change",
    [
        {"memory_bytes": 256 * MIB + 1},
        {"memory_bytes": 0},
        {"machine": "pc", "firmware": Firmware.UEFI_SECURE},
        {"nics": SMALL.nics * 5},
        {"disks": SMALL.disks * 5},
    ],
)
def test_a_machine_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"multiple|secure|at most"):
        replace(SMALL, **change)
