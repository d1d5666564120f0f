"""Where an agent makes its guests' control groups, from what /proc says, and what is written into them."""

from __future__ import annotations

from pathlib import Path

import pytest
from protection_world import endophyte

from hostagent.drivers.process.cgroup import Groups, Limits, find_groups
from hostagent.supervisor.confinement import limits_of
from vdc.model.endophyte import CopyRole
from vdc.model.units import GIB, MIB

LIMITS = Limits(memory_bytes=GIB, pids=300, cpu_weight=200)


def machine(tmp_path: Path, own: str, mounts: list[tuple[str, str, str]]) -> Path:
    """A /proc/self of a process in the groups `own`; mounts are (name, file system, options)."""
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(own)
    lines = [f"31 23 0:28 / {tmp_path} rw - tmpfs tmpfs rw"]
    lines += [
        f"32 31 0:29 / {tmp_path / name} rw - {kind} cgroup {options}" for name, kind, options in mounts
    ]
    (proc / "mountinfo").write_text("\n".join(lines) + "\n")
    return proc


def test_v2_groups_are_beside_the_agents_leaf(tmp_path: Path) -> None:
    unit = tmp_path / "cg" / "system.slice" / "vdc.service"
    (unit / "agent").mkdir(parents=True)
    (unit / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    found = find_groups(machine(tmp_path, "0::/system.slice/vdc.service/agent\n", [("cg", "cgroup2", "rw")]))
    assert found.missing == ()
    assert (unit / "agent" / "cpu.weight").read_text() == "10000", "the agent comes before its guests"
    assert found.create("web", LIMITS) == ""
    written = {path.name: path.read_text() for path in (unit / "vm-web").iterdir()}
    assert written == {"memory.max": str(GIB), "pids.max": "300", "cpu.weight": "200"}


def test_v2_without_a_leaf_of_its_own_makes_no_groups(tmp_path: Path) -> None:
    (tmp_path / "cg" / "vdc.service").mkdir(parents=True)
    found = find_groups(machine(tmp_path, "0::/vdc.service\n", [("cg", "cgroup2", "rw")]))
    assert found.missing == ("memory", "pids", "cpu")
    assert found.create("web", LIMITS) == ""


def test_v1_groups_are_below_the_agents_and_a_root_group_is_nobodys(tmp_path: Path) -> None:
    for name in ("memory", "pids"):
        (tmp_path / name / "lab-h1").mkdir(parents=True)
    (tmp_path / "cpu").mkdir()
    own = "3:cpu:/\n2:pids:/lab-h1\n1:memory:/lab-h1\n0::/\n"
    mounts = [(name, "cgroup", f"rw,{name}") for name in ("memory", "pids", "cpu")]
    found = find_groups(machine(tmp_path, own, mounts))
    assert found.missing == ("cpu",)
    found.create("web", LIMITS)
    assert (tmp_path / "memory/lab-h1/vm-web/memory.limit_in_bytes").read_text() == str(GIB)
    assert (tmp_path / "pids/lab-h1/vm-web/pids.max").read_text() == "300"
    assert not list((tmp_path / "cpu").iterdir())


def test_shares_and_weights_are_the_same_part_of_an_ordinary_group() -> None:
    assert LIMITS.values("cpu", is_v2=False) == [("cpu.shares", 2048)]
    assert LIMITS.values("cpu", is_v2=True) == [("cpu.weight", 200)]


def test_one_limit_that_cannot_be_set_keeps_none_of_the_others_away(tmp_path: Path) -> None:
    for name in ("memory", "pids"):
        (tmp_path / name / "lab-h1" / "vm-web").mkdir(parents=True)
    (tmp_path / "memory/lab-h1/vm-web/memory.limit_in_bytes").mkdir()  # as little to be written
    own = "2:pids:/lab-h1\n1:memory:/lab-h1\n"
    mounts = [(name, "cgroup", f"rw,{name}") for name in ("memory", "pids")]
    found = find_groups(machine(tmp_path, own, mounts))
    assert "memory.limit_in_bytes: Is a directory" in found.create("web", LIMITS)
    assert (tmp_path / "pids/lab-h1/vm-web/pids.max").read_text() == "300"


@pytest.mark.parametrize(
    ("kind", "file", "expected"),
    [("cgroup2", "memory.swap.max", "0"), ("cgroup", "memory.memsw.limit_in_bytes", str(GIB))],
)
def test_a_guest_has_no_swap_space_where_it_is_accounted_for(
    tmp_path: Path, kind: str, file: str, expected: str
) -> None:
    (tmp_path / "cg/unit/agent").mkdir(parents=True)
    (tmp_path / "cg/unit/cgroup.controllers").write_text("memory\n")
    is_v2 = kind == "cgroup2"
    own = "0::/unit/agent\n" if is_v2 else "1:memory:/unit\n"
    found = find_groups(machine(tmp_path, own, [("cg", kind, "rw" if is_v2 else "rw,memory")]))
    group = tmp_path / "cg/unit/vm-web"
    assert found.create("web", LIMITS) == "" and not (group / file).exists()
    (group / file).touch()
    assert found.create("web", LIMITS) == ""
    assert (group / file).read_text() == expected


def test_groups_of_guests_that_are_gone_are_swept(tmp_path: Path) -> None:
    base = tmp_path / "pids" / "lab-h1"
    for name in ("vm-web", "vm-gone", "another"):
        (base / name).mkdir(parents=True)
    found = find_groups(machine(tmp_path, "2:pids:/lab-h1\n", [("pids", "cgroup", "rw,pids")]))
    assert found.sweep({"web"}) == [str(base / "vm-gone")]
    found.remove("web")
    assert [path.name for path in base.iterdir()] == ["another"]


def test_where_it_cannot_be_done_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "pids" / "lab-h1").mkdir(parents=True)
    found = find_groups(machine(tmp_path, "2:pids:/lab-h1\n", [("pids", "cgroup", "rw,pids")]))
    (tmp_path / "pids" / "lab-h1" / "vm-web").touch()
    assert "vm-web cannot be set: File exists" in found.create("web", LIMITS)
    said: list[str] = []
    found.joiner("web", said.append)(1)
    assert said == [f"it cannot join {tmp_path}/pids/lab-h1/vm-web: Not a directory"]
    assert Groups().create("web", LIMITS) == ""


@pytest.mark.parametrize("accelerator", ["tcg", "kvm"])
def test_a_limit_is_well_above_what_is_booked(accelerator: str) -> None:
    primary, secondary = (limits_of(endophyte(), role, accelerator) for role in CopyRole)
    memory = endophyte().manifest.spec.resources.memory
    assert primary.memory_bytes > memory + (1536 if accelerator == "tcg" else 512) * MIB
    assert secondary.memory_bytes - primary.memory_bytes == memory + 100 * MIB, "the checkpoint cache"
    assert primary.pids > 256
