"""Supervised against programs that are played: taken over, restarted with growing pauses, stopped, let go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from process_support import Program

from hostagent.drivers.process import Backoff, ProcessStartError, Supervised
from hostagent.drivers.process.handle import ProcessHandle


class Stage:
    """Clock, sleep and programs of one test."""

    def __init__(self, *lives_s: float, adoptable: Program | None = None, fails: bool = False) -> None:
        self.now = 0.0
        self.lives_s = list(lives_s)
        self.pauses: list[float] = []
        self.programs: list[Program] = []
        self.adoptable = adoptable
        self.fails = fails
        self.supervised = Supervised(
            "helper", self.start, Path("pidfile"), backoff=Backoff(1.0, 2.0, 5.0, 30.0),
            clock=lambda: self.now, sleep=self.sleep, find=self.find,
        )  # fmt: skip

    async def find(self, _: Path) -> ProcessHandle | None:
        found, self.adoptable = self.adoptable, None
        return found  # type: ignore[return-value]

    async def start(self) -> ProcessHandle:
        if self.fails:
            raise ProcessStartError("helper", "it is not there")
        program = Program()
        self.programs.append(program)
        if self.lives_s:
            self.now += self.lives_s.pop(0)
            program.ended.set()
        return program  # type: ignore[return-value]

    async def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        self.now += pause_s
        if len(self.pauses) > 8:
            await asyncio.Event().wait()

    async def until(self, condition: Callable[[], bool]) -> asyncio.Task[None]:
        task = asyncio.create_task(self.supervised.run())
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0)
        return task


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_pauses_double_up_to_a_limit() -> None:
    backoff = Backoff(first_s=0.5, factor=2.0, longest_s=4.0)
    assert [backoff.pause_s(count) for count in (1, 2, 3, 4, 5, 10_000)] == [0.5, 1, 2, 4, 4, 4]


async def test_a_program_that_dies_is_started_again_ever_later() -> None:
    stage = Stage(0, 0, 0, 0)
    task = await stage.until(lambda: len(stage.programs) == 5)
    assert stage.pauses == [1.0, 2.0, 4.0, 5.0]
    assert stage.supervised.starts == 5 and stage.supervised.last_error == "it ended with status 3"
    await end(task)


async def test_a_program_that_lived_is_forgiven() -> None:
    stage = Stage(0, 0, 31, 0)
    task = await stage.until(lambda: len(stage.programs) == 5)
    assert stage.pauses == [1.0, 2.0, 1.0, 2.0]
    await end(task)


async def test_a_restart_that_was_asked_for_is_no_failure() -> None:
    stage = Stage()
    task = await stage.until(lambda: stage.supervised.handle is not None)
    for count in range(2, 6):
        stage.supervised.restart()
        async with asyncio.timeout(30):
            while len(stage.programs) < count or stage.supervised.handle is not stage.programs[-1]:
                await asyncio.sleep(0)
    assert stage.pauses == []
    await end(task)


async def test_cancelling_leaves_the_program_alive() -> None:
    stage = Stage()
    task = await stage.until(lambda: stage.supervised.handle is not None)
    await end(task)
    (program,) = stage.programs
    assert program.is_closed and program.is_alive() and not program.was_terminated
    assert stage.supervised.handle is None


async def test_a_running_program_is_taken_over() -> None:
    program = Program()
    stage = Stage(adoptable=program)
    task = await stage.until(lambda: stage.supervised.handle is not None)
    assert stage.supervised.is_adopted and stage.supervised.starts == 0 and not stage.programs
    assert await stage.supervised.running() is program
    program.ended.set()
    async with asyncio.timeout(30):
        while not stage.programs:
            await asyncio.sleep(0)
    assert not stage.supervised.is_adopted
    await end(task)


async def test_stop_ends_it_and_run_returns() -> None:
    stage = Stage()
    task = await stage.until(lambda: stage.supervised.handle is not None)
    await stage.supervised.stop()
    await task
    assert stage.programs[0].was_terminated and stage.supervised.starts == 1


async def test_stop_without_run_ends_what_the_pidfile_names() -> None:
    program = Program()
    stage = Stage(adoptable=program)
    await stage.supervised.stop()
    assert program.was_terminated
    await stage.supervised.run()
    assert stage.supervised.starts == 0


async def test_stop_interrupts_a_pause() -> None:
    stage = Stage(*[0.0] * 20)
    task = await stage.until(lambda: len(stage.pauses) == 9)
    await stage.supervised.stop()
    await task
    assert len(stage.programs) == 9


async def test_a_start_that_fails_is_retried_and_told() -> None:
    stage = Stage(fails=True)
    task = await stage.until(lambda: len(stage.pauses) == 3)
    assert stage.supervised.last_error == "cannot start helper: it is not there"
    stage.fails = False
    async with asyncio.timeout(30):
        await stage.supervised.running()
    await end(task)
