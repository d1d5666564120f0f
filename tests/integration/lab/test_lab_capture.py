"""The capture sees a guest's frame as it leaves a host, also where nobody gets it, and nothing else."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable

from vdc.lab import api, impairment, kernel
from vdc.lab.capture import Capture, Frame
from vdc.lab.plan import LabPlan, Underlay
from vdc.lab.settings import Settings
from vdc.lab.survey import recorded_plan

GUEST, BRIDGE_MAC = "525400112233", "0276646346fe"
SOON_S = 5.0


def tunnelled(plan: LabPlan, mac: str, ethertype: int = 0x0806) -> bytes:
    inner = b"\xff" * 6 + bytes.fromhex(mac) + struct.pack("!H", ethertype) + bytes(46)
    return struct.pack("!II", 0x08000000, plan.network.vni << 8) + inner


def send(plan: LabPlan, sender: str, receiver: str, data: bytes, port: int = 4789) -> None:
    def emit() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(data, (str(plan.host(receiver).address(Underlay.MANAGEMENT)), port))

    kernel.in_namespace(plan.host(sender).namespace, emit)


def wait_frames(capture: Capture, count: int) -> list[Frame]:
    end = time.monotonic() + SOON_S
    while len(capture.frames) < count and time.monotonic() < end:
        time.sleep(0.01)
    return list(capture.frames)


async def test_what_a_host_emits_is_seen_and_by_whom(lab: str, settings: Settings) -> None:
    plan = recorded_plan(lab, settings)[0]
    with Capture(plan) as capture:
        began = time.time()
        send(plan, "h1", "h2", tunnelled(plan, BRIDGE_MAC))
        send(plan, "h1", "h2", tunnelled(plan, GUEST), port=4790)
        send(plan, "h1", "h2", tunnelled(plan, GUEST))
        send(plan, "h2", "h1", tunnelled(plan, GUEST, 0x86DD))
        seen = wait_frames(capture, 2)
    assert [(str(one.source), one.mac, one.protocol) for one in seen] == [
        ("10.70.0.1", "52:54:00:11:22:33", "arp"),
        ("10.70.0.2", "52:54:00:11:22:33", "ipv6"),
    ]
    assert began - 0.1 <= seen[0].at_s <= seen[1].at_s <= time.time() + 0.1
    assert not capture.dropped


async def test_what_a_cut_drops_is_seen_all_the_same(lab: str, settings: Settings) -> None:
    plan = recorded_plan(lab, settings)[0]
    with Capture(plan) as capture:
        send(plan, "h1", "h2", tunnelled(plan, GUEST))  # so that both know each other's address
        assert len(wait_frames(capture, 1)) == 1
        await api.fault(lab, "partition", "h1", network="management", settings=settings)
        send(plan, "h1", "h2", tunnelled(plan, GUEST))
        assert len(wait_frames(capture, 2)) == 2
    await api.fault(lab, "heal", "h1", settings=settings)


async def test_a_flap_cuts_and_mends_and_ends_whole(lab: str, settings: Settings) -> None:
    plan = recorded_plan(lab, settings)[0]
    host = plan.host("h2")

    def is_cut() -> bool:
        return impairment.wire_state(plan, host, Underlay.REPLICATION).drops_in

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SOON_S):
            while not condition():
                await asyncio.sleep(0.02)

    flap = asyncio.create_task(
        api.fault(lab, "flap", "h2", network="replication", times=2, settings=settings), name="flap"
    )
    for _ in range(2):
        await until(is_cut)
        await until(lambda: not is_cut())
    status = await flap
    assert status.hosts[1].state.value == "up"
    assert not is_cut()
