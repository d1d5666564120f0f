"""Comparing a live pair: both memories at a checkpoint, both disks while the guest writes, and on it goes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lockstep_clients import Echo, Store, running, wait_for
from lockstep_support import MIB, MINI, RUNTIME, Copy, Pair, missing
from throwaway_namespace import LOCAL

from hostagent.drivers.disk.comparison import REGION_BYTES, DiskComparison, compare_exports
from hostagent.drivers.disk.images import QemuImg
from hostagent.drivers.process import ProcessHandle
from hostagent.drivers.process.handle import watch_identity
from hostagent.drivers.process.identity import identity_of
from hostagent.drivers.qemu import exports, freezing, memory, primary
from hostagent.drivers.qemu.credentials import folder_name
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.sandbox import sandboxed
from hostagent.drivers.qemu.spec import VM_DIR
from hostagent.supervisor.confinement import guest_user

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

DISK_BYTES = 64 * MIB
ATTEMPTS = 10


def handle_of(copy: Copy) -> ProcessHandle:
    identity = identity_of(copy.pid)
    assert identity is not None
    watched = watch_identity(identity)
    assert watched is not None
    return ProcessHandle(watched)


@contextlib.asynccontextmanager
async def frozen(second: Copy) -> AsyncIterator[None]:
    """The pair stands still at a checkpoint of the secondary's."""
    process = handle_of(second)
    log = second.folder / "qemu.log"
    await freezing.tell_moments(second.qmp, enable=True)
    for _ in range(ATTEMPTS):
        if await asyncio.to_thread(freezing.freeze_at_checkpoint, process, log, 5.0):
            break
    else:
        raise AssertionError("the secondary could never be frozen in time")
    try:
        yield
    finally:
        freezing.thaw(process)
        await freezing.tell_moments(second.qmp, enable=False)
        process.close()


async def stale_pages(prime: Copy, second: Copy) -> dict[str, int]:
    """Differing pages by memory block; the pair has to be told where its blocks are before it is frozen."""
    mine, theirs = [await memory.ram_blocks(copy.qmp) for copy in (prime, second)]
    assert [block.name for block in mine] == [block.name for block in theirs]
    found: dict[str, int] = {}
    async with frozen(second):
        await wait_for(lambda: prime.meter.stalled_for(float("inf")) > 0, "the primary stands still", 5)
        for own, other in zip(mine, theirs, strict=True):
            one, two = await asyncio.gather(
                asyncio.to_thread(memory.chunk_digests, prime.pid, own),
                asyncio.to_thread(memory.chunk_digests, second.pid, other),
            )
            chunks = memory.differing(one, two)
            left, right = (
                memory.page_digests(copy.pid, block, chunks)
                for copy, block in ((prime, own), (second, other))
            )
            found[own.name] = sum(len(memory.differing(left[chunk], right[chunk])) for chunk in chunks)
    return found


async def compare_disk(prime: Copy, plan: LockstepPlan) -> DiskComparison:
    await exports.open_exports(prime.qmp, plan)
    try:
        tool = QemuImg(RUNTIME, prime.folder, MINI)
        return await compare_exports(tool, exports.SOCKET, *exports.names(0), DISK_BYTES)
    finally:
        await exports.close_exports(prime.qmp)


def write_to_secondary(pair: Pair, second: Copy, plan: LockstepPlan, offset: int) -> None:
    """Change the secondary's disk behind the primary's back."""
    server = f"server.type=inet,server.host={LOCAL},server.port={plan.ports.nbd}"
    target = f"driver=nbd,{server},export={plan.export(0)},tls-creds=own,tls-hostname=secondary"
    credentials = f"tls-creds-x509,id=own,endpoint=client,dir={VM_DIR}/{folder_name(plan.epoch)}"
    command = sandboxed(
        [
            "qemu-io", "--object", credentials, "--image-opts", target,
            "-c", f"write -P 0x5a {offset} 4096",
        ],
        guest_user(second.folder), runtime_root=RUNTIME, vm_dir=second.folder, image_dir=MINI, has_network=True,
    )  # fmt: skip
    inside = ("ip", "netns", "exec", pair.namespace.name)
    subprocess.run([*inside, *command], check=True, capture_output=True, timeout=20)


async def protected_pair() -> tuple[Pair, Copy, Copy, LockstepPlan]:
    pair = Pair()
    prime = await pair.start_primary()
    await pair.guest_is_up()
    second = await pair.start_secondary()
    plan, _ = await pair.protect(prime, second)
    await pair.in_sync(prime, second)
    return pair, prime, second, plan


async def test_a_pair_under_load_is_the_same_and_goes_on() -> None:
    pair, prime, second, plan = await protected_pair()
    echo, store = Echo(pair), Store(pair)

    async def more(count: int) -> None:
        answers, stored = echo.answers + count, len(store.acknowledged) + count
        await wait_for(lambda: echo.answers > answers and len(store.acknowledged) > stored, "answers", 10)

    async with pair, running(echo, store):
        await more(10)
        for _ in range(2):
            found = await stale_pages(prime, second)
            assert "pc.ram" in found and not any(found.values()), found
            await more(10)
        assert (await compare_disk(prime, plan)).differences == ()
        await more(10)
        assert [echo.failure, store.failure] == ["", ""]


async def test_what_differs_is_found() -> None:
    pair, prime, second, plan = await protected_pair()
    async with pair:
        mine, block = [
            next(one for one in await memory.ram_blocks(copy.qmp) if one.name == "pc.ram")
            for copy in (prime, second)
        ]
        async with frozen(second):
            with Path(f"/proc/{second.pid}/mem").open("r+b", buffering=0) as file:
                file.seek(block.address + block.size_bytes // 2)
                file.write(b"\x5a\xa5")
            one = await asyncio.to_thread(memory.chunk_digests, prime.pid, mine)
            two = await asyncio.to_thread(memory.chunk_digests, second.pid, block)
            assert memory.differing(one, two) == (block.size_bytes // 2 // memory.CHUNK_BYTES,)
        write_to_secondary(pair, second, plan, 40 * MIB)
        found = await compare_disk(prime, plan)
        assert found.differences == (40 * MIB // REGION_BYTES * REGION_BYTES,)


async def test_a_comparison_that_was_under_way_does_not_hold_up_leaving() -> None:
    pair, prime, second, plan = await protected_pair()
    async with pair:
        await exports.open_exports(prime.qmp, plan)
        second.signal(signal.SIGKILL)
        await primary.leave(prime.qmp, plan)
        nodes = await prime.qmp.execute("query-named-block-nodes", {"flat": True})
        assert plan.nbd_node(0) not in {node["node-name"] for node in nodes}
