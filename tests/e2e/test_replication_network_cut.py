"""The replication network is cut, wholly or in one direction: exactly one copy survives, whichever it is, and the
client stays with it. Nobody is made a secondary over the dead network; soon after it is back there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pacing import FAILOVER_GAP_MS, rounds
from testlab import VM, Lab, wait_for

SOON_S = 20.0  # 3 to settle, 5 for a host that was in sync before, the rest for the copying


def test_exactly_one_copy_survives_each_time(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    for number in range(rounds(1, 10)):
        survive(lab, protected_vm(f"whole{number}"), [("primary", "both"), ("secondary", "both")])


def test_exactly_one_copy_survives_a_cut_of_one_direction(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    for number in range(rounds(1, 5)):
        ways = [(whose, direction) for whose in ("primary", "secondary") for direction in ("in", "out")]
        survive(lab, protected_vm(f"oneway{number}"), ways)


def survive(lab: Lab, vm: VM, cuts: Sequence[tuple[str, str]]) -> None:
    """A few cuts of a VM that is new, so that no host is left alone for longer and longer."""
    with lab.workload(vm) as workload:
        for whose, direction in cuts:
            workload.wait_progress(more=30, deadline_s=20)
            cut_and_mend(lab, vm, whose, direction)
            workload.wait_progress(more=50, deadline_s=30)
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()
    lab.remove_all_vms()


def cut_and_mend(lab: Lab, vm: VM, whose: str, direction: str) -> None:
    before, pair = vm.epoch, (vm.primary, vm.secondary)
    refusals = vm.event_codes().count("no-host")
    cut = pair[0] if whose == "primary" else pair[1]
    lab.fault("partition", cut, network="replication", direction=direction)
    vm.wait("under a new epoch", lambda view: view.status.epoch > before, 10)
    survivor = vm.primary
    loser = next(host for host in pair if host != survivor)
    assert survivor in pair
    wait_for(
        lambda: vm.runs_on(survivor) and (vm.view().status.secondary is not None or not vm.runs_on(loser)),
        20,
        f"the copy on {loser} has ended",
    )
    if survivor == cut:
        wait_for(lambda: vm.event_codes().count("no-host") > refusals, 10, "it says why it is not protected")
        assert vm.epoch == before + 1, "somebody was tried over the dead network"
    lab.heal(cut)
    vm.wait_lockstep(SOON_S)
    assert vm.primary == survivor
