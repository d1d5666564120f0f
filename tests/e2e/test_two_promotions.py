"""Two want to promote at the same time: two operators, or an operator and the secondary's own agent. One wins; the
other gets a conflict that names the epoch, and nothing happens twice."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from labcli import Done
from testlab import VM, Lab

RIVALS = {
    "another operator": None,
    "the agent, as the primary hangs": signal.SIGSTOP,
    "the agent, as the primary died": signal.SIGKILL,
}


def test_one_promotion_wins_and_the_other_is_told_the_epoch(
    lab: Lab, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    with lab.workload(vm) as workload:
        for rival, fault in RIVALS.items():
            before, first, second = vm.epoch, vm.primary, vm.secondary
            began = vm.event_codes().count("promoted")
            workload.wait_progress(more=30, deadline_s=20)
            if fault is not None:
                vm.kill(first, fault)
            done = promote(lab, second, at_once=2 if fault is None else 1)
            assert vm.wait_primary(second).status.epoch > before, rival
            if fault is None:
                assert sorted(one.code for one in done) == [0, 1], done
            for one in done:
                if one.code:
                    assert_says_why(one)
            workload.wait_progress(more=50, deadline_s=30)
            vm.wait_lockstep()
            assert vm.primary == second, rival
            assert vm.event_codes().count("promoted") == began + 1, rival
    assert not workload.report.errors
    workload.check_store()


def promote(lab: Lab, to: str, at_once: int) -> list[Done]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda _: lab.cli("promote", "replica", "web", "--to", to), range(at_once)))


def assert_says_why(done: Done) -> None:
    """One line, a code, and nothing that could be taken for a success."""
    assert done.code == 1
    codes = ("(already-primary)", "(fenced)", "(busy)", "(not-secondary)", "(overtaken)", "(primary-late)")
    assert done.error_line.endswith(codes), done.stderr
    assert "epoch" in done.error_line, done.error_line
    assert not done.stdout
