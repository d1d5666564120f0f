"""Agents are restarted one after the other, and upgraded by one version: no guest notices, nothing fails over."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pacing import UNDISTURBED_GAP_MS
from testlab import VM, Lab, wait_for

from vdc.lab.agents import recorded_agent, start_agent
from vdc.lab.processes import is_running, signal_all
from vdc.lab.settings import Settings

REPOSITORY = Path(__file__).parents[2]
NEXT = "0.2.0-of-tomorrow"


@pytest.fixture(scope="module")
def tomorrow(session_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """How the agents of the next version are started: a copy of the code with changes that an upgrade may bring."""
    tree = tmp_path_factory.mktemp("tomorrow")
    for package in ("vdc", "hostagent"):
        shutil.copytree(REPOSITORY / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    _change(tree / "vdc/__init__.py", '__version__ = "', f'__version__ = "{NEXT}"  # was "')
    _change(tree / "hostagent/heartbeat/message.py", "\nVERSION = 3", "\nVERSION = 4")
    _change(tree / "hostagent/heartbeat/message.py", '"d": dead, ', '"d": dead, "new": [1], ')
    new_field = '    name: DnsLabel\n    of_tomorrow: str = "unknown to the others"\n'
    for record in ("pair.py", "endophyte.py", "host.py"):
        _change(tree / "vdc/model" / record, "    name: DnsLabel\n", new_field)
    _change(
        tree / "hostagent/supervisor/state.py",
        "    restarts: int = 0\n",
        "    restarts: int = 0\n    new: int = 1\n",
    )
    script = f"import sys; sys.path.insert(0, {str(tree)!r}); from hostagent.main import main; main()"
    yield replace(session_lab.settings, agent_command=(sys.executable, "-P", "-c", script, "run", "--config"))


def _change(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text, f"{path.name} has no {before!r} any more"
    path.write_text(text.replace(before, after))


@pytest.fixture(autouse=True)
def agents_of_today(session_lab: Lab) -> Iterator[None]:
    """The other tests get their own version back."""
    yield
    for host in session_lab.hosts:
        if any(word.startswith("import sys") for word in session_lab.agent(host).command):
            restart(session_lab, host, session_lab.settings)


def restart(lab: Lab, host: str, settings: Settings) -> None:
    """As a service manager does: SIGTERM, wait, start; on return all hosts see it again."""
    agent = lab.agent(host)
    signal_all([agent], signal.SIGTERM)
    plan = lab.plan.host(host)
    wait_for(lambda: not is_running(recorded_agent(plan)), 10, f"the agent of {host} has ended")
    start_agent(plan, settings)
    lab.up()


def test_restarted_one_after_the_other(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    _roll(lab, protected_vm("web"), lab.settings)


def test_upgraded_and_downgraded_one_after_the_other(
    lab: Lab, protected_vm: Callable[..., VM], tomorrow: Settings
) -> None:
    vm = protected_vm("web")
    _roll(lab, vm, tomorrow)
    assert {node.host.agent_version for node in lab.ask(lambda api: api.list_nodes()).items} == {NEXT}
    _roll(lab, vm, lab.settings)
    assert NEXT not in {node.host.agent_version for node in lab.ask(lambda api: api.list_nodes()).items}


@pytest.mark.parametrize("newer", ["primary", "secondary"])
def test_two_versions_fail_over_and_protect_together(
    lab: Lab, protected_vm: Callable[..., VM], tomorrow: Settings, newer: str
) -> None:
    vm = protected_vm("web")
    first, second = vm.primary, vm.secondary
    restart(lab, first if newer == "primary" else second, tomorrow)
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        vm.kill(first)
        vm.wait_primary(second)
        workload.wait_progress(more=30, deadline_s=20)
        vm.wait_lockstep(90)
    assert not workload.report.errors
    workload.check_store()


def _roll(lab: Lab, vm: VM, settings: Settings) -> None:
    before, first, second = vm.epoch, vm.primary, vm.secondary
    pids = {host: vm.qemu(host).pid for host in (first, second)}
    with lab.workload(vm) as workload:
        for host in lab.hosts:
            workload.wait_progress(more=30, deadline_s=20)
            restart(lab, host, settings)
            assert vm.wait_lockstep(20).status.epoch == before, f"restarting the agent of {host}"
        workload.wait_progress(more=30, deadline_s=20)
    assert (vm.primary, vm.secondary) == (first, second)
    assert {host: vm.qemu(host).pid for host in (first, second)} == pids
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < UNDISTURBED_GAP_MS
