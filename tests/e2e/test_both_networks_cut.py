"""The primary is cut off from everything: its secondary takes over. The old primary lives, hears of nothing, and
says nothing: it pauses its guest, and ends its copy when it learns of the newer epoch."""

from __future__ import annotations

from collections.abc import Callable

from pacing import FAILOVER_GAP_MS
from testlab import VM, Lab, wait_for

from vdc.lab.speakers import GATED


def test_the_old_primary_says_nothing_after_the_new_epoch(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, first, second = vm.epoch, vm.primary, vm.secondary
    since = [event["at"] for event in lab.events("web") if event["code"] == "placed"][-1]
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        lab.fault("partition", first)
        view = vm.wait_primary(second)
        assert view.status.epoch > before
        workload.wait_progress(more=100, deadline_s=30)
        assert vm.runs_on(first), "the old copy was to live on"
        wait_for(lambda: "paused" in vm.sentence_on(first), 20, "the old copy is paused")
        vm.wait_lockstep()
        lab.heal(first)
        wait_for(lambda: not vm.runs_on(first), 20, "the old copy ends when it learns of the newer epoch")
        workload.wait_progress(more=30, deadline_s=20)
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()
    (verdict,) = lab.verdicts(lab.wire, since)
    assert [turn.host for turn in verdict.turns] == [first, second]
    assert not GATED & verdict.late.get(first, {}).keys()
