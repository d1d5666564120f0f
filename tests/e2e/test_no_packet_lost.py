"""`vdc promote replica`, again and again: no packet is lost.

On a busy machine QEMU's lockstep itself loses a packet now and then that comes just as a checkpoint begins, and each
promotion is watched for about a second and a half of it: a few in all are let pass. A promotion that drops what
comes during it loses ten and more.

A client on the overlay sends 200 numbered datagrams a second and holds one TCP session; its kernel counts
retransmissions. It has no agent: it learns from the guest's own frames where the guest is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from testlab import VM, Lab

from tests.integration.packet_probes import Datagrams, Retransmissions

PROMOTIONS = 3
LOST_AT_MOST = 3  # in all
LEAD_S = 0.5  # watched before
AFTER_S = (
    0.3  # and from the end of the command on: soon after it the next lockstep stops the guest for a moment
)
ANSWERED_S = 1.2
FIGURES = ("arbitrated_ms", "total_ms", "cut_ms", "network_ms", "open_output_ms")


@pytest.mark.alone
def test_a_planned_promotion_loses_no_packet(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    namespace, lost = lab.plan.client_namespace, list[str]()
    with (
        Datagrams(namespace, vm.address) as datagrams,
        Retransmissions(namespace) as again,
        lab.workload(vm, "echo") as workload,
    ):
        for number in range(PROMOTIONS):
            vm.wait_lockstep()
            workload.wait_progress(more=100, deadline_s=20)
            since = time.monotonic()
            time.sleep(LEAD_S)
            result = json.loads(lab.ok("promote", "replica", "-o", "json"))
            until = time.monotonic() + AFTER_S
            time.sleep(AFTER_S + ANSWERED_S)
            event = [one for one in lab.events(vm.name) if one["code"] == "promoted"][-1]
            figures = {name: event["figures"].get(name) for name in FIGURES}
            gap_ms = datagrams.longest_gap_ms(since, until)
            print(f"promotion {number + 1}: no datagram for {gap_ms:.0f} ms at most; {figures}")
            assert event["epoch"] == result["epoch"]
            assert "held_ms" not in event["figures"], "no checkpoint to cut at"
            lost += [f"datagram {at} ms into {number + 1}" for at in datagrams.lost(since, until)]
            lost += [f"segment {at} ms into {number + 1}" for at in again.between(since, until)]
            workload.wait_progress(more=100, deadline_s=20)
    assert not workload.report.errors
    assert len(lost) <= LOST_AT_MOST, lost
