"""`vdc drill`: the primary of a VM is killed on purpose, and what a client would notice of it is measured.

The secondary's host measures: it asks the guest by ICMP echo over the overlay every few
milliseconds and looks for the longest time without an answer. Lockstep treats echoes as it treats all traffic.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from itertools import pairwise

from aiohttp import web

from hostagent.heartbeat.echo import Echo
from hostagent.server import peers, views
from hostagent.server.context import ServerContext
from hostagent.server.http import parse_body
from hostagent.server.identity import person_of
from vdc.api import models as wire
from vdc.control.events import read_events
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import ConflictError, FencedError, UnavailableError
from vdc.model.event import Event, Severity
from vdc.model.pair import Pair, SyncState

PROBE_EVERY_S = 0.005
WARM_UP_S = 1.0
TAKEN_OVER_S = 30.0
AFTERWARDS_S = 3.0  # that the guest is asked on after the promotion
_SIGNALS = {wire.DrillFault.KILL: signal.SIGKILL, wire.DrillFault.HANG: signal.SIGSTOP}


class Probe:
    """Asks a guest again and again, and remembers when it answered."""

    def __init__(self, own_address: str, guest_address: str, clock: Callable[[], float]) -> None:
        self._guest, self._clock = guest_address, clock
        self._echo = Echo(own_address, clock, self._hear)
        self.sent = 0
        self.answers_at_s: list[float] = []

    def _hear(self, source: str, _: float) -> None:
        if source == self._guest:
            self.answers_at_s.append(self._clock())

    async def run(self) -> None:
        """Ask until cancelled."""
        try:
            while True:
                self._echo.ask(self._guest)
                self.sent += 1
                await asyncio.sleep(PROBE_EVERY_S)
        finally:
            self._echo.close()

    def longest_gap_ms(self) -> float | None:
        """The longest time between two answers; None where the guest does not answer echoes."""
        gaps = [later - earlier for earlier, later in pairwise(self.answers_at_s)]
        return round(max(gaps) * 1000, 1) if gaps else None


class DrillHandlers:
    """One method per route, named like it."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._host = context.host

    async def drill_endophyte(self, request: web.Request) -> wire.DrillResult:
        """See the route table. The secondary's host measures, which alone may ask the primary's to fail."""
        name = request.match_info["name"]
        body = wire.DrillRequest.model_validate(await parse_body(request))
        await views.find_endophyte(self._host.mirror, name)
        pair = _in_lockstep(name, self._host.mirror.pair(name))
        assert pair.secondary is not None
        if pair.secondary != self._host.name:
            peer = self._context.peer(pair.secondary, person_of(request))
            return await peer.drill_endophyte(name, fault=body.fault, timeout_s=body.timeout_s)
        return await self._drill(name, pair, body)

    async def peer_fail(self, request: web.Request) -> wire.Acknowledged:
        """See the route table."""
        name = request.match_info["name"]
        body = wire.FailRequest.model_validate(await parse_body(request))
        await peers.check_peer(self._host, request, body, peers.secondary)
        copy = self._context.supervisors.find(name).copy
        if copy.state.epoch != body.epoch:
            raise FencedError(f"{name} is at epoch {copy.state.epoch}, not {body.epoch}")
        if (copy.state.role, copy.state.stage) != (CopyRole.PRIMARY, CopyStage.LOCKSTEP) or not copy.process:
            raise ConflictError(f"{self._host.name} has no primary of {name} in lockstep", code="not-primary")
        copy.process.signal(_SIGNALS[body.fault])
        return wire.Acknowledged(sentence="done")

    async def _drill(self, name: str, pair: Pair, body: wire.DrillRequest) -> wire.DrillResult:
        endophyte = await views.find_endophyte(self._host.mirror, name)
        clock = self._host.clock.boottime_s
        probe = Probe(str(self._host.config.overlay_address), endophyte.nics[0].address, clock)
        probing = asyncio.create_task(probe.run(), name=f"{name} probe")
        since = self._host.clock.wall()
        try:
            await asyncio.sleep(WARM_UP_S)
            failed = wire.FailRequest(epoch=pair.epoch, from_host=self._host.name, fault=body.fault)
            await self._context.peer(pair.primary).peer_fail(name, failed)
            began = clock()
            after = await self._until(name, lambda found: found.primary != pair.primary, TAKEN_OVER_S)
            if after is None:
                raise UnavailableError(
                    f"nobody took {name} over within {TAKEN_OVER_S:.0f} s",
                    code="drill-failed",
                    hint=f"vdc describe endophyte {name}",
                )
            await asyncio.sleep(AFTERWARDS_S)
        finally:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
        again = await self._until(name, lambda found: found.sync is SyncState.IN_SYNC, body.timeout_s)
        protected_after_s = round(clock() - began, 1) if again is not None else None
        result = _result(name, pair, after, probe, protected_after_s, await self._promotion(name, since))
        await self._tell(result)
        return result

    async def _promotion(self, name: str, since: str) -> Event | None:
        events = await read_events(self._host.store, name=name)
        return next((e for e in reversed(events) if e.code == "promoted" and e.at >= since), None)

    async def _until(self, name: str, reached: Callable[[Pair], bool], deadline_s: float) -> Pair | None:
        changed = asyncio.Event()
        unsubscribe = self._host.mirror.subscribe(lambda key: changed.set())
        try:
            async with asyncio.timeout(deadline_s):
                while (pair := self._host.mirror.pair(name)) is None or not reached(pair):
                    changed.clear()
                    await changed.wait()
                return pair
        except TimeoutError:
            return None
        finally:
            unsubscribe()

    async def _tell(self, result: wire.DrillResult) -> None:
        is_whole = result.protected_after_s is not None
        await self._host.tell(
            result.name, "drill", result.sentence, epoch=result.epoch,
            severity=Severity.NORMAL if is_whole else Severity.WARNING,
            **({"gap_ms": result.gap_ms} if result.gap_ms is not None else {}),
            **({"protected_after_s": result.protected_after_s} if result.protected_after_s else {}),
        )  # fmt: skip


def _in_lockstep(name: str, pair: Pair | None) -> Pair:
    if pair is None or pair.secondary is None or pair.sync is not SyncState.IN_SYNC:
        raise ConflictError(
            f"{name} is not in lockstep; a drill would be an outage",
            code="not-in-lockstep",
            hint=f"vdc get endophyte {name}",
        )
    return pair


def _result(  # noqa: PLR0917 - the parts of a report
    name: str,
    before: Pair,
    after: Pair,
    probe: Probe,
    protected_after_s: float | None,
    promotion: Event | None,
) -> wire.DrillResult:
    gap_ms = probe.longest_gap_ms()
    figures = promotion.figures if promotion else {}
    felt = f"{gap_ms:.0f} ms without an answer" if gap_ms is not None else "the guest answers no echo"
    again = (
        f"protected again after {protected_after_s:.1f} s"
        if protected_after_s is not None
        else "not protected again yet"
    )
    return wire.DrillResult(
        name=name, epoch=after.epoch, previous=before.primary, primary=after.primary,
        gap_ms=gap_ms, probes=probe.sent, lost_probes=max(0, probe.sent - len(probe.answers_at_s)),
        arbitrated_ms=figures.get("arbitrated_ms"), promoted_ms=figures.get("total_ms"),
        protected_after_s=protected_after_s,
        sentence=f"drill: {after.primary} took over from {before.primary}; {felt}; {again}",
    )  # fmt: skip
