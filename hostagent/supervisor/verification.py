"""Proving that both copies are the same: memory page by page at one checkpoint, disks block by block after it.

The primary's host leads. The secondary is frozen where a checkpoint's memory was applied and its guest does not
run yet; the primary's guest waits for it there, so both memories have to be equal. Each host digests its own
copy, and only digests travel. Disks are compared while the guest runs.

Invariants: a frozen secondary goes on by itself after `HOLD_S` whatever becomes of whoever asked, after a restart
of its agent (a marker file says that it was frozen), and before this host does anything else with it. While it is
frozen a missing checkpoint is no stall; every other evidence counts as always.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hostagent.drivers.disk.comparison import compare_exports
from hostagent.drivers.disk.images import QemuImg
from hostagent.drivers.process import ProcessHandle
from hostagent.drivers.qemu import exports, freezing, memory
from hostagent.drivers.qemu.memory import RamBlock
from hostagent.drivers.qemu.qmp import QmpError
from hostagent.supervisor import primary
from hostagent.supervisor.confinement import QEMU_LOG
from hostagent.supervisor.copy import Copy
from vdc.api import models as wire
from vdc.model.endophyte import CopyStage, Endophyte
from vdc.model.errors import ConflictError, FencedError, UnavailableError
from vdc.model.event import Severity
from vdc.model.pair import Pair
from vdc.model.units import MIB

_AGAIN_S = 0.5
HOLD_S = 30.0  # longest that a secondary stays frozen
ATTEMPTS = 12
CHECKPOINT_S = 5.0
_STANDS_STILL_S = 2.0
_SAMPLE_BYTES = 16 * MIB
_OVERHEAD_MS = 30.0  # of the questions between the hosts while the guest stands still
_MARKER = "frozen"


class Peer(Protocol):
    """The other host's agent."""

    async def peer_freeze(self, name: str, request: wire.PeerRequest) -> wire.Frozen:
        """See the API."""
        ...

    async def peer_digests(self, name: str, request: wire.DigestRequest) -> wire.MemoryDigests:
        """See the API."""
        ...

    async def peer_thaw(self, name: str, request: wire.PeerRequest) -> wire.Acknowledged:
        """See the API."""
        ...


# ---- the secondary's side


@dataclass
class Freezer:
    """Freezes this host's secondary, and lets it go on."""

    copy: Copy
    blocks: tuple[RamBlock, ...] = ()
    _is_frozen: bool = False
    _dead_man: asyncio.TimerHandle | None = None

    @property
    def _marker(self) -> Path:
        return self.copy.folder / _MARKER

    async def freeze(self) -> wire.Frozen:
        """Freeze at the next checkpoint; `is_frozen` is False where that came too late."""
        copy = self.copy
        process = copy.process
        if process is None or not copy.is_alive:
            raise ConflictError(f"{copy.name} has no running secondary here", code="not-secondary")
        self.blocks = await memory.ram_blocks(copy.session())
        await freezing.tell_moments(copy.session(), enable=True)
        copy.is_held = True
        self._dead_man = asyncio.get_running_loop().call_later(HOLD_S, self._release_late)
        self._marker.touch()
        try:
            self._is_frozen = await asyncio.to_thread(
                freezing.freeze_at_checkpoint, process, copy.folder / QEMU_LOG, CHECKPOINT_S
            )
            if self._is_frozen and not self._marker.exists():  # released before it stood still
                self._is_frozen = False
                freezing.thaw(process)
        finally:
            if not self._is_frozen:
                await self.release()
        sizes = {block.name: block.size_bytes for block in self.blocks}
        return wire.Frozen(is_frozen=self._is_frozen, blocks=sizes if self._is_frozen else {})

    async def digests(self, chunks: dict[str, tuple[int, ...]]) -> wire.MemoryDigests:
        """Of each MiB, or of the pages of the given ones. Raises ConflictError where it did not stand still."""
        self._require_frozen()
        assert self.copy.process is not None
        found = await asyncio.to_thread(_digests, self.copy.process.pid, self.blocks, chunks)
        self._require_frozen()
        return found

    async def release(self) -> None:
        """Let the secondary go on. Harmless where it is not frozen."""
        was_held = self._thaw()
        if was_held and self.copy.is_alive:
            with suppress(QmpError):
                await freezing.tell_moments(self.copy.session(), enable=False)

    def _release_late(self) -> None:
        if self._thaw():
            self.copy.host.log.warning(
                "a frozen secondary was let go after its time", endophyte=self.copy.name
            )

    def _thaw(self) -> bool:
        copy, was_held = self.copy, self._dead_man is not None
        if self._dead_man is not None:
            self._dead_man.cancel()
            self._dead_man = None
        if was_held and copy.process is not None:
            freezing.thaw(copy.process)
        self._is_frozen = False
        if was_held:
            copy.meter.excuse(time.monotonic())
            copy.is_held = False
            self._marker.unlink(missing_ok=True)
        return was_held

    def _require_frozen(self) -> None:
        if not self._is_frozen or not self.copy.is_alive:
            raise ConflictError(f"the secondary of {self.copy.name} is not frozen", code="not-frozen")


