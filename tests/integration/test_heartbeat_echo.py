"""The real echo socket: answers come through, and what others ask does not stand in their way."""

from __future__ import annotations

import asyncio

from hostagent.heartbeat.echo import Echo

ADDRESS, PEER = "127.0.0.1", "127.0.0.2"
BACKLOG = 2000  # far more than the socket's queue would hold


async def test_answers_are_heard_though_many_ask_meanwhile() -> None:
    heard: list[str] = []
    others: list[str] = []
    ours, theirs = Echo(ADDRESS, heard.append), Echo(PEER, others.append)
    try:
        for _ in range(BACKLOG):  # nobody reads meanwhile, as in an agent that sleeps
            theirs.ask(ADDRESS)
        await asyncio.sleep(0)
        ours.ask(PEER)
        async with asyncio.timeout(5):
            while not heard:
                await asyncio.sleep(0.001)
    finally:
        ours.close()
        theirs.close()
    assert heard == [PEER]
