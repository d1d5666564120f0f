"""A container's guest in lockstep: its init speaks with whoever is the primary's agent, and its program goes on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from container_guest import SOON_S, ContainerPair, Guest, config_of, image_folder, missing
from lockstep_clients import wait_for

from hostagent.drivers.guest import GuestError

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")
COUNTING = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done"


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    with image_folder() as folder:
        yield folder


def numbers(guest: Guest) -> list[int]:
    """What the program has counted, as this copy's file has it."""
    return [int(line.split()[-1]) for line in guest.said() if line.startswith("stdout F line ")]


async def test_the_init_speaks_with_the_next_primary(image: Path) -> None:
    config = config_of(command=["sh", "-c", COUNTING])
    async with ContainerPair(image, config) as pair:
        first = await pair.start_primary()
        old = Guest(first)
        before = await old.is_running()
        second = await pair.start_secondary()
        plan, _ = await pair.protect(first, second)
        await pair.in_sync(first, second)
        # Asking under lockstep, and something that is under way when the primary is lost.
        assert (await old.status()).pid == before.pid
        assert await old.run("cat", stdin=b"in") == (0, b"in", b"")
        lost = await old.line.open({"op": "exec", "argv": ["cat", "/dev/zero"]})
        await lost.read()
        counted = numbers(old)[-1]

        await pair.kill(first)
        await pair.take_over(second, plan)
        with pytest.raises(GuestError):
            while True:
                await lost.read()
        await old.close()

        new = Guest(second)
        after = await new.is_running()
        assert (after.pid, after.restarts, after.started_at) == (before.pid, 0, before.started_at)
        assert await new.run("sh", "-c", "echo $HOSTNAME") == (0, b"web\n", b"")
        async with asyncio.timeout(SOON_S):
            while "/dev/zero" in await new.sh("cat /proc/[0-9]*/cmdline 2>/dev/null | busybox tr '\\0' ' '"):
                await asyncio.sleep(0.2)  # what nobody waits for any more is ended
        await wait_for(lambda: numbers(new)[-1] > counted + 5, "lines after the failover", SOON_S)
        await new.close()
