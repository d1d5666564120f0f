"""The wall clock of a host jumps by an hour, forwards or backwards: nothing happens, for nothing is decided by it. A
failover between hosts whose clocks disagree goes as any other."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pacing import FAILOVER_GAP_MS
from testlab import VM, Lab, kill_agent

from vdc.lab.agents import start_agent

SHIM = Path(__file__).with_name("shifted_clock.py")
HOUR_S = 3_600


@pytest.fixture
def clocks(lab: Lab, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Each host's agent is started anew under a clock of its own; the files say by how much it is wrong."""
    files = {host: tmp_path / host for host in lab.hosts}
    for host, file in files.items():
        kill_agent(lab, host)
        command = (sys.executable, str(SHIM), str(file), "run", "--config")
        start_agent(lab.plan.host(host), dataclasses.replace(lab.settings, agent_command=command))
    lab.heal()
    yield files
    for host in lab.hosts:
        kill_agent(lab, host)
    lab.heal()


def test_nothing_is_decided_by_the_wall_clock(
    lab: Lab, clocks: dict[str, Path], protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    before, first, second = vm.epoch, vm.primary, vm.secondary
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        for host, shift_s in ((first, HOUR_S), (second, -HOUR_S), (first, -HOUR_S), (second, 0)):
            clocks[host].write_text(str(shift_s))
            workload.wait_progress(more=50, deadline_s=20)
        an_hour_ago = datetime.now().astimezone() - timedelta(seconds=HOUR_S - 60)
        vm.wait("known to checkpoint an hour ago", lambda view: _last_checkpoint(view) < an_hour_ago, 20)
        assert vm.epoch == before
        assert (vm.primary, vm.secondary) == (first, second)
        assert all(node["alive"] for node in lab.nodes())
        vm.kill(first)
        vm.wait_primary(second)
        workload.wait_progress(more=50, deadline_s=20)
        vm.wait_lockstep()
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()


def _last_checkpoint(view: object) -> datetime:
    at = view.status.checkpoints.last  # type: ignore[attr-defined]
    return datetime.fromisoformat(at) if at else datetime.now().astimezone()
