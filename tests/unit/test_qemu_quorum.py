"""The disk's graph comes and goes under a guest that may write at any moment, and survives a refusal anywhere.

The other side is a model of QEMU's rules for quorums: it shares a node with nobody, keeps its last child, and
does not let go of a node that is in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from hostagent.drivers.qemu import quorum
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.plan import LockstepPlan, LockstepPorts
from hostagent.drivers.qemu.qmp import QmpCommandError

PLAN = LockstepPlan(7, 1, 1, "10.0.0.1", "10.0.0.2", LockstepPorts.for_slot(3, 7))
REPLACED = {"pair0-e7", "wall0-e7"}


class Graph:
    """Nodes with their children; `refuse_at` is the number of the change that is refused once."""

    def __init__(self, own: str = "img0", refuse_at: int | None = None) -> None:
        self.children: dict[str, list[str]] = {own: [], "disk0": [own], "nbd0-e7": []}
        self.refuse_at = refuse_at
        self.changes = 0

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None, **_: Any) -> Any:
        given = dict(arguments or {})
        if command == Command.QUERY_NAMED_BLOCK_NODES:
            return [self._shown(name) for name in self.children]
        self.changes += 1
        if self.changes == self.refuse_at:
            raise QmpCommandError(command, "GenericError", "no")
        return getattr(self, "do_" + command.replace("-", "_"))(given)

    def _shown(self, name: str) -> dict[str, Any]:
        ties = [
            {"child": f"children.{number}", "node-name": child}
            for number, child in enumerate(self.children[name])
        ]
        return {"node-name": name, "children": ties, "image": {"virtual-size": 64}}

    def do_blockdev_add(self, given: Any) -> None:
        below = given.get("children", [given.get("file")])
        self.children[given["node-name"]] = [one if isinstance(one, str) else "nothing" for one in below]
        self._check()

    def do_blockdev_del(self, given: Any) -> None:
        name = given["node-name"]
        assert all(name not in below for below in self.children.values()), f"{name} is in use"
        del self.children[name]

    def do_x_blockdev_change(self, given: Any) -> None:
        below = self.children[given["parent"]]
        if "node" in given:
            below.append(given["node"])
        else:
            assert len(below) > 1, "a quorum keeps its last child"
            del below[int(given["child"].removeprefix("children."))]
        self._check()

    def _check(self) -> None:
        for name in self.children:
            above = [parent for parent, below in self.children.items() if name in below]
            assert len(above) <= 1, f"{name} belongs to {above}"


async def test_in_lockstep_a_write_needs_both_and_alone_the_own_disk() -> None:
    graph = Graph()
    await quorum.attach(graph, PLAN, 0)  # type: ignore[arg-type]
    assert graph.children["disk0"] == ["pair0-e7"]
    assert graph.children["pair0-e7"] == ["img0", "repl0-e7"]
    assert graph.children["watch0-e7"] == ["nbd0-e7", "nothing"]
    await quorum.leave_alone(graph, PLAN, 0)  # type: ignore[arg-type]
    assert graph.children["disk0"] == ["img0"]
    assert not REPLACED & graph.children.keys()


async def test_a_promoted_vms_own_disk_is_what_its_layers_were_folded_into() -> None:
    graph = Graph(own="childs0")
    await quorum.attach(graph, PLAN, 0)  # type: ignore[arg-type]
    await quorum.leave_alone(graph, PLAN, 0)  # type: ignore[arg-type]
    assert graph.children["disk0"] == ["childs0"]


@pytest.mark.parametrize("step", range(1, 10))
async def test_whichever_step_of_attaching_is_refused_leaving_puts_it_right(step: int) -> None:
    graph = Graph(refuse_at=step)
    try:
        await quorum.attach(graph, PLAN, 0)  # type: ignore[arg-type]
        assert step == 9, "the last one is a tidying that may fail"
    except QmpCommandError:
        pass
    await quorum.leave_alone(graph, PLAN, 0)  # type: ignore[arg-type]
    assert graph.children["disk0"] == ["img0"]
    assert "pair0-e7" not in graph.children


@pytest.mark.parametrize("step", range(1, 8))
async def test_leaving_that_was_cut_short_anywhere_is_finished_by_the_next_one(step: int) -> None:
    graph = Graph()
    await quorum.attach(graph, PLAN, 0)  # type: ignore[arg-type]
    graph.refuse_at = graph.changes + step
    try:
        await quorum.leave_alone(graph, PLAN, 0)  # type: ignore[arg-type]
        assert step == 7, "the last one is a tidying that may fail"
    except QmpCommandError:
        pass
    await quorum.leave_alone(graph, PLAN, 0)  # type: ignore[arg-type]
    assert graph.children["disk0"] == ["img0"]
    assert "pair0-e7" not in graph.children
