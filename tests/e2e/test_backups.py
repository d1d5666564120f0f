"""Backups of protected VMs: taken in lockstep, of the changes alone where they are known, and made into VMs again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from failpoints import Failpoints, failpoints
from test_snapshots import nothing_is_left
from testlab import VM, Lab, wait_for

from vdc.lab.sessions import check_store
from vdc.model.step import Step


@pytest.fixture(scope="module")
def points(session_lab: Lab) -> Iterator[Failpoints]:
    with failpoints(session_lab) as found:
        yield found


@pytest.fixture
def place(lab: Lab, tmp_path: Path) -> Path:
    """A repository."""
    made = tmp_path / "backups"
    lab.ok("backup", "init", str(made))
    return made


def backup(lab: Lab, place: Path, *options: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(
        lab.ok("backup", "create", "web", "--to", str(place), "-o", "json", *options)
    )
    return made


def chunks(place: Path, made: dict[str, Any]) -> list[list[str]]:
    text = (place / "backups" / "web" / f"{made['id']}.json").read_text()
    return [disk["chunks"] for disk in json.loads(text)["backup"]["disks"]]


def has_all(lab: Lab, vm: VM, last: int) -> None:
    """The guest's store has each number up to `last`, as it was written."""
    lab.wait_answering(vm.address)
    check_store(lab.in_client, vm.address, "w", 1, last)


def test_backups_in_lockstep_and_after_a_failover_become_vms_again(
    lab: Lab, protected_vm: Callable[..., VM], place: Path
) -> None:
    vm = protected_vm("web")
    before = vm.epoch
    with lab.workload(vm, tag="w") as load:
        load.wait_progress(more=60, deadline_s=30)
        first = backup(lab, place)
        assert first["full_because"] and not first["since"]
        load.wait_progress(more=60, deadline_s=30)
    known = load.report.acknowledged
    assert not load.report.errors
    second = backup(lab, place)
    assert second["since"] == first["id"] and 0 < second["read_bytes"] < first["read_bytes"]
    vm.wait_lockstep()
    assert vm.epoch == before, "a backup is no fault"

    # Nothing writes while it is paused, so a backup of the changes has to be the same as one of everything.
    lab.ok("pause", "web", "--wait")
    changes, whole = backup(lab, place), backup(lab, place, "--full")
    assert changes["since"] == second["id"] and not whole["since"]
    assert whole["written_bytes"] == 0 and chunks(place, changes) == chunks(place, whole)
    lab.ok("start", "web", "--wait")
    vm.wait_lockstep()

    vm.kill(vm.primary)
    vm.wait_lockstep(90)
    after = backup(lab, place)
    assert not after["since"] and "not known" in after["full_because"]
    assert backup(lab, place)["since"] == after["id"]
    assert nothing_is_left(lab, "web")
    has_all(lab, vm, known)

    assert json.loads(lab.ok("backup", "verify", str(place), "-o", "json"))["damaged"] == {}
    taken = lab.cli("backup", "restore", str(place), f"web@{second['id']}")
    assert taken.code == 1 and "name-taken" in taken.stderr
    lab.ok("backup", "restore", str(place), f"web@{second['id']}", "--as", "copy", "--wait")
    has_all(lab, VM(lab, "copy"), known)
    pruned = json.loads(lab.ok("backup", "prune", str(place), "--keep", "1", "-o", "json"))
    assert len(pruned["backups"]) == 5 and pruned["kept"] == 1
    assert json.loads(lab.ok("backup", "verify", str(place), "-o", "json"))["backups"] == 1
    lab.ok("delete", "endophyte", "copy")
    lab.ok("delete", "endophyte", "web")
    lab.ok("backup", "restore", str(place), "web", "--wait")
    has_all(lab, VM(lab, "web"), known)
    for image in json.loads(lab.ok("image", "ls", "-o", "json"))["items"]:
        for name in image["names"]:
            if name.startswith("backups/") and not image["used_by"]:
                lab.ok("image", "rm", name)


def test_an_agent_that_dies_on_the_way_leaves_nothing_and_the_changes_stay_known(
    lab: Lab, points: Failpoints, protected_vm: Callable[..., VM], place: Path
) -> None:
    vm = protected_vm("web")
    first, before = vm.primary, vm.epoch
    whole = backup(lab, place)
    with lab.workload(vm) as load:
        load.wait_progress(more=20, deadline_s=20)
        for step in (Step.SNAPSHOT_BEGUN, Step.SNAPSHOT_FIXED, Step.SNAPSHOT_COPIED):
            points.arm(first, step)
            assert lab.cli("backup", "create", "web", "--to", str(place)).code == 1
            points.wait_died_at(first, step)
            wait_for(lambda: nothing_is_left(lab, "web"), 60, f"nothing is left after {step}")
        assert len(list((place / "backups" / "web").iterdir())) == 1
        assert not list((place / "locks").iterdir())
        assert backup(lab, place)["since"] == whole["id"], "QEMU went on, and with it the mark"
        load.wait_progress(more=20, deadline_s=30)
    assert not load.report.errors
    load.check_store()
    vm.wait_lockstep()
    assert (vm.primary, vm.epoch) == (first, before)
