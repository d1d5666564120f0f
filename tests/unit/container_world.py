"""A container that runs on the host whose real API is asked, with a guest of a few lines in it."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
from guest_support import Guest, scripted
from protection_world import endophyte, observed
from server_support import Served, served

from hostagent.drivers.guest.frames import MOST_PAYLOAD, FrameType
from hostagent.supervisor.guestline import GuestLine
from hostagent.supervisor.node import NodeContext
from vdc.api.client import ApiClient
from vdc.api.execution import WINDOW, ExecOptions
from vdc.cli.execution import run_command
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.store import keys
from vdc.store.protocol import Put

SOON_S = 20.0
GIB = 1 << 30
CONTAINER = {"type": "container", "dedicatedNodes": 2}
Script = Callable[[Guest, int, dict[str, Any]], Awaitable[None]]


class World:
    """A container that runs on the host whose API is asked."""

    def __init__(self, api: Served, client: ApiClient, folder: Path) -> None:
        self.api, self.client, self.folder = api, client, folder
        self.asked: list[dict[str, Any]] = []

    @asynccontextmanager
    async def guest(self, script: Script) -> AsyncIterator[None]:
        """Every request is served by the script."""

        async def serve(end: Guest) -> None:
            await end.answer_reset()
            while True:
                stream, request = await end.request()
                self.asked.append(request)
                await script(end, stream, request)

        async with scripted(self.folder / "guest.sock", serve):
            yield

    def audited(self) -> list[tuple[str, str, str]]:
        return [(one.what, one.detail, one.result) for one in self.api.context.audit.spool._ended]


@asynccontextmanager
async def container_world(tmp_path: Path) -> AsyncIterator[World]:
    async with served(tmp_path) as api, ApiClient([f"unix://{api.socket}"]) as client:
        host = api.context.host
        line = GuestLine(tmp_path / "guest.sock", "web")
        copy = SimpleNamespace(
            name="web", host=host, line=line, is_alive=True, agent=SimpleNamespace(has_port=False),
            state=SimpleNamespace(role=CopyRole.PRIMARY, stage=CopyStage.RUNNING),
        )  # fmt: skip
        api.context.supervisors.find = lambda name: SimpleNamespace(copy=copy)  # type: ignore[method-assign,assignment,return-value]
        await announce(host)
        yield World(api, client, tmp_path)
        await line.close()


async def announce(host: NodeContext) -> None:
    """Let the host know that the container runs, on h1."""
    records = [
        Put(keys.endophyte("web"), endophyte(virtualComputer=CONTAINER).to_json()),
        Put(keys.observed("web", "h1"), observed("h1", CopyRole.PRIMARY, CopyStage.RUNNING).to_json()),
    ]
    await host.store.commit([], records)
    async with asyncio.timeout(SOON_S):
        while host.mirror.observed("web", "h1") is None:
            await asyncio.sleep(0.01)


async def run(world: World, *command: str, options: ExecOptions | None = None, **more: Any) -> int:
    more = {"user": "", "has_input": False} | more
    async with asyncio.timeout(SOON_S):
        return await run_command(world.client, "web", command, options or ExecOptions(), **more)


async def asked(world: World, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{world.api.url}/v1/endophytes/{path}") as answer,
    ):
        return answer.status, (await answer.json())["code"]


def archive_of(**files: bytes) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return raw.getvalue()


async def send_all(end: Guest, stream: int, data: bytes) -> None:
    credit = WINDOW
    while data:
        while credit < MOST_PAYLOAD:
            credit += int.from_bytes((await end.expect(FrameType.CREDIT)).payload)
        await end.send(FrameType.DATA, stream, data[:MOST_PAYLOAD])
        data, credit = data[MOST_PAYLOAD:], credit - MOST_PAYLOAD


def folder_at(path: str) -> Script:
    """A guest with one folder, which keeps what it is sent."""

    async def script(end: Guest, stream: int, request: dict[str, Any]) -> None:
        if request["op"] == "read" and request["path"] != path:
            await end.done(stream, error=f"read {request['path']}: no such file or directory")
        elif request["op"] == "read":
            member = tarfile.TarInfo(Path(path).name)
            member.type = tarfile.DIRTYPE
            await end.send(FrameType.DATA, stream, member.tobuf())
            await end.expect(FrameType.CANCEL)
            await end.done(stream)
        else:
            got = b""
            while (frame := await end.frame()).type is not FrameType.EOF:
                got += frame.payload if frame.type is FrameType.DATA else b""
                await end.credit(stream, max(1, len(frame.payload)))
            with tarfile.open(fileobj=io.BytesIO(got)) as tar:
                request["names"], request["owners"] = tar.getnames(), {member.uid for member in tar}
            await end.done(stream, files=1)

    return script
