"""Two want to promote at the same time: two operators, or an operator and the secondary's own agent. One wins; the
other gets a conflict that names the epoch, and nothing happens twice."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from testlab import VM, Done, Lab


def test_of_two_operators_one_wins(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, second = vm.epoch, vm.secondary
    with lab.workload(vm) as workload, ThreadPoolExecutor() as pool:
        workload.wait_progress(more=30, deadline_s=20)
        both = list(pool.map(lambda _: lab.cli("promote", "replica", "web", "--to", second), range(2)))
        assert sorted(done.code for done in both) == [0, 1], both
        loser = next(done for done in both if done.code)
        assert_says_why(loser)
        workload.wait_progress(more=50, deadline_s=30)
        vm.wait_lockstep()
    assert vm.primary == second
    assert vm.event_codes().count("promoted") == 1
    assert before < vm.epoch <= before + 2, "one promotion, then one protection"
    assert not workload.report.errors
    workload.check_store()


def test_an_operator_beside_the_automatic_promotion(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    with lab.workload(vm) as workload:
        for fault in (signal.SIGSTOP, signal.SIGKILL):
            before, first, second = vm.epoch, vm.primary, vm.secondary
            began = vm.event_codes().count("promoted")
            workload.wait_progress(more=30, deadline_s=20)
            vm.kill(first, fault)
            done = lab.cli("promote", "replica", "web", "--to", second)
            if done.code:
                assert_says_why(done)
            assert vm.wait_primary(second).status.epoch > before
            workload.wait_progress(more=50, deadline_s=30)
            vm.wait_lockstep()
            assert vm.event_codes().count("promoted") == began + 1
    assert not workload.report.errors
    workload.check_store()


def assert_says_why(done: Done) -> None:
    """One line, a code, and nothing that could be taken for a success."""
    assert done.code == 1
    assert done.error_line.endswith(
        ("(already-primary)", "(fenced)", "(busy)", "(not-secondary)", "(overtaken)")
    ), done.stderr
    assert "epoch" in done.error_line, done.error_line
    assert not done.stdout
