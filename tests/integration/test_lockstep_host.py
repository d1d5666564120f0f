"""This host's QEMU and qemu-img, as they are: what the driver believes about them has to be true."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lockstep_support import GUEST_UID, MIB, MINI, RUNTIME, Pair, missing

from hostagent.drivers.disk.copy import DiskSet, DiskSource
from hostagent.drivers.disk.images import DiskToolError, QemuImg, require_self_contained
from hostagent.drivers.process.users import own_by
from hostagent.drivers.qemu.capabilities import probe, probe_accelerator, run_probe_guest
from hostagent.drivers.qemu.inspect import LiveRole, inspect
from vdc.model.errors import RefusedError
from vdc.model.manifest import Display, Firmware

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


async def test_the_runtimes_qemu_can_do_lockstep() -> None:
    verdict = await probe(RUNTIME, GUEST_UID)
    assert (verdict.lockstep, verdict.reason) == (True, "")


async def test_the_probe_guest_runs_when_emulated_and_the_verdict_on_kvm_has_a_reason(tmp_path: Path) -> None:
    assert await run_probe_guest(RUNTIME, GUEST_UID, "tcg", deadline_s=30) < 30
    cache = tmp_path / "accelerator.json"
    verdict = await probe_accelerator(RUNTIME, GUEST_UID, cache_file=cache, deadline_s=3)
    assert verdict.name in ("kvm", "tcg")
    assert bool(verdict.reason) == (verdict.name == "tcg")
    assert await probe_accelerator(Path("/nowhere"), GUEST_UID, cache_file=cache) == verdict


@pytest.mark.parametrize(
    "change",
    [
        {"machine": "pc"},
        {"firmware": Firmware.UEFI},
        {"firmware": Firmware.UEFI_SECURE, "display": Display.VNC},
    ],
    ids=["pc", "uefi", "uefi-secure with a screen"],
)
async def test_every_kind_of_machine_starts_in_both_roles(change: dict[str, object]) -> None:
    async with Pair() as pair:
        pair.spec_changes = change
        pair.prepare_folder = lambda folder: (folder / "vars.fd").write_bytes(
            (RUNTIME / "usr/share/OVMF/OVMF_VARS_4M.ms.fd").read_bytes()
        )
        first = await pair.start_primary()
        second = await pair.start_secondary()
        assert (await inspect(first.qmp)).role is LiveRole.ALONE
        state = await inspect(second.qmp)
        assert (state.role, state.uuid) == (LiveRole.INCOMING, pair.uid)


async def test_disks_are_made_grown_written_back_and_removed(tmp_path: Path) -> None:
    tool = QemuImg(RUNTIME, own_by(tmp_path / "guest", GUEST_UID), MINI)
    disks = DiskSet(tool, tmp_path)
    base = await tool.base_info("disk.qcow2")
    require_self_contained(base)
    await disks.create_primary(
        "u1", 1, [DiskSource(base.virtual_bytes * 2, "disk.qcow2"), DiskSource(8 * MIB)]
    )
    assert await disks.virtual_sizes() == (base.virtual_bytes * 2, 8 * MIB)
    overlay = await tool.info("disk0.qcow2")
    assert overlay.backing_file == "/images/disk.qcow2"
    with pytest.raises(RefusedError, match="backing file"):
        require_self_contained(overlay)
    await tool.resize("disk1.qcow2", 16 * MIB)
    assert (await tool.info("disk1.qcow2")).virtual_bytes == 16 * MIB

    await disks.create_secondary("u1", 2, [8 * MIB])
    await disks.promoted(3, 1)
    assert (await disks.bootable("u1")).heads == ("parent0.qcow2",)
    await disks.remove()
    assert {path.name for path in tool.folder.iterdir()} == set()


async def test_a_failing_tool_says_why(tmp_path: Path) -> None:
    own_by(tmp_path, GUEST_UID)
    tool = QemuImg(RUNTIME, tmp_path, MINI)
    with pytest.raises(DiskToolError, match=r"qemu-img info: .*No such file"):
        await tool.info("disk0.qcow2")
    (tmp_path / "disk0.qcow2").write_bytes(b"#!/bin/sh\n")
    with pytest.raises(DiskToolError, match="not in qcow2 format"):
        await tool.info("disk0.qcow2")


async def test_the_sandbox_hides_the_host(tmp_path: Path) -> None:
    tool = QemuImg(RUNTIME, own_by(tmp_path / "guest", GUEST_UID), MINI)
    outside = own_by(tmp_path / "another", GUEST_UID) / "secret.qcow2"
    await replace(tool, folder=outside.parent).create(outside.name, MIB)
    with pytest.raises(DiskToolError, match="No such file"):
        await tool._run("info", "-f", "qcow2", str(outside))