def thaw_after_restart(folder: Path, process: ProcessHandle) -> None:
    """An earlier agent may have died while the process was frozen."""
    if (folder / _MARKER).exists():
        process.signal(signal.SIGCONT)
        (folder / _MARKER).unlink(missing_ok=True)


def _digests(pid: int, blocks: Sequence[RamBlock], chunks: dict[str, tuple[int, ...]]) -> wire.MemoryDigests:
    by_name = {block.name: block for block in blocks}
    if chunks:
        pages = {
            name: memory.page_digests(pid, by_name[name], wanted)
            for name, wanted in chunks.items()
            if name in by_name
        }
        return wire.MemoryDigests(pages=pages)
    return wire.MemoryDigests(chunks={block.name: memory.chunk_digests(pid, block) for block in blocks})


# ---- the primary's side


class Verification:
    """One comparison, led by the primary's host."""

    def __init__(self, copy: Copy, pair: Pair, peer: Peer) -> None:
        assert pair.secondary is not None
        self._copy, self._pair, self._peer = copy, pair, peer
        self._secondary = pair.secondary
        self._request = wire.PeerRequest(epoch=pair.epoch, from_host=copy.host.name)

    async def estimate_ms(self) -> float:
        """For how long the guest will stand still; measured on a part of its memory, which is only read."""
        blocks = await memory.ram_blocks(self._copy.session())
        pid = self._pid()
        largest = max(blocks, key=lambda block: block.size_bytes)
        sample = RamBlock(largest.name, largest.address, min(_SAMPLE_BYTES, largest.size_bytes))
        began = time.monotonic()
        await asyncio.to_thread(memory.chunk_digests, pid, sample)
        took_ms = (time.monotonic() - began) * 1000
        total = sum(block.size_bytes for block in blocks)
        return round(took_ms * total / sample.size_bytes + _OVERHEAD_MS, 1)

    async def run(self, *, dry_run: bool) -> wire.VerifyResult:
        """Compare. Raises ConflictError where lockstep ended meanwhile, UnavailableError where it never froze."""
        pair, copy = self._pair, self._copy
        result = wire.VerifyResult(
            name=copy.name, epoch=pair.epoch, primary=pair.primary, secondary=self._secondary,
            estimated_ms=await self.estimate_ms(), sentence="not compared yet",
        )  # fmt: skip
        if dry_run:
            sentence = f"the guest would stand still for about {result.estimated_ms:.0f} ms"
            return result.with_(sentence=sentence)
        compared, frozen_ms, attempts = await self._compare_memory()
        disks = await self._compare_disks()
        is_same = not any(block.differing_pages for block in compared)
        is_same = is_same and not any(disk.differences for disk in disks)
        result = result.with_(
            memory=compared, disks=disks, frozen_ms=frozen_ms, attempts=attempts, is_same=is_same
        )
        result = result.with_(sentence=_sentence(result))
        await self._tell(result)
        return result

    async def _compare_memory(self) -> tuple[tuple[wire.MemoryComparison, ...], float, int]:
        copy = self._copy
        blocks = await memory.ram_blocks(copy.session())
        copy.is_held = True
        try:
            attempts, frozen = await self._freeze()
            began = time.monotonic()
            await self._until_guest_waits()
            before = copy.meter.count
            compared = await self._compare_blocks(blocks, frozen.blocks)
            if not copy.meter.is_stopped or copy.meter.count != before:
                raise ConflictError(f"{copy.name} went on before it was compared", code="not-frozen")
            await self._peer.peer_thaw(copy.name, self._request)
            return compared, round((time.monotonic() - began) * 1000, 1), attempts
        finally:
            with suppress(UnavailableError, ConflictError):
                await asyncio.shield(self._peer.peer_thaw(copy.name, self._request))
            copy.meter.excuse(time.monotonic())
            copy.is_held = False

    async def _freeze(self) -> tuple[int, wire.Frozen]:
        """Freeze the secondary; its number of attempts."""
        for attempt in range(1, ATTEMPTS + 1):
            frozen = await self._peer.peer_freeze(self._copy.name, self._request)
            if frozen.is_frozen:
                return attempt, frozen
        raise UnavailableError(
            f"the secondary of {self._copy.name} could not be stopped at the right moment {ATTEMPTS} times",
            code="never-frozen",
            hint="the machine is busy; try again",
        )

    async def _until_guest_waits(self) -> None:
        """QEMU's STOP event may still be on its way."""
        end = time.monotonic() + _STANDS_STILL_S
        while not self._copy.meter.is_stopped:
            if time.monotonic() > end:
                raise ConflictError(f"{self._copy.name} does not wait for its secondary", code="not-frozen")
            await asyncio.sleep(0.001)

    async def _compare_blocks(
        self, blocks: Sequence[RamBlock], theirs: dict[str, int]
    ) -> tuple[wire.MemoryComparison, ...]:
        if {block.name: block.size_bytes for block in blocks} != theirs:
            raise ConflictError("the copies have other memory blocks", code="memory-unlike")
        mine, other = await asyncio.gather(
            asyncio.to_thread(_digests, self._pid(), blocks, {}),
            self._peer.peer_digests(self._copy.name, wire.DigestRequest(**dict(self._request))),
        )
        found = []
        for block in blocks:
            chunks = memory.differing(mine.chunks[block.name], other.chunks.get(block.name, ()))
            pages = await self._count_pages(block, chunks) if chunks else 0
            total = block.size_bytes // memory.PAGE_BYTES
            found.append(
                wire.MemoryComparison(
                    block=block.name, size_bytes=block.size_bytes, pages=total, differing_pages=pages
                )
            )
        return tuple(found)

    async def _count_pages(self, block: RamBlock, chunks: tuple[int, ...]) -> int:
        request = wire.DigestRequest(**dict(self._request), chunks={block.name: chunks})
        mine, other = await asyncio.gather(
            asyncio.to_thread(_digests, self._pid(), [block], request.chunks),
            self._peer.peer_digests(self._copy.name, request),
        )
        ours, theirs = mine.pages[block.name], other.pages.get(block.name, {})
        return sum(len(memory.differing(ours[chunk], theirs.get(chunk, ()))) for chunk in chunks)

    async def _compare_disks(self) -> tuple[wire.DiskComparison, ...]:
        copy = self._copy
        plan = copy.state.plan
        facts = copy.state.machine
        assert plan is not None and facts is not None
        tool = QemuImg(copy.host.config.runtime, copy.guest, copy.host.image_dir)
        await exports.open_exports(copy.session(), plan.plan())
        try:
            found = []
            for disk, size_bytes in enumerate(facts.disk_sizes_bytes):
                compared = await compare_exports(tool, exports.SOCKET, *exports.names(disk), size_bytes)
                found.append(
                    wire.DiskComparison(disk=disk, size_bytes=size_bytes, differences=compared.differences)
                )
            return tuple(found)
        finally:
            if copy.is_alive:
                await asyncio.shield(exports.close_exports(copy.session()))

    async def _tell(self, result: wire.VerifyResult) -> None:
        host, name, epoch = self._copy.host, self._copy.name, self._pair.epoch
        figures = {
            "frozen_ms": result.frozen_ms,
            "memory_bytes": float(sum(block.size_bytes for block in result.memory)),
            "disk_bytes": float(sum(disk.size_bytes for disk in result.disks)),
        }
        if result.is_same:
            severity = Severity.NORMAL
            await host.tell(name, "verified", result.sentence, epoch=epoch, severity=severity, **figures)
            return
        severity = Severity.WARNING
        await host.tell(name, "replica-differs", result.sentence, epoch=epoch, severity=severity, **figures)

    def _pid(self) -> int:
        if self._copy.process is None:
            raise ConflictError(f"{self._copy.name} does not run here", code="not-primary")
        return self._copy.process.pid


