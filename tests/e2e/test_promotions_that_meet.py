"""Promotions that meet: two at once, one of a replica that is still being filled, one by force without need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from testlab import VM, Lab, wait_for


def test_of_two_one_wins_and_the_other_learns_the_epoch(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, first, second = vm.epoch, vm.primary, vm.secondary
    program = str(Path(sys.executable).parent / "vdc")
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        both = [
            subprocess.Popen(
                [program, "promote", "replica", "web"], env=lab.environment | {"PATH": os.environ["PATH"]},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for _ in range(2)
        ]  # fmt: skip
        ended = [(*one.communicate(timeout=60), one.returncode) for one in both]
        vm.wait_primary(second)
        workload.wait_progress(more=50, deadline_s=30)
        view = vm.wait_lockstep(90)
    assert sorted(code for _, _, code in ended) == [0, 1], ended
    loser = next(err for _, err, code in ended if code == 1)
    assert "epoch" in loser, loser
    assert view.status.primary and view.status.primary.host == second
    assert view.status.epoch > before
    assert not workload.report.errors
    workload.check_store()

    # by force it is refused while the primary's host answers
    refused = lab.cli("promote", "replica", "web", "--force", "--confirm", "web")
    assert refused.code == 1 and "(primary-alive)" in refused.stderr, refused
    assert first in (vm.secondary, *vm.view().status.spares)


def test_a_replica_that_is_being_filled_is_not_promoted(lab: Lab) -> None:
    lab.ok("create", "web")
    vm = VM(lab, "web")
    vm.wait("being filled", lambda view: view.status.protection.value == "syncing", 60)
    primary = vm.primary
    refused = lab.cli("promote", "replica", "web")
    assert refused.code == 1 and "(not-in-sync)" in refused.stderr, refused
    forced = lab.cli("promote", "replica", "web", "--force", "--confirm", "web")
    assert forced.code == 1 and "(no-complete-copy)" in forced.stderr, forced
    view = vm.wait_lockstep(90)
    assert view.status.primary and view.status.primary.host == primary
    assert json.loads(lab.ok("describe", "endophyte", "web", "-o", "json"))["pair"]["lineage"] == 0
    wait_for(lambda: vm.event_codes()[-1] == "lockstep", 20, "lockstep is the last that happened")
