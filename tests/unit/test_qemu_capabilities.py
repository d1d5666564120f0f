"""The verdict on a QEMU, from what it says about itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hostagent.drivers.qemu.capabilities import boot_sector, judge, probe_accelerator
from hostagent.drivers.qemu.commands import NEEDED_BLOCK_DRIVERS, NEEDED_OBJECTS, Command

GOOD = {"major": 11, "minor": 1, "micro": 3}


UID = 1_900_000_000


def schema(*, without: str = "") -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [
        {"name": str(command), "meta-type": "command"} for command in Command if command != without
    ]
    drivers = [name for name in NEEDED_BLOCK_DRIVERS if name != without]
    members = [{"name": name} for name in drivers]
    return [*entries, {"name": "17", "meta-type": "enum", "values": drivers, "members": members}]


def test_a_trusted_version_with_everything_can_do_lockstep() -> None:
    verdict = judge(GOOD, schema(), NEEDED_OBJECTS)
    assert (verdict.version, verdict.lockstep, verdict.reason) == ("11.1.3", True, "")


@pytest.mark.parametrize(("major", "minor"), [(7, 2), (9, 0), (10, 0), (10, 2)])
def test_an_older_version_cannot_whatever_it_offers(major: int, minor: int) -> None:
    verdict = judge({"major": major, "minor": minor, "micro": 0}, schema(), NEEDED_OBJECTS)
    assert not verdict.lockstep
    assert f"QEMU {major}.{minor}.0 cannot" in verdict.reason


@pytest.mark.parametrize("lacking", ["x-colo-lost-heartbeat", "yank", "quorum"])
def test_what_was_not_built_in_is_named(lacking: str) -> None:
    verdict = judge(GOOD, schema(without=lacking), NEEDED_OBJECTS)
    assert not verdict.lockstep
    assert lacking in verdict.reason


def test_a_missing_object_type_is_named() -> None:
    verdict = judge(GOOD, schema(), NEEDED_OBJECTS - {"colo-compare"})
    assert verdict.reason == "this QEMU 11.1.3 was built without colo-compare"


def test_the_probe_guest_is_a_boot_sector() -> None:
    sector = boot_sector()
    assert len(sector) == 512
    assert sector.endswith(b"\x55\xaa")


async def test_a_verdict_of_this_boot_is_not_asked_for_again(tmp_path: Path) -> None:
    cache = tmp_path / "accelerator.json"
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    cache.write_text(json.dumps({"boot_id": boot_id, "accelerator": {"name": "kvm", "reason": "as cached"}}))
    verdict = await probe_accelerator(Path("/nowhere"), UID, cache_file=cache)
    assert (verdict.name, verdict.reason) == ("kvm", "as cached")


@pytest.mark.parametrize("text", ["", "{}", '{"boot_id": "another", "accelerator": {"name": "kvm"}}'])
async def test_a_verdict_of_another_boot_is_not_believed(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostagent.drivers.qemu.capabilities._KVM", tmp_path / "no-kvm")
    cache = tmp_path / "accelerator.json"
    cache.write_text(text)
    verdict = await probe_accelerator(Path("/nowhere"), UID, cache_file=cache)
    assert (verdict.name, verdict.reason) == ("tcg", "there is no /dev/kvm")
    assert json.loads(cache.read_text())["accelerator"]["name"] == "tcg"
