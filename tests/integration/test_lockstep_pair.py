"""A bare pair of real QEMUs and what happens to it; one TCP session and one writer go through all of it."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lockstep_clients import Store, Talker, load, wait_for
from lockstep_support import PROMPT_MS, Copy, Pair, missing

from hostagent.drivers.qemu import primary, secondary
from hostagent.drivers.qemu.entry import EntryFailedError
from hostagent.drivers.qemu.inspect import LiveRole, inspect
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.qmp import QmpError
from vdc.model.errors import VdcError

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


async def progress_of(talker: Talker, store: Store, deadline_s: float = 10) -> None:
    """Both clients get new answers, and neither was told anything wrong."""
    answers, acknowledged = talker.answers, len(store.acknowledged)
    await wait_for(
        lambda: (
            (talker.answers > answers + 5 and len(store.acknowledged) > acknowledged + 5)
            or bool(talker.failure or store.failure)
        ),
        "answers after the change",
        deadline_s,
    )
    assert not talker.failure
    assert not store.failure


async def protect(pair: Pair, prime: Copy) -> tuple[Copy, LockstepPlan, primary.EntryReport]:
    second = await pair.start_secondary()
    plan, report = await pair.protect(prime, second)
    await pair.in_sync(prime, second)
    return second, plan, report


async def role(copy: Copy) -> LiveRole:
    return (await inspect(copy.qmp)).role


async def test_one_session_and_every_write_survive_a_life_in_lockstep() -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            await progress_of(talker, store)
            second, plan, report = await protect(pair, first)
            assert report.stopped_ms < PROMPT_MS
            await progress_of(talker, store)

            await pair.kill(first)  # the primary is lost
            await pair.take_over(second, plan)
            await progress_of(talker, store)
            await pair.settle(second, plan)
            assert await role(second) is LiveRole.PROMOTED

            third, plan, _ = await protect(pair, second)  # protected again, behind the rewriter
            await progress_of(talker, store)

            third.signal(signal.SIGSTOP)  # the secondary is lost, silently
            await asyncio.sleep(0.2)
            figures = await primary.leave(second.qmp, plan)
            assert figures["total"] < PROMPT_MS
            await progress_of(talker, store)
            await pair.kill(third)
            assert (await inspect(second.qmp)).epoch is None

            fourth, plan, _ = await protect(pair, second)  # and again
            await progress_of(talker, store)

            await pair.switch(second, fourth, plan)  # a planned promotion
            await progress_of(talker, store)
            await pair.kill(second)
            await pair.settle(fourth, plan)
            await progress_of(talker, store)
        assert await store.audit() == []
        assert talker.answers > 50


async def test_two_disks_and_two_nics() -> None:
    async with Pair(disks=2, nics=2) as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            second, plan, _ = await protect(pair, first)
            await progress_of(talker, store)
            await pair.kill(first)
            await pair.take_over(second, plan)
            await progress_of(talker, store)
            await pair.settle(second, plan)
            third, plan, _ = await protect(pair, second)
            await pair.kill(third)
            await primary.leave(second.qmp, plan)
            await progress_of(talker, store)
            assert (await inspect(second.qmp)).epoch is None
        assert await store.audit() == []


FAULTS = (
    ("before anything was copied", 0.0, signal.SIGKILL),
    ("while memory is copied", 0.6, signal.SIGKILL),
    ("silently, while memory is copied", 0.6, signal.SIGSTOP),
)


async def test_a_failed_entry_leaves_the_guest_running() -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            for what, at, number in FAULTS:
                await fail_to_enter(pair, first, at, number)
                await progress_of(talker, store)
                state = await inspect(first.qmp)
                assert (state.role, state.status, state.epoch) == (LiveRole.ALONE, "running", None), what
            await protect(pair, first)
            await progress_of(talker, store)
        assert await store.audit() == []


async def fail_to_enter(pair: Pair, prime: Copy, at: float, number: signal.Signals) -> None:
    """Lose the secondary as soon as the entry's progress has reached `at`."""
    second = await pair.start_secondary()
    seen: list[float] = []

    def progress(value: float) -> None:
        seen.append(value)
        if value >= at:
            second.signal(number)

    with pytest.raises((EntryFailedError, QmpError)):
        await pair.protect(prime, second, deadline_s=8, progress=progress)
    assert seen
    await pair.kill(second)


async def test_a_cancelled_entry_leaves_the_guest_running() -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        for delay_s in (0.0, 0.2, 0.4):
            second, copying = await pair.start_secondary(), asyncio.Event()
            entering = asyncio.create_task(
                pair.protect(first, second, progress=lambda _, copying=copying: copying.set())
            )
            await copying.wait()  # what comes before is no entry yet, and takes long on a busy machine
            await asyncio.sleep(delay_s)
            entering.cancel()
            await asyncio.gather(entering, return_exceptions=True)
            state = await inspect(first.qmp)
            assert (state.role, state.status, state.epoch) in (
                (LiveRole.ALONE, "running", None),
                (LiveRole.PRIMARY, "running", pair.epoch),  # it was through already
            )
            await pair.kill(second)
            await primary.leave(first.qmp, pair.plan(first))
        await pair.guest_is_up(deadline_s=5)


async def test_a_stalled_checkpoint_shows_on_the_meter_and_leaving_frees_the_guest() -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            second, plan, _ = await protect(pair, first)
            second.signal(signal.SIGSTOP)
            await wait_for(lambda: first.meter.quiet_for(time.monotonic()) > 1, "a stalled checkpoint", 10)
            await primary.leave(first.qmp, plan)
            await progress_of(talker, store)
            await primary.leave(first.qmp, plan)  # idempotent
            await pair.kill(second)


async def test_a_paused_guest_is_not_taken_into_lockstep() -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await primary.quiesce(first.qmp)
        second = await pair.start_secondary()
        with pytest.raises(VdcError) as caught:
            await pair.protect(first, second)
        assert caught.value.code == "not-running"


async def test_a_guest_that_resets_is_safe_again_with_a_fresh_secondary() -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        second, plan, _ = await protect(pair, first)
        seen: list[str] = []
        first.qmp.add_listener(lambda event, _data, _at: seen.append(event))
        await first.qmp.execute("system_reset")
        await wait_for(lambda: bool(primary.ENDS_LOCKSTEP & set(seen)), "the event", 5)
        await primary.leave(first.qmp, plan)
        await pair.kill(second)
        await pair.guest_is_up()
        third, plan, _ = await protect(pair, first)
        await pair.kill(first)
        await pair.take_over(third, plan)
        async with load(pair) as (talker, store):
            await progress_of(talker, store)
        assert await store.audit() == []
        assert "panic" not in third.serial()


async def test_dropping_translated_code_really_drops_it_and_the_guest_runs_on() -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            await progress_of(talker, store)
            before = await flushes(first)
            await secondary.refresh_code(first.qmp)
            await secondary.refresh_code(first.qmp)
            assert await flushes(first) == before + 2
            await progress_of(talker, store)


async def flushes(copy: Copy) -> int:
    text = (await copy.qmp.execute("x-query-jit"))["human-readable-text"]
    return next(int(line.split()[-1]) for line in text.splitlines() if line.startswith("TB flush count"))
