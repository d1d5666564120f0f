"""Real QEMUs whose files may not grow any more: what a bare pair does and says when one of its disks fails."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from file_limit import broken_disk
from lockstep_clients import Store, Talker, load, wait_for
from lockstep_support import Copy, Pair, missing

from hostagent.drivers.qemu import primary
from hostagent.drivers.qemu.spec import CONSOLE_SOCKET, SERIAL_LOG
from hostagent.drivers.qemu.steps import block_nodes, run_state
from hostagent.supervisor.logs import bound_log
from hostagent.supervisor.trouble import DiskTrouble
from vdc.model.endophyte import CopyRole, CopyStage

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


def listen(copy: Copy, role: CopyRole) -> DiskTrouble:
    trouble = DiskTrouble()

    def on_event(event: str, data: dict[str, Any], _at_s: float) -> None:
        trouble.on_event(event, data, role, CopyStage.LOCKSTEP, 1)

    copy.qmp.add_listener(on_event)
    return trouble


async def progress_of(talker: Talker, store: Store) -> None:
    answers, acknowledged = talker.answers, len(store.acknowledged)
    await wait_for(
        lambda: talker.answers > answers + 5 and len(store.acknowledged) > acknowledged + 5, "answers", 10
    )


async def test_a_secondarys_disk_that_fails_is_heard_on_both_sides_and_hurts_nobody() -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            second = await pair.start_secondary()
            plan, _ = await pair.protect(first, second)
            await pair.in_sync(first, second)
            here, there = listen(first, CopyRole.PRIMARY), listen(second, CopyRole.SECONDARY)
            with broken_disk(second.pid):
                await wait_for(lambda: bool(here.there and there.here), "both have heard", 20)
                assert not here.here, "the primary's own disk is well"
                await primary.leave(first.qmp, plan)
                await progress_of(talker, store)
            assert await run_state(first.qmp) == "running"
            assert {name for name in await block_nodes(first.qmp) if "-e" in name} == set()
        assert not talker.failure
        assert not store.failure
        assert await store.audit() == []


async def test_a_primarys_disk_that_fails_stops_it_and_the_secondary_has_every_write() -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            second = await pair.start_secondary()
            plan, _ = await pair.protect(first, second)
            await pair.in_sync(first, second)
            here, there = listen(first, CopyRole.PRIMARY), listen(second, CopyRole.SECONDARY)
            with broken_disk(first.pid):
                await wait_for(lambda: bool(here.here), "the primary has heard", 20)
                assert not here.there
                await pair.kill(first)  # it gives way
                assert not there.here
            await pair.take_over(second, plan)
            await pair.settle(second, plan)
            await progress_of(talker, store)
        assert not talker.failure
        assert not store.failure
        assert await store.audit() == []


async def test_a_guest_alone_stands_still_and_does_again_what_its_disk_refused() -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        stops: list[str] = []
        first.qmp.add_listener(lambda event, data, _: stops.append(event) if event == "STOP" else None)
        async with load(pair) as (talker, store):
            with broken_disk(first.pid):
                await wait_for(lambda: len(stops) == 1, "the guest stands still", 10)
                assert await run_state(first.qmp) == "io-error"
                await primary.resume(first.qmp)
                await wait_for(lambda: len(stops) == 2, "it was refused again", 10)
            await primary.resume(first.qmp)
            await progress_of(talker, store)
        assert not talker.failure
        assert not store.failure
        assert await store.audit() == []


async def test_a_console_log_that_was_cut_goes_on_from_its_new_beginning(tmp_path: Path) -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        log = first.folder / SERIAL_LOG
        _, writer = await asyncio.open_unix_connection(str(first.folder / CONSOLE_SOCKET))
        writer.write(b"echo so it beg''an\n")
        await wait_for(lambda: b"so it began" in log.read_bytes(), "the console's first words", 10)
        assert bound_log(log, tmp_path, limit_bytes=16, kept_bytes=8)
        writer.write(b"echo so it go''es on\n")
        await wait_for(lambda: b"so it goes on" in log.read_bytes(), "the console's next words", 10)
        assert b"\0" not in log.read_bytes(), "a hole up to where the writer was"
        assert b"began" not in log.read_bytes()
        assert (tmp_path / "serial.log.1").stat().st_size == 8
        writer.close()
