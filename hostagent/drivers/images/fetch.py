"""One blob from several hosts at once, chunk by chunk.

Each host is asked for runs of chunks (`Range`), as fast as it sends them. One that breaks off, stalls or sends
something else is left for this round, and the others do what it has not done; rounds go on for as long as they bring
something. Nothing that comes is trusted: a host whose chunks do not match the list is not asked again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import aiohttp

from hostagent.drivers.images.bandwidth import Bandwidth
from vdc.api.routes import BY_NAME
from vdc.images.assembly import Assembly
from vdc.images.chunks import CHUNK_BYTES, ChunkList, list_bytes
from vdc.images.writing import in_thread
from vdc.model.errors import InvalidError, UnavailableError
from vdc.model.image import Blob

_LOG = logging.getLogger(__name__)

CONNECT_S = 3.0
STALL_S = 10.0
PACE_S = 30.0  # the longest that `_PIECE_BYTES` may take: a host that sends drop by drop is left
STREAMS = 2  # per host: one is sending while the other's bytes are written
_PIECE_BYTES = 1024**2
_MOST_CHUNKS = 16  # in one request
_PARTIAL, _OK = 206, 200


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a host may be silent."""

    connect_s: float = CONNECT_S
    stall_s: float = STALL_S
    pace_s: float = PACE_S

    @property
    def timeout(self) -> aiohttp.ClientTimeout:
        """For a request of any length."""
        return aiohttp.ClientTimeout(total=None, sock_connect=self.connect_s, sock_read=self.stall_s)


class NotServedError(Exception):
    """The host answered, but not with what was asked for."""


@dataclass(slots=True)
class _Run:
    """Chunks in a row: `first` is the next to come, `end` is not part of it."""

    first: int
    end: int


class Fetch:
    """Of one blob into its assembly. `failures`: why hosts were left; `liars`: who sent something else."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        assembly: Assembly,
        bandwidth: Bandwidth,
        patience: Patience,
    ) -> None:
        self._session = session
        self._assembly = assembly
        self._bandwidth = bandwidth
        self._patience = patience
        self._queue: deque[_Run] = deque()
        self._from: dict[int, str] = {}
        self._under_way = 0  # runs that are being read
        self._given_back = asyncio.Event()
        self._grown = asyncio.Event()
        self.failures: dict[str, str] = {}
        self.liars: set[str] = set()

    @property
    def contributors(self) -> list[str]:
        """Hosts that chunks came from."""
        return sorted(set(self._from.values()))

    async def run(self, peers: Sequence[str]) -> None:
        """Until the blob is whole, verified and in its place.

        Raises UnavailableError (`image-unavailable`) when a round over all hosts brings nothing,
        InvalidError where the chunk list is wrong, RefusedError (`no-space`).
        """
        hasher = asyncio.create_task(self._hash_along(), name="image-digest")
        try:
            await self._fill(peers)
        finally:
            hasher.cancel()
            await asyncio.gather(hasher, return_exceptions=True)
        while wrong := await in_thread(self._assembly.publish, self._assembly.folder):
            self._accuse(wrong)
            await self._fill(peers)

    async def _fill(self, peers: Sequence[str]) -> None:
        """Rounds until no chunk is missing."""
        while missing := self._assembly.missing:
            asked = [peer for peer in peers if peer not in self.liars]
            before = len(missing)
            self._queue = deque(_runs(missing))
            await self._round(asked)
            if len(self._assembly.missing) == before:
                raise unavailable(self._assembly.blob, self.failures)

    async def _round(self, peers: Sequence[str]) -> None:
        left: set[str] = set()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(STREAMS):
                    for peer in peers:
                        work = self._take_from(peer, left, len(peers))
                        group.create_task(work, name=f"image-from-{peer}-{number}")
        except BaseExceptionGroup as found:
            raise found.exceptions[0] from None

    async def _take_from(self, peer: str, left: set[str], peers: int) -> None:
        """One stream of one host: runs from the queue until nothing is left or the host fails.

        With an empty queue it waits for what others are at: one of them may fail.
        """
        while peer not in left and (self._queue or self._under_way):
            run = self._next_run(peers)
            if run is None:
                await self._given_back.wait()
                continue
            self._under_way += 1
            try:
                await self._read(peer, run)
            except (NotServedError, aiohttp.ClientError, TimeoutError, OSError) as error:
                self.failures[peer] = str(error) or type(error).__name__
                left.add(peer)
            finally:
                self._under_way -= 1
                if run.first < run.end:
                    self._queue.appendleft(run)
                if run.first < run.end or not self._under_way:
                    self._given_back.set()
                    self._given_back = asyncio.Event()

    def _next_run(self, peers: int) -> _Run | None:
        """Shorter ones towards the end, so that no host is waited for while others have nothing to do."""
        if not self._queue:
            return None
        waiting = sum(run.end - run.first for run in self._queue)
        most = max(1, min(_MOST_CHUNKS, waiting // (2 * STREAMS * peers)))
        run = self._queue.popleft()
        if run.end - run.first > most:
            self._queue.appendleft(_Run(run.first + most, run.end))
            run.end = run.first + most
        return run

    async def _read(self, peer: str, run: _Run) -> None:
        assembly, blob = self._assembly, self._assembly.blob
        begin, end = run.first * CHUNK_BYTES, min(run.end * CHUNK_BYTES, blob.size_bytes)
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={begin}-{end - 1}"}
        async with self._session.get(
            blob_url(peer, "read_blob", blob.digest), headers=headers, timeout=self._patience.timeout,
            read_bufsize=_PIECE_BYTES,
        ) as response:  # fmt: skip
            if response.status == _OK and (begin, end) == (0, blob.size_bytes):
                pass  # all of it was asked for
            elif response.status != _PARTIAL:
                raise NotServedError(f"it answered {response.status}")
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {begin}-{end - 1}/"):
                raise NotServedError("it sent another range than was asked for")
            place = begin
            async for piece in self._pieces(response, end - begin):
                await self._write(place, piece)
                place += len(piece)
                while run.first < run.end and place >= min((run.first + 1) * CHUNK_BYTES, end):
                    self._from[run.first] = peer
                    assembly.complete(run.first)
                    run.first += 1
                    self._grown.set()
        if run.first < run.end:
            raise NotServedError("it ended before what was asked for did")

    async def _write(self, place: int, piece: bytes) -> None:
        """Raises no OSError: that is what a host's failure looks like."""
        try:
            await in_thread(lambda: self._assembly.write(place, piece), self._assembly.folder)
        except OSError as error:
            raise UnavailableError(
                f"{self._assembly.blob.digest} cannot be written: {error.strerror}", code="image-unwritable"
            ) from error

    async def _pieces(self, response: aiohttp.ClientResponse, size_bytes: int) -> AsyncIterator[bytes]:
        """The body in pieces that are worth a thread; no more of it than was asked for."""
        parts: list[bytes] = []
        waiting = 0
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async for part in response.content.iter_any():
            wanted = part[:size_bytes]
            size_bytes -= len(wanted)
            parts.append(wanted)
            waiting += len(wanted)
            before_s = loop.time()
            await self._bandwidth.take(len(wanted))
            began_s += loop.time() - before_s  # that was not the host's fault
            if waiting >= _PIECE_BYTES or not size_bytes:
                yield b"".join(parts)
                parts, waiting, began_s = [], 0, loop.time()
            elif loop.time() - began_s > self._patience.pace_s:
                raise NotServedError(f"it brought less than 1 MiB in {self._patience.pace_s:g} s")
            if not size_bytes:
                return

    async def _hash_along(self) -> None:
        while True:
            await self._grown.wait()
            self._grown.clear()
            await in_thread(self._assembly.hash_on, self._assembly.folder)

    def _accuse(self, wrong: Sequence[int]) -> None:
        for peer in sorted({self._from.pop(index) for index in wrong}):
            self.liars.add(peer)
            self.failures[peer] = "it sent something else than the blob"
            _LOG.warning("%s sent something else than %s", peer, self._assembly.blob.digest)


