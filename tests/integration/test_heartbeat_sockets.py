"""Heartbeats of real agents' parts over real sockets: heard when sealed for each other, and by nobody else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hostagent.heartbeat.heartbeats import Heartbeats
from hostagent.heartbeat.order import Refusal
from hostagent.heartbeat.peer import Introduction
from vdc.control.clock import SystemClock

ADDRESSES = {"h1": "127.0.0.1", "h2": "127.0.0.2"}
PORT = 17401
KEY = b"k" * 32
INTERVAL_MS = 50


@asynccontextmanager
async def agent(
    name: str, incarnation: int, peer: str, *, knows: int, key: bytes = KEY
) -> AsyncIterator[Heartbeats]:
    """Sends and hears; no echoes, so that silence is silence though the kernel answers for all of 127.0.0.0/8."""
    made = Heartbeats(
        name, incarnation, {"management": ADDRESSES[name]}, PORT,
        heartbeat_ms=INTERVAL_MS, suspect_ms=200, clock=SystemClock(), on_change=lambda _: None,
    )  # fmt: skip
    await made.start()
    for echo in made._echoes.values():
        echo.close()
    made._echoes.clear()
    made.set_peers({peer: Introduction({"management": ADDRESSES[peer]}, key, knows)})
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        made.close()
        await asyncio.sleep(0.01)  # a transport closes its socket in the loop's next turn


async def until_heard(by: Heartbeats, peer: str, incarnation: int) -> None:
    """TimeoutError after five seconds."""
    async with asyncio.timeout(30):
        while by._peers[peer].heard != incarnation:
            await asyncio.sleep(0.001)


async def test_two_agents_hear_each_other_and_one_that_was_restarted_again() -> None:
    async with agent("h1", 100, "h2", knows=200) as first:
        async with agent("h2", 200, "h1", knows=100) as second:
            await until_heard(first, "h2", 200)
            await until_heard(second, "h1", 100)
        async with agent("h2", 201, "h1", knows=1) as second:  # even its record of h1 is out of date
            await until_heard(first, "h2", 201)
            await until_heard(second, "h1", 100)
    assert Refusal.FORGED not in {*first.refused("h2"), *second.refused("h1")}


async def test_an_outsider_is_not_heard_whatever_it_sends() -> None:
    async with agent("h1", 100, "h2", knows=200) as first:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
            attacker.bind((ADDRESSES["h2"], PORT))
            for data in (
                b"",
                b"x" * 24,
                bytes(40),
                bytes(1400),
                bytes(9000),
                b'9\n{"v":2,"h":"h2","i":"a","d":[]}',
            ):
                attacker.sendto(data, (ADDRESSES["h1"], PORT))
        async with asyncio.timeout(30):
            while first.refused("h2").get(Refusal.FORGED) != 6:
                await asyncio.sleep(0.001)
    assert first._peers["h2"].heard == 0


async def test_a_peer_with_another_key_is_not_heard() -> None:
    async with agent("h1", 100, "h2", knows=200) as first, agent("h2", 200, "h1", knows=100, key=b"x" * 32):
        async with asyncio.timeout(30):
            while first.refused("h2").get(Refusal.FORGED, 0) < 3:
                await asyncio.sleep(0.001)
        assert first._peers["h2"].heard == 0
