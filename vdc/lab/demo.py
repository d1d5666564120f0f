"""`make demo`: the main job, with its defaults, on this machine, in about a minute.

A protected VM in a lab of three hosts; a client holds one TCP session and writes without a pause; the
primary's host loses power; session and writes go on; protection returns on the third host; then a planned
promotion. Everything that is printed was measured in this run. What the run made is left running, to look at.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from vdc.api.client import ApiClient
from vdc.api.models import EndophyteView
from vdc.lab import api as lab
from vdc.lab.demo_screen import Screen
from vdc.lab.models import LabStatus
from vdc.lab.sessions import Gap, Report, Workload
from vdc.model.endophyte import Protection
from vdc.model.errors import NotFoundError, UnavailableError, VdcError
from vdc.model.event import Event
from vdc.model.manifest import EndophyteManifest

LAB = "default"
NAME = "demo"
IMAGE = "mycelium/mini"
DEADLINE_S = 60.0
SETTLE_S = 2.0
PAUSE_MS = 10.0

MANIFEST = {
    "apiVersion": "mycelium.network/v1",
    "kind": "Endophyte",
    "metadata": {"name": NAME},
    "spec": {
        "image": IMAGE,
        "resources": {"cpus": 1, "memory": "256MiB"},
        "virtualComputer": {"dedicatedNodes": 3},
    },
}


class Demo:
    """One run of it."""

    def __init__(self, screen: Screen, client: ApiClient, status: LabStatus) -> None:
        self._screen = screen
        self._client = client
        self._status = status

    async def run(self) -> Report:
        """Raises VdcError where anything does not happen as promised."""
        view = await self._create()
        address = view.status.addresses[0]
        workload = Workload(
            lambda argv: lab.exec_argv(LAB, "client", argv), address, pause_ms=PAUSE_MS, tag=NAME
        )
        self._screen.step(
            "A client opens three TCP sessions to the guest and keeps asking: echo, clock, durable writes"
        )
        try:
            await asyncio.to_thread(workload.start)
            await asyncio.to_thread(workload.wait_progress, 30, DEADLINE_S)
            await self._cut_power(workload)
            await self._promote(workload)
            report = await asyncio.to_thread(workload.stop)
        except BaseException:
            await asyncio.to_thread(workload.kill)
            raise
        if report.errors:
            raise UnavailableError(f"the client saw: {report.errors[0]}", code="demo-failed")
        await asyncio.to_thread(workload.check_store)
        return report

    # ---- the acts

    async def _create(self) -> EndophyteView:
        self._screen.step(f"vdc create {NAME} --image {IMAGE} --memory 256MiB --wait")
        began = time.monotonic()
        await self._remove_earlier()
        await self._client.create_endophyte(EndophyteManifest.model_validate(MANIFEST))
        view = await self._until_lockstep()
        self._screen.fact(f"{view.status.sentence}; {time.monotonic() - began:.1f} s after the command")
        return view

    async def _remove_earlier(self) -> None:
        with suppress(NotFoundError):
            await self._client.delete_endophyte(NAME)
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    await self._client.get_endophyte(NAME)
                    await asyncio.sleep(0.1)

    async def _cut_power(self, workload: Workload) -> None:
        host = (await self._client.get_endophyte(NAME)).status.primary
        if host is None:
            raise UnavailableError(f"{NAME} has no primary", code="demo-failed")
        self._screen.step(f"vdc lab fault power-off {host.host}      (no FIN, no RST: the machine is gone)")
        effective: list[float] = []
        await lab.fault(LAB, "power-off", host.host, progress=lambda _: effective.append(time.time()))
        at = effective[0] if effective else time.time()
        await asyncio.to_thread(workload.wait_progress, 20, DEADLINE_S)
        self._show(await self._event("promoted", at), workload, at)
        view = await self._until_lockstep()
        self._screen.fact(f"protected again {time.time() - at:.1f} s after the cut: {view.status.sentence}")

    async def _promote(self, workload: Workload) -> None:
        await asyncio.sleep(SETTLE_S)
        self._screen.step(f"vdc promote replica {NAME}      (planned: both hosts are well)")
        at = time.time()
        result = await self._client.promote_endophyte(NAME)
        await asyncio.to_thread(workload.wait_progress, 20, DEADLINE_S)
        self._screen.fact(result.sentence)
        self._show(await self._event("promoted", at), workload, at)
        await self._until_lockstep()

    # ---- what was seen

    def _show(self, event: Event, workload: Workload, at: float) -> None:
        happened = datetime.fromisoformat(event.at).timestamp()
        figures = event.figures
        began = happened - figures.get("total_ms", 0.0) / 1000
        self._screen.timeline(
            [
                ("decided to act", (began - at) * 1000, event.sentence),
                (
                    "right to speak won",
                    (began - at) * 1000 + figures.get("arbitrated_ms", 0.0),
                    f"epoch {event.epoch}",
                ),
                ("guest speaks", (happened - at) * 1000, f"on {event.host}"),
            ]
        )
        for gap in _worst_by_service(workload.gaps, at):
            self._screen.gap(gap.service, gap.ms)

    async def _event(self, code: str, since: float) -> Event:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for event in reversed((await self._client.list_events(NAME, limit=50)).items):
                    if event.code == code and datetime.fromisoformat(event.at).timestamp() >= since - 0.5:
                        return event
                await asyncio.sleep(0.05)

    async def _until_lockstep(self) -> EndophyteView:
        return await until(
            self._client,
            NAME,
            lambda view: view.status.protection is Protection.LOCKSTEP,
            self._screen.waiting,
        )


async def until(
    client: ApiClient, name: str, reached: Callable[[EndophyteView], bool], show: Callable[[str], None]
) -> EndophyteView:
    """Wait for a state of an Endophyte; raises UnavailableError with its last sentence."""
    sentence = "nothing is known of it yet"
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                view = await client.get_endophyte(name)
                if reached(view):
                    return view
                sentence = view.status.sentence
                show(sentence)
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise UnavailableError(
            f"{name} did not get there in {DEADLINE_S:.0f} s: {sentence}", code="demo-failed"
        ) from error


def _worst_by_service(gaps: list[Gap], since: float) -> list[Gap]:
    worst: dict[str, Gap] = {}
    for gap in gaps:
        if gap.at + gap.ms / 1000 >= since and (gap.service not in worst or worst[gap.service].ms < gap.ms):
            worst[gap.service] = gap
    return sorted(worst.values(), key=lambda gap: gap.service)


async def main() -> int:
    """Run it; the exit status is 0 only where everything was as promised."""
    screen = Screen(sys.stdout, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
    began = time.monotonic()
    try:
        screen.title("Virtual Distributed Computer: a VM outlives its host")
        screen.step("vdc lab up      (three hosts on this machine: own networks, own etcd member, own agent)")
        status = await lab.up(LAB, None, screen.waiting)
        screen.fact(f"{len(status.hosts)} hosts are up after {time.monotonic() - began:.1f} s")
        sockets = [f"unix://{host.api_socket}" for host in status.hosts]
        async with ApiClient(sockets) as client:
            report = await Demo(screen, client, status).run()
        screen.summary(report, time.monotonic() - began)
    except VdcError as error:
        screen.failed(f"{error} ({error.code})", error.problem.hint)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
