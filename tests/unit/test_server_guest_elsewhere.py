"""Commands and files of a container by way of a host on which it does not run."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from container_world import (
    GIB,
    SOON_S,
    World,
    announce,
    archive_of,
    container_world,
    folder_at,
    send_all,
)
from guest_support import Guest
from server_support import served

from hostagent.drivers.guest.frames import FrameType
from vdc.api.client import ApiClient
from vdc.api.execution import WINDOW, ExecOptions
from vdc.cli.copying import copy_in, copy_out, parse_place
from vdc.cli.execution import run_command
from vdc.model.errors import VdcError

pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with container_world(tmp_path) as made:
        yield made


@pytest.fixture
async def elsewhere(world: World, tmp_path: Path) -> AsyncIterator[ApiClient]:
    """A client of a host on which the container does not run, and which hands requests on to the one of `world`."""
    async with served(tmp_path / "other") as other, ApiClient([f"unix://{other.socket}"]) as client:
        context = other.context
        context.host.config = context.host.config.model_copy(update={"host": "h3"})
        context.peer = lambda name, acting_for=None: world.client  # type: ignore[method-assign]
        await announce(context.host)
        yield client


async def test_a_command_is_handed_on_as_it_is(
    world: World, elsewhere: ApiClient, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        size = 0
        while (frame := await end.frame()).type is not FrameType.EOF:
            size += len(frame.payload)
            await end.credit(stream, len(frame.payload))
        await end.send(FrameType.DATA, stream, str(size).encode())
        await end.send(FrameType.ERRDATA, stream, b"told")
        await end.done(stream, exit_code=9)

    (tmp_path / "input").write_bytes(bytes(2 * WINDOW))
    with (tmp_path / "input").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        async with world.guest(script), asyncio.timeout(SOON_S):
            code = await run_command(elsewhere, "web", ["wc"], ExecOptions(), user="", has_input=True)
    out, err = capfdbinary.readouterr()
    assert (code, err) == (9, b"told") and out.endswith(str(2 * WINDOW).encode())


async def test_files_are_handed_on_as_they_are(world: World, elsewhere: ApiClient, tmp_path: Path) -> None:
    content = os.urandom(400_000)

    async def script(end: Guest, stream: int, request: dict[str, Any]) -> None:
        if request["op"] == "write":
            await folder_at("/tmp")(end, stream, request)
            return
        await send_all(end, stream, archive_of(dump=content))
        await end.done(stream)

    async with world.guest(script), asyncio.timeout(SOON_S):
        source = parse_place("web:/dump")
        await copy_out(elsewhere, source, tmp_path / "dump", most_bytes=GIB)  # type: ignore[arg-type]
        assert (tmp_path / "dump").read_bytes() == content
        await copy_in(elsewhere, tmp_path / "dump", parse_place("web:/tmp/"))  # type: ignore[arg-type]
    assert world.asked[-1]["names"] == ["dump"]


async def test_a_copy_that_breaks_off_there_breaks_off_here(
    world: World, elsewhere: ApiClient, tmp_path: Path
) -> None:
    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        await end.send(FrameType.DATA, stream, archive_of(dump=b"x" * 5_000)[:3_000])
        end.writer.close()

    async with world.guest(script), asyncio.timeout(SOON_S):
        with pytest.raises(VdcError) as caught:
            await copy_out(elsewhere, parse_place("web:/dump"), tmp_path / "x", most_bytes=GIB)  # type: ignore[arg-type]
    assert caught.value.code == "files-cut"


@pytest.mark.parametrize("what", ["exec", "cp"])
async def test_a_refusal_there_is_the_same_refusal_here(
    world: World, elsewhere: ApiClient, tmp_path: Path, what: str
) -> None:
    with pytest.raises(VdcError) as caught:
        if what == "exec":
            await run_command(elsewhere, "web", ["ls"], ExecOptions(), user="", has_input=False)
        else:
            await copy_out(elsewhere, parse_place("web:/x"), tmp_path / "x", most_bytes=GIB)  # type: ignore[arg-type]
    assert caught.value.code == "guest-silent"
