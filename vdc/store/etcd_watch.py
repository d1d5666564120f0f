"""One watch: a streaming request to one member, moved to another when it breaks, hangs or loses the cluster.

It goes on after the last revision that it has seen, so nothing is missed and nothing comes twice, except
where etcd has compacted that history: then RESYNC is yielded once and it goes on from the present.
A silent member is probed: half-open connections and stopped processes do not show by themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aiohttp

from vdc.store import etcd_codec as codec
from vdc.store.etcd_client import Gateway
from vdc.store.etcd_errors import CallError, Meaning, error_of
from vdc.store.protocol import Change, ChangeKind

_LOG = logging.getLogger(__name__)
_LIVED_S = 1.0


@dataclass(frozen=True, slots=True)
class WatchTimings:
    """Seconds. A member that is silent for `silence_s` gets `probe_s` to answer anything at all."""

    connect_s: float = 2.0
    silence_s: float = 1.0
    probe_s: float = 0.5
    first_pause_s: float = 0.05
    longest_pause_s: float = 1.0


class Watch:
    """A watch on one prefix. `changes` may be iterated once."""

    def __init__(self, gateway: Gateway, timings: WatchTimings, prefix: str, from_revision: int) -> None:
        self._gateway = gateway
        self._timings = timings
        self._prefix = prefix
        self._next_revision = from_revision  # 0: from whatever is present when it begins
        self._resync_due = False

    async def changes(self) -> AsyncGenerator[Change, None]:
        """Yield for ever, until the client is closed."""
        failures = 0
        members = len(self._gateway.endpoints.all)
        loop = asyncio.get_running_loop()
        while not self._gateway.is_closed:
            endpoint = self._gateway.endpoints.in_order()[0]
            since = loop.time()
            try:
                async with aclosing(self._results(endpoint)) as results:
                    async for result in results:
                        for change in self._take(endpoint, result):
                            yield change
            except CallError as error:
                _LOG.info("watch on %s: %s; trying the next member", self._prefix, error)
            failures = failures + 1 if loop.time() - since < _LIVED_S else 0
            if failures >= members:
                pause_s = self._timings.first_pause_s * 2.0 ** min(failures // members, 10)
                await asyncio.sleep(min(self._timings.longest_pause_s, pause_s))

    def _take(self, endpoint: str, result: codec.Json) -> tuple[Change, ...]:
        """Advance by one answer; raises CallError where the watch has to be made anew."""
        revision = codec.revision_of(result)
        if result.get("canceled"):
            if int(result.get("compact_revision", 0)):
                self._resync_due, self._next_revision = True, 0
            self._gateway.endpoints.failed(endpoint)
            raise CallError(endpoint, Meaning.UNKNOWN, str(result.get("cancel_reason", "cancelled")))
        if result.get("created"):
            if self._next_revision == 0:
                self._next_revision = revision + 1
            if self._resync_due:
                self._resync_due = False
                return (Change(ChangeKind.RESYNC, revision),)
            return ()
        found = codec.changes(result)
        if found:
            self._next_revision = found[-1].revision + 1
        elif revision:  # a progress notice: everything up to it was delivered
            self._next_revision = max(self._next_revision, revision + 1)
        return found

    async def _results(self, endpoint: str) -> AsyncGenerator[codec.Json, None]:
        body = codec.watch_request(self._prefix, self._next_revision)
        async with self._gateway.stream(
            endpoint, "/v3/watch", body, connect_timeout_s=self._timings.connect_s
        ) as stream:
            splitter = codec.LineSplitter()
            while chunk := await self._chunk(endpoint, stream):
                self._gateway.endpoints.heard(endpoint)
                for line in splitter.feed(chunk):
                    document = codec.parse_object(line)
                    if "error" in document:
                        raise error_of(endpoint, 200, document)
                    yield document.get("result", {})
            raise CallError(endpoint, Meaning.UNKNOWN, "the member ended the stream")

    async def _chunk(self, endpoint: str, stream: aiohttp.StreamReader) -> bytes:
        """The next bytes; while there are none, make sure that the member still answers."""
        reading = asyncio.ensure_future(stream.readany())
        either: tuple[asyncio.Future[Any], ...] = (reading, self._gateway.closing)
        try:
            while True:
                await asyncio.wait(
                    either, timeout=self._timings.silence_s, return_when=asyncio.FIRST_COMPLETED
                )
                if reading.done():
                    return reading.result()
                if self._gateway.is_closed:
                    return b""
                if self._gateway.endpoints.silence_s(endpoint) >= self._timings.silence_s:
                    await self._probe(endpoint)
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.wait([reading])

    async def _probe(self, endpoint: str) -> None:
        """Raises CallError where the member does not answer or has lost the cluster."""
        body = {**codec.get_request(self._prefix), "serializable": True, "keys_only": True}
        await self._gateway.call(endpoint, "/v3/kv/range", body, timeout_s=self._timings.probe_s)