def comparing(
    copy: Copy, peer: Peer, *, dry_run: bool, as_departure: Callable[[], None]
) -> Callable[[], Awaitable[wire.VerifyResult]]:
    """The job that compares both copies and gives up one that differs; it calls `as_departure` first then.

    Raises ConflictError where this host is not the primary of a lockstep.
    """
    pair, endophyte = copy.host.mirror.pair(copy.name), copy.host.mirror.endophyte(copy.name)
    if pair is None or copy.state.stage is not CopyStage.LOCKSTEP or pair.primary != copy.host.name:
        raise ConflictError(f"{copy.name} is not in lockstep here", code="not-in-lockstep")
    comparison = Verification(copy, pair, peer)

    async def work() -> wire.VerifyResult:
        result = await comparison.run(dry_run=dry_run)
        if result.is_same is False:  # one job with what follows from it: whoever asked may have gone away
            as_departure()
            await _give_up_differing(copy, endophyte, pair, result.sentence)
        return result

    return work


async def _give_up_differing(copy: Copy, endophyte: Endophyte | None, pair: Pair, why: str) -> None:
    """A replica that was proven different must not be promoted: until the record says so, it is said again."""
    while True:
        try:
            await primary.alone(copy, endophyte, pair, f"the replica differs: {why}")
            return
        except (UnavailableError, FencedError, ConflictError) as error:
            copy.host.log.warning(
                "a differing replica is not given up yet", endophyte=copy.name, why=str(error)
            )
        present = copy.host.mirror.pair(copy.name)
        if present is not None and present.epoch != pair.epoch:
            return
        await asyncio.sleep(_AGAIN_S)


def _sentence(result: wire.VerifyResult) -> str:
    pages = sum(block.pages for block in result.memory)
    stale = sum(block.differing_pages for block in result.memory)
    places = sum(len(disk.differences) for disk in result.disks)
    disks = (
        f"{places} places of {len(result.disks)} disks differ" if places else "no block of the disks differs"
    )
    return f"{stale} of {pages} memory pages differ, {disks}; the guest stood still for {result.frozen_ms:.0f} ms"
