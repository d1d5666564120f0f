"""etcd hears a host and its answers never arrive: who cannot know whether it won does not speak, and reads back."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from testlab import VM, Lab, wait_for

ETCD_PORT = 7379
# Where a segment's payload begins, in bits, by the length of its header in words (with and without options).
PAYLOAD = {words: words * 32 for words in (5, 8, 11, 13)}
APPLICATION_DATA = (
    "0x17"  # how a TLS record begins that is no handshake in clear: handshakes pass, answers do not
)


@contextmanager
def answers_swallowed(lab: Lab, host: str) -> Iterator[None]:
    """What the host asks of etcd arrives there; what any member answers is lost on the way back."""
    namespace = lab.plan.host(host).namespace
    answers = "\n".join(
        f"tcp sport {ETCD_PORT} tcp doff {words} @th,{bits},8 {APPLICATION_DATA} drop"
        for words, bits in PAYLOAD.items()
    )
    rules = f"""
        table ip swallow {{
            chain answers {{
                type filter hook input priority 0;
                {answers}
            }}
        }}
    """
    nft = ("ip", "netns", "exec", namespace, "nft")
    subprocess.run([*nft, "-f", "-"], input=rules, text=True, check=True, timeout=10)
    try:
        yield
    finally:
        subprocess.run([*nft, "delete", "table", "ip", "swallow"], check=True, timeout=10)


def doubts(lab: Lab, host: str) -> int:
    """How often this host's agent has said that it cannot know the outcome."""
    return lab.agent_log(host, last_bytes=1 << 30).count("cannot be known")


@pytest.mark.parametrize("won", [True, False], ids=["it has won", "it has lost"])
def test_nobody_speaks_on_an_unknown_outcome(lab: Lab, protected_vm: Callable[..., VM], won: bool) -> None:
    vm = protected_vm("web")
    before, first, second, spare = vm.epoch, vm.primary, vm.secondary, vm.spare
    had_doubts, known = doubts(lab, second), len(lab.events("web"))
    with lab.workload(vm, patience_s=60) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        with answers_swallowed(lab, second):
            if won:
                vm.kill(first)
            else:
                lab.fault("partition", first, network="replication", direction="both")

            def is_decided() -> bool:
                view = vm.view(spare)
                copy = view.status.primary
                return (
                    view.status.epoch > before
                    and copy is not None
                    and copy.host == (second if won else first)
                )

            wait_for(is_decided, 15, "the record names a winner")
            wait_for(lambda: doubts(lab, second) > had_doubts, 15, f"{second} has given up waiting")
            assert not vm.is_on_network(second), "it cannot know that it may speak"
            if not won:
                workload.wait_progress(more=30, deadline_s=20)
        if won:
            wait_for(lambda: vm.is_on_network(second), 15, f"{second} has read that it won")
        else:
            wait_for(lambda: not vm.runs_on(second), 20, f"the copy on {second} has ended")
            lab.heal(first)
        workload.wait_progress(more=30, deadline_s=30)
        winner = vm.view().status.primary
        assert winner and winner.host == (second if won else first)
        told = [event for event in lab.events("web")[known:] if event["code"] in ("promoted", "alone")]
        assert {event["host"] for event in told if event["epoch"] == before + 1} == {winner.host}
    assert not workload.report.errors
    workload.check_store()
