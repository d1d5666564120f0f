"""etcd loses a member, its majority, or its leader's disk stands still. None of these moves a guest by itself; without
a majority nothing is changed and nobody is promoted, and the API says why. All of it passes by itself."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pacing import FAILOVER_GAP_MS
from testlab import VM, Lab, wait_for

from vdc.lab.processes import signal_all


@contextmanager
def frozen(lab: Lab, hosts: Sequence[str]) -> Iterator[None]:
    """Their etcd members stand still, as with a disk that does not answer: connections stay, nothing comes."""
    members = [lab.etcd(host) for host in hosts]
    signal_all(members, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_all(members, signal.SIGCONT)


def test_one_member_may_stand_still_be_it_the_leader(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, pair = vm.epoch, (vm.primary, vm.secondary)
    follower = next(host for host in lab.hosts if host != lab.etcd_leader())
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        with frozen(lab, [follower]):
            lab.ok("create", "other", "--no-protect", "--wait", "--timeout", "40")
            workload.wait_progress(more=50, deadline_s=20)
        for _ in range(2):
            stalled = lab.etcd_leader()
            with frozen(lab, [stalled]):
                wait_for(lambda was=stalled: lab.etcd_leader() not in ("", was), 10, "another member leads")
                workload.wait_progress(more=50, deadline_s=20)
        assert (vm.epoch, vm.primary, vm.secondary) == (before, *pair), "no failover that nobody needs"
        vm.wait_lockstep(10)
        stalled = lab.etcd_leader()
        with frozen(lab, [stalled]):  # and one that is needed comes all the same
            vm.kill(pair[0])
            vm.wait_primary(pair[1])
            workload.wait_progress(more=50, deadline_s=20)
        vm.wait_lockstep()
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()


def test_without_a_majority_nobody_is_promoted_and_the_api_says_why(
    lab: Lab, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    before, first, second = vm.epoch, vm.primary, vm.secondary
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        with frozen(lab, lab.hosts[:2]):
            wait_for(lambda: "read-only" in refusal(lab, "create", "late"), 15, "changes are refused")
            for command in (
                ("delete", "endophyte", "web"),
                ("unprotect", "web"),
                ("promote", "replica"),
            ):
                refused = lab.cli(*command)
                assert refused.code == 1, command
                assert refused.error_line.endswith("(read-only)"), refused.error_line
                assert "majority" in refused.error_line and refused.hint
            assert "web" in lab.ok("get", "endophytes"), "looking is allowed"
            workload.wait_progress(more=100, deadline_s=20)
            vm.kill(first)
            wait_for(lambda: "taking over" in vm.sentence_on(second), 10, "the secondary would take over")
            assert all(vm.view(host).status.epoch == before for host in lab.hosts)
        vm.wait_primary(second)
        workload.wait_progress(more=50, deadline_s=40)
        vm.wait_lockstep()
    assert vm.epoch > before
    assert lab.vm_names() == ("web",)
    assert not workload.report.errors
    workload.check_store()


def refusal(lab: Lab, *command: str) -> str:
    done = lab.cli(*command)
    return done.stderr if done.code else ""
