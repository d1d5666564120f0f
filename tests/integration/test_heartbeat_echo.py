"""The real echo socket: answers come through, what others ask does not stand in their way, forgeries count nothing."""

from __future__ import annotations

import asyncio
import socket
import time

from hostagent.heartbeat.echo import Echo, checksum, request

ADDRESS, PEER = "127.0.0.1", "127.0.0.2"
BACKLOG = 2000  # far more than the socket's queue would hold


class Heard(list[tuple[str, float]]):
    """What an Echo has called back with."""

    def __call__(self, source: str, asked_at_s: float) -> None:
        self.append((source, asked_at_s))

    async def wait(self) -> None:
        async with asyncio.timeout(30):
            while not self:
                await asyncio.sleep(0.001)


async def test_answers_are_heard_though_many_ask_meanwhile() -> None:
    heard, others = Heard(), Heard()
    ours, theirs = Echo(ADDRESS, time.monotonic, heard), Echo(PEER, time.monotonic, others)
    try:
        for _ in range(BACKLOG):  # nobody reads meanwhile, as in an agent that sleeps
            theirs.ask(ADDRESS)
        await asyncio.sleep(0)
        before = time.monotonic()
        ours.ask(PEER)
        after = time.monotonic()
        await heard.wait()
    finally:
        ours.close()
        theirs.close()
    ((source, asked_at_s),) = heard
    assert source == PEER
    assert before <= asked_at_s <= after


async def test_an_answer_that_nobody_was_asked_for_is_none() -> None:
    """Without the mark, which only the asked one's network has seen; type, identifier and sequence are right."""
    heard = Heard()
    echo = Echo(ADDRESS, time.monotonic, heard)
    forged = bytearray(request(echo._identifier, 1, bytes(24)))
    forged[0], forged[2:4] = 0, b"\0\0"
    forged[2:4] = checksum(bytes(forged)).to_bytes(2, "big")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as attacker:
            attacker.bind((PEER, 0))
            attacker.sendto(forged, (ADDRESS, 0))
        echo.ask(PEER)  # the right one, sent later, comes through: so the forged one was read before it
        await heard.wait()
    finally:
        echo.close()
    assert [source for source, _ in heard] == [PEER]
    assert heard[0][1] > 0
