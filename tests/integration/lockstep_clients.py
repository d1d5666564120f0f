"""Clients of a guest on the bare pair: sessions that live through failovers and notice anything wrong."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

ECHO, TALK, STORE = 7, 7000, 7001


class Opens(Protocol):
    """Whatever opens a TCP session to the guest."""

    def open(self, port: int) -> Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]: ...


class Talker:
    """One TCP session to port 7000 for as long as it runs: the guest numbers its answers."""

    def __init__(self, pair: Opens, interval_s: float = 0.02) -> None:
        self._pair, self._interval_s = pair, interval_s
        self.answers = 0
        self.latencies_ms: list[float] = []
        self.last_at = time.monotonic()
        self.failure = ""

    async def run(self) -> None:
        reader, writer = await self._pair.open(TALK)
        try:
            for number in itertools.count(1):
                sent = time.monotonic()
                writer.write(f"line {number}\n".encode())
                reply = (await reader.readline()).decode().split()
                if not reply or int(reply[0]) != number or reply[-1] != str(number):
                    self.failure = f"answer {number} was {reply}"
                    return
                self.last_at = time.monotonic()
                self.latencies_ms.append((self.last_at - sent) * 1000)
                self.answers = number
                await asyncio.sleep(self._interval_s)
        except OSError as error:
            self.failure = f"the session broke: {error}"
        finally:
            writer.close()


class Echo:
    """One TCP session to port 7; both copies of the guest answer alike, so nothing forces a checkpoint."""

    def __init__(self, pair: Opens, interval_s: float = 0.005) -> None:
        self._pair, self._interval_s = pair, interval_s
        self.answers = 0
        self.failure = ""

    async def run(self) -> None:
        reader, writer = await self._pair.open(ECHO)
        try:
            for number in itertools.count(1):
                writer.write(f"{number}\n".encode())
                if (reply := await reader.readline()) != f"{number}\n".encode():
                    self.failure = f"{number} came back as {reply!r}"
                    return
                self.answers = number
                await asyncio.sleep(self._interval_s)
        except OSError as error:
            self.failure = f"the session broke: {error}"
        finally:
            writer.close()


class Store:
    """Durable writes over one TCP session to port 7001; `audit` looks for all that was acknowledged."""

    def __init__(self, pair: Opens, interval_s: float = 0.02) -> None:
        self._pair, self._interval_s = pair, interval_s
        self.acknowledged: dict[int, str] = {}
        self.failure = ""

    async def run(self) -> None:
        reader, writer = await self._pair.open(STORE)
        try:
            for number in itertools.count(1):
                text = secrets.token_hex(64)
                writer.write(f"PUT {number} {text}\n".encode())
                reply = (await reader.readline()).decode().strip()
                if reply != f"OK {number}":
                    self.failure = f"PUT {number} was answered {reply!r}"
                    return
                self.acknowledged[number] = text
                await asyncio.sleep(self._interval_s)
        except OSError as error:
            self.failure = f"the session broke: {error}"
        finally:
            writer.close()

    async def audit(self) -> list[int]:
        """Numbers that were acknowledged and are not there as they were written."""
        reader, writer = await self._pair.open(STORE)
        lost = []
        for number, text in list(self.acknowledged.items()):
            writer.write(f"GET {number}\n".encode())
            if (await reader.readline()).decode().strip() != f"VALUE {number} {text}":
                lost.append(number)
        writer.close()
        return lost


@contextlib.asynccontextmanager
async def running(*clients: Talker | Echo | Store) -> AsyncIterator[None]:
    """The clients run for the time of the block."""
    tasks = [asyncio.create_task(client.run()) for client in clients]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def load(pair: Opens) -> AsyncIterator[tuple[Talker, Store]]:
    """A talker and a store for the time of the block."""
    talker, store = Talker(pair), Store(pair)
    async with running(talker, store):
        yield talker, store


async def wait_for(condition: Callable[[], bool], what: str, deadline_s: float) -> None:
    """Poll a condition of the world outside. Deadlines are those of a quiet machine: three times as long is waited."""
    deadline_s *= 3
    limit = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"{what} not within {deadline_s} s")
        await asyncio.sleep(0.02)
