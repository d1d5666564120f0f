"""Files of a container: the real API, the real client and command line, and a guest of a few lines."""

from __future__ import annotations

import asyncio
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from container_world import (
    GIB,
    SOON_S,
    World,
    archive_of,
    asked,
    container_world,
    folder_at,
    send_all,
)
from guest_support import Guest

from hostagent.drivers.guest.frames import FrameType
from vdc.cli.copying import copy_in, copy_out, parse_place
from vdc.model.errors import RefusedError, VdcError

pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with container_world(tmp_path) as made:
        yield made


async def test_a_file_is_copied_out(world: World, tmp_path: Path) -> None:
    content = os.urandom(1 << 20)

    async def script(end: Guest, stream: int, request: dict[str, Any]) -> None:
        assert request == {"op": "read", "path": "/var/lib/dump"}
        await send_all(end, stream, archive_of(dump=content))
        await end.done(stream)

    (tmp_path / "here").mkdir()
    async with world.guest(script), asyncio.timeout(SOON_S):
        for target in (tmp_path / "here", tmp_path / "renamed"):
            source = parse_place("web:/var/lib/dump")
            done = await copy_out(world.client, source, target, most_bytes=GIB)  # type: ignore[arg-type]
            assert done.files == 1
    assert (tmp_path / "here/dump").read_bytes() == (tmp_path / "renamed").read_bytes() == content
    assert ("read_files", "path=/var/lib/dump", "ok") in world.audited()


async def test_what_is_not_there_is_the_guests_own_sentence(world: World, tmp_path: Path) -> None:
    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        await end.done(stream, error="read /x: no such file or directory")

    async with world.guest(script):
        with pytest.raises(RefusedError, match="web: read /x: no such file"):
            await copy_out(world.client, parse_place("web:/x"), tmp_path / "x", most_bytes=GIB)  # type: ignore[arg-type]


@pytest.mark.parametrize("end_of_it", ["refusal", "gone"])
async def test_a_copy_that_breaks_off_is_no_copy(world: World, tmp_path: Path, end_of_it: str) -> None:
    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        await end.send(FrameType.DATA, stream, archive_of(dump=b"x" * 5_000)[:3_000])
        if end_of_it == "gone":
            end.writer.close()
        else:
            await end.done(stream, error="read error on /dev/vda")

    async with world.guest(script), asyncio.timeout(SOON_S):
        with pytest.raises(VdcError) as caught:
            await copy_out(world.client, parse_place("web:/dump"), tmp_path / "x", most_bytes=GIB)  # type: ignore[arg-type]
    assert caught.value.code == "files-cut"


async def test_data_without_end_stops_at_the_limit(world: World, tmp_path: Path) -> None:
    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        member = tarfile.TarInfo("d")
        member.size = 1 << 40
        await send_all(end, stream, member.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
        await end.expect(FrameType.CANCEL)
        await end.done(stream)

    async with world.guest(script), asyncio.timeout(SOON_S):
        with pytest.raises(VdcError) as caught:
            await copy_out(world.client, parse_place("web:/d"), tmp_path / "x", most_bytes=GIB)  # type: ignore[arg-type]
    assert caught.value.code == "copy-too-large"


@pytest.mark.parametrize(
    ("target", "folder", "name"),
    [("web:/tmp", "/tmp", "conf"), ("web:/tmp/", "/tmp", "conf"), ("web:/tmp/new", "/tmp", "new")],
)
async def test_a_file_is_copied_in_as_roots(
    world: World, tmp_path: Path, target: str, folder: str, name: str
) -> None:
    (tmp_path / "conf").write_text("x" * 100_000)
    async with world.guest(folder_at("/tmp")), asyncio.timeout(SOON_S):
        assert await copy_in(world.client, tmp_path / "conf", parse_place(target)) == 1  # type: ignore[arg-type]
    written = world.asked[-1]
    assert (written["op"], written["path"], written["names"], written["owners"]) == (
        "write",
        folder,
        [name],
        {0},
    )
    assert ("write_files", f"path={folder}", "ok") in world.audited()


async def test_what_cannot_be_read_here_is_told_and_nothing_is_written(world: World, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await copy_in(world.client, tmp_path / "nothing", parse_place("web:/tmp/"))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["", "relative", "/a%00b", "/" + "x" * 5_000])
async def test_a_path_that_is_none_is_refused(world: World, path: str) -> None:
    assert await asked(world, f"web/files?path={path}") == (400, "query-invalid")
