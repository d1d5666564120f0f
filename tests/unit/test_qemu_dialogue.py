"""What is said to QEMU, word for word, against golden files, and what is undone when it refuses."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from qemu_support import PLAN, WIRES, ModelQemu, assert_golden, in_lockstep, prepared

from hostagent.drivers.qemu import credentials, exports, kept, primary, secondary
from hostagent.drivers.qemu.entry import EntryFailedError
from hostagent.drivers.qemu.inspect import LiveRole, inspect
from hostagent.drivers.qemu.plan import LockstepPlan, LockstepPorts
from hostagent.drivers.qemu.qmp import QmpClosedError, QmpCommandError
from hostagent.drivers.qemu.resync import CopyFigures
from vdc.model.errors import ConflictError


async def entered(qemu: ModelQemu, plan: LockstepPlan = PLAN) -> primary.EntryReport:
    await primary.open_channels(qemu, plan, network=WIRES)
    return await primary.enter(qemu, plan, progress=lambda _: None, deadline_s=5, network=WIRES)


async def test_protecting_says_this_on_the_primary() -> None:
    qemu = ModelQemu()
    progress: list[float] = []
    await primary.open_channels(qemu, PLAN, network=WIRES)
    report = await primary.enter(qemu, PLAN, progress=progress.append, deadline_s=5, network=WIRES)
    assert_golden("dialogue-enter", qemu.said)
    assert (report.stopped_ms, report.passes, report.copied_bytes) == (50.0, 2, 1010)
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert not qemu.listeners


@pytest.mark.parametrize(("name", "changes"), [("top", ""), ("changes", "since-e5-h2")])
async def test_copying_less_than_all_says_this(name: str, changes: str) -> None:
    qemu = ModelQemu()
    qemu.nodes["img0"] = {"node-name": "img0"}
    plan = replace(PLAN, bases=(True,), changes_since=changes, copy_bytes_per_s=1000)
    seen: list[CopyFigures] = []
    await primary.open_channels(qemu, plan, network=WIRES)
    await primary.enter(qemu, plan, progress=lambda _: None, figures=seen.append, deadline_s=5, network=WIRES)
    words = ("blockdev-", "x-blockdev", "job-dismiss", "migrate-set-parameters", "stop")
    assert_golden(f"dialogue-enter-{name}", [one for one in qemu.said if one.startswith(words)])
    assert [figures.what for figures in seen] == ["disk", "memory"]
    assert set(qemu.nodes) == {"disk0", "img0", "nbd0-e7", "watch0-e7", "repl0-e7", "pair0-e7"}
    assert not qemu.jobs


async def test_a_copy_of_changes_that_fails_is_undone_and_says_why() -> None:
    qemu = ModelQemu()
    qemu.nodes["parent0"] = {"node-name": "parent0"}
    qemu.backup_error = "No space left on device"
    plan = replace(PLAN, changes_since="since-e5-h2")
    await primary.open_channels(qemu, plan, network=WIRES)
    with pytest.raises(EntryFailedError, match="No space left"):
        await primary.enter(qemu, plan, progress=lambda _: None, deadline_s=5, network=WIRES)
    assert (set(qemu.nodes), qemu.jobs) == ({"disk0", "parent0"}, set())


async def test_records_of_writes_are_at_most_two_and_count_only_when_they_cover_every_disk() -> None:
    qemu = ModelQemu()
    qemu.nodes |= {name: {"node-name": name} for name in ("img0", "img1")}
    for epoch in (2, 10, 9):
        await kept.begin(qemu, 2, kept.bitmap_name("h2", epoch))
    assert await kept.kept(qemu, 2) == ("since-e9-h2", "since-e10-h2")
    await kept.begin(qemu, 2, "since-e9-h2")  # again
    assert await kept.kept(qemu, 2) == ("since-e9-h2", "since-e10-h2")
    qemu.nodes["img1"]["dirty-bitmaps"][0]["inconsistent"] = True
    assert len(await kept.kept(qemu, 2)) == 1
    await kept.forget_broken(qemu, 2)
    assert [len(qemu.nodes[name]["dirty-bitmaps"]) for name in ("img0", "img1")] == [1, 1]
    await kept.drop(qemu, 2, "since-e9-h2")
    await kept.drop(qemu, 2, "since-e10-h2")
    assert await kept.kept(qemu, 2) == ()
    assert await kept.kept(qemu, 0) == ()


async def test_opening_the_channels_twice_adds_nothing() -> None:
    qemu = ModelQemu()
    await primary.open_channels(qemu, PLAN, network=WIRES)
    said = list(qemu.said)
    await primary.open_channels(qemu, PLAN, network=WIRES)
    assert qemu.said == said


async def test_filters_of_a_promoted_vm_go_behind_its_rewriter() -> None:
    qemu = ModelQemu()
    plan = LockstepPlan(8, 1, 1, "a", "b", LockstepPorts.for_slot(3, 8), insert_behind_rewriter=True)
    await entered(qemu, plan)
    filters = [one for one in qemu.objects.values() if one["qom-type"].startswith("filter-")]
    assert len(filters) == 3
    assert all((one["insert"], one["position"]) == ("before", "id=rew0") for one in filters)


async def test_losing_the_secondary_says_this_and_never_yanks_the_monitor() -> None:
    qemu = ModelQemu()
    await entered(qemu)
    qemu.said.clear()
    await primary.leave(qemu, PLAN)
    assert_golden("dialogue-leave", qemu.said)
    assert "compat_monitor" not in "".join(qemu.said)
    assert (qemu.objects, qemu.chardevs, set(qemu.nodes)) == ({}, {}, {"disk0"})


async def test_leaving_twice_removes_nothing_more() -> None:
    qemu = ModelQemu()
    await entered(qemu)
    await primary.leave(qemu, PLAN)
    qemu.said.clear()
    qemu.yankable = [{"type": "chardev", "id": "compat_monitor0"}]
    await primary.leave(qemu, PLAN)
    assert [words.split()[0] for words in qemu.said] == ["migrate-set-capabilities"]


async def test_leaving_ends_a_comparison_that_was_under_way() -> None:
    qemu = ModelQemu()
    await entered(qemu)
    await exports.open_exports(qemu, PLAN)  # type: ignore[arg-type]
    assert qemu.exports == {"own0", "other0"}
    qemu.said.clear()
    await primary.leave(qemu, PLAN)
    said = [words.split()[0] for words in qemu.said]
    assert said.index("nbd-server-stop") < said.index("x-blockdev-change") < said.index("blockdev-del")
    assert not qemu.exports


STEPS = [
    "migrate-set-capabilities",
    "blockdev-add",
    "blockdev-mirror",
    "migrate",
    "object-add",
    "migrate-continue",
]


@pytest.mark.parametrize("step", STEPS)
async def test_an_entry_refused_at_any_step_leaves_the_guest_running_and_nothing_behind(step: str) -> None:
    qemu = ModelQemu()
    refused = []

    def refuse_once(given: Any) -> Any:
        if not refused:
            refused.append(given)
            qemu.refuse(step)

    setattr(qemu, "do_" + step.replace("-", "_"), refuse_once)
    with pytest.raises(QmpCommandError, match=step):
        await entered(qemu)
    assert qemu.status == "running"
    assert (qemu.objects, qemu.chardevs, set(qemu.nodes), qemu.jobs) == ({}, {}, {"disk0"}, set())


async def test_a_memory_copy_that_fails_is_undone() -> None:
    qemu = ModelQemu()
    qemu.do_migrate = lambda _: setattr(qemu, "migration", "failed")  # type: ignore[method-assign]
    with pytest.raises(EntryFailedError, match="the memory copy failed"):
        await entered(qemu)
    assert qemu.status == "running"
    assert not qemu.objects


async def test_a_disk_copy_that_ends_early_is_undone() -> None:
    qemu = ModelQemu()
    qemu.do_blockdev_mirror = lambda _: None  # type: ignore[method-assign]
    with pytest.raises(EntryFailedError, match="disk copy ended early"):
        await entered(qemu)
    assert set(qemu.nodes) == {"disk0"}


async def test_a_guest_that_does_not_run_is_not_taken_in() -> None:
    with pytest.raises(ConflictError, match="paused"):
        await entered(ModelQemu(status="paused"))


async def test_a_qemu_that_dies_during_entry_is_reported_as_such() -> None:
    qemu = ModelQemu()
    qemu.closed_at = "migrate-continue"
    with pytest.raises(QmpClosedError):
        await entered(qemu)


async def test_preparing_says_this_on_the_secondary() -> None:
    qemu = ModelQemu(status="inmigrate")
    await prepared(qemu)
    assert_golden("dialogue-prepare", qemu.said)
    again_ms = [int(found) for found in re.findall(r'"reconnect-ms": (\d+)', "".join(qemu.said))]
    assert min(again_ms) > 20 * 24 * 3600 * 1000, "it connects once; QEMU wants a time all the same"


async def test_the_primary_waits_for_connections_whose_certificates_it_has_checked() -> None:
    qemu = ModelQemu()
    await primary.open_channels(qemu, PLAN, network=WIRES)
    unchecked = [PLAN.compare_chardev(0)]
    connected = qemu.do_qom_get
    qemu.do_qom_get = lambda given: (  # type: ignore[method-assign]
        connected(given) and given["path"].removeprefix("/chardevs/") not in unchecked
    )
    entering = asyncio.create_task(
        primary.enter(qemu, PLAN, progress=lambda _: None, deadline_s=5, network=WIRES)
    )
    await asyncio.sleep(0.05)
    assert not any(said.startswith("blockdev-add") for said in qemu.said)
    unchecked.clear()
    await entering


async def test_a_control_says_nothing_of_tls() -> None:
    plan = replace(PLAN, is_encrypted=False)
    one, other = ModelQemu(), ModelQemu(status="inmigrate")
    await entered(one, plan)
    await prepared(other, plan)
    said = [line for line in (*one.said, *other.said) if "tls" in line]
    assert all(line.startswith("migrate-set-parameters") for line in said)
    assert not any("tlss" in line or "tlsc" in line for line in said)


async def test_promoting_says_this() -> None:
    qemu = await in_lockstep()
    await secondary.promote(qemu, PLAN)
    await secondary.announce(qemu)
    qemu.said.append("(settle)")
    await secondary.settle(qemu, PLAN)
    assert_golden("dialogue-promote", qemu.said)
    assert set(qemu.objects) == {"rew0"}
    assert set(qemu.nodes) == {"disk0", "childs0", "parent0"}
    await secondary.promote(qemu, PLAN)  # again, after an interruption


async def test_a_promotion_that_is_refused_while_in_lockstep_is_an_error() -> None:
    qemu = ModelQemu(colo="secondary")
    qemu.do_x_colo_lost_heartbeat = lambda _: qemu.refuse("x-colo-lost-heartbeat")  # type: ignore[method-assign]
    with pytest.raises(QmpCommandError):
        await secondary.promote(qemu, PLAN)


async def test_inspection_tells_the_role() -> None:
    qemu = ModelQemu()
    assert (await inspect(qemu)).role is LiveRole.ALONE
    await primary.open_channels(qemu, PLAN, network=WIRES)
    state = await inspect(qemu)
    assert (state.role, state.epoch, state.is_colo) == (LiveRole.ENTERING, 7, False)
    await primary.enter(qemu, PLAN, progress=lambda _: None, deadline_s=5, network=WIRES)
    state = await inspect(qemu)
    assert (state.role, state.epoch, state.is_colo, state.has_rewriter) == (LiveRole.PRIMARY, 7, True, False)

    other = ModelQemu(status="inmigrate")
    await prepared(other)
    other.nodes |= {name: {"node-name": name} for name in ("active0", "childs0")}
    assert (await inspect(other)).role is LiveRole.INCOMING
    other.colo, other.status = "secondary", "running"
    assert (await inspect(other)).role is LiveRole.SECONDARY
    other.colo = "none"
    assert (await inspect(other)).role is LiveRole.PROMOTING
    await secondary.promote(other, PLAN)
    state = await inspect(other)
    assert (state.role, state.has_rewriter, state.is_settled) == (LiveRole.PROMOTED, True, False)


async def test_severing_breaks_disk_and_memory_and_leaves_the_gate_closed() -> None:
    qemu = ModelQemu(migration="colo")
    ours = [
        {"type": "migration"},
        {"type": "block-node", "node-name": PLAN.nbd_node(0)},
        {"type": "chardev", "id": PLAN.compare_chardev(0)},
        {"type": "chardev", "id": PLAN.mirror_chardev(0)},
    ]
    qemu.yankable += ours
    await primary.sever(qemu, PLAN)  # type: ignore[arg-type]
    yanked = [json.loads(line.partition("yank ")[2])["instances"] for line in qemu.said]
    assert yanked == [[ours[0]], [ours[1]]]
    assert all(line.startswith("oob yank") for line in qemu.said), "anything else may hang, or open the gate"


async def test_credentials_alone_show_that_something_was_interrupted_and_are_taken_out() -> None:
    qemu = ModelQemu()
    await credentials.add(qemu, PLAN)  # type: ignore[arg-type]
    state = await inspect(qemu)
    assert (state.role, state.epoch) == (LiveRole.ENTERING, 7)
    await primary.leave(qemu, PLAN)
    state = await inspect(qemu)
    assert (state.role, state.epoch) == (LiveRole.ALONE, None)