async def fetch_list(
    session: aiohttp.ClientSession, blob: Blob, expected: str | None, peers: Sequence[str], patience: Patience
) -> ChunkList:
    """The chunk list of a blob: the one whose digest is `expected`, from whichever host has it.

    Raises UnavailableError (`image-unavailable`) with each one's reason.
    """
    if blob.size_bytes <= CHUNK_BYTES:
        return ChunkList.of_small(blob)
    failures: dict[str, str] = {}
    for peer in peers:
        try:
            async with session.get(
                blob_url(peer, "read_chunks", blob.digest), timeout=patience.timeout
            ) as response:
                if response.status != _OK:
                    raise NotServedError(f"it answered {response.status}")
                content = await _at_most(response, list_bytes(blob.size_bytes))
            found = ChunkList.of(blob, content)
            if found.digest == expected:
                return found
            raise NotServedError("its chunk list is not the one in the record")
        except (NotServedError, InvalidError, aiohttp.ClientError, TimeoutError, OSError) as error:
            failures[peer] = str(error) or type(error).__name__
    raise unavailable(blob, failures)


async def _at_most(response: aiohttp.ClientResponse, size_bytes: int) -> bytes:
    content = bytearray()
    async for part in response.content.iter_any():
        content += part
        if len(content) > size_bytes:
            raise NotServedError("it sent too much")
    return bytes(content)


def unavailable(blob: Blob, failures: dict[str, str]) -> UnavailableError:
    """`image-unavailable`, with the reason of each host."""
    reasons = "; ".join(f"{peer}: {reason}" for peer, reason in sorted(failures.items()))
    return UnavailableError(
        f"no host could send {blob.digest}: {reasons or 'none holds it'}",
        hint="start the hosts that hold the image, or import it again",
        code="image-unavailable",
    )


def blob_url(peer: str, route: str, digest: str) -> str:
    """`peer`: an API base URL."""
    return peer.rstrip("/") + BY_NAME[route].path.format(digest=digest)


def _runs(indices: Sequence[int]) -> list[_Run]:
    """Chunks that follow each other."""
    runs: list[_Run] = []
    for index in indices:
        if runs and runs[-1].end == index:
            runs[-1].end = index + 1
        else:
            runs.append(_Run(index, index + 1))
    return runs
