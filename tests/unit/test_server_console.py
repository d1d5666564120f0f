"""A console's websocket from a client that means harm, over the real API; the guest gets whole messages only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from protection_world import observed
from server_support import Served, served

from hostagent.drivers.process.users import GUEST_DIR
from hostagent.drivers.qemu.spec import CONSOLE_SOCKET
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.store import keys
from vdc.store.protocol import Put

OPEN_S = 5.0
pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as running:
        yield running


@pytest.fixture
async def console(api: Served) -> AsyncIterator[asyncio.Queue[bytes]]:
    """A guest that runs here; what it is sent."""
    folder = api.context.host.vms_dir / "web" / GUEST_DIR
    folder.mkdir(parents=True)
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            heard.put_nowait(data)
        writer.close()

    record = observed("h1", CopyRole.PRIMARY, CopyStage.RUNNING)
    await api.context.host.store.commit([], [Put(keys.observed("web", "h1"), record.to_json())])
    while api.context.host.mirror.observed("web", "h1") is None:
        await asyncio.sleep(0.01)
    async with await asyncio.start_unix_server(guest, folder / CONSOLE_SOCKET):
        yield heard


@pytest.mark.parametrize(
    ("send", "close_code"),
    [
        (lambda ws: ws.send_bytes(b"x" * 70_000), aiohttp.WSCloseCode.MESSAGE_TOO_BIG),
        (lambda ws: ws._writer.transport.write(b"\xf1\x01\x00"), aiohttp.WSCloseCode.PROTOCOL_ERROR),
        (
            lambda ws: ws._writer.transport.write(b"\x81\x82\0\0\0\0\xff\xfe"),
            aiohttp.WSCloseCode.INVALID_TEXT,
        ),
    ],
    ids=["too large", "no frame", "no text"],
)
async def test_a_console_ends_with_a_message_that_is_none(
    api: Served, console: asyncio.Queue[bytes], send: Callable[[Any], Any], close_code: int
) -> None:
    connector = aiohttp.UnixConnector(path=str(api.socket))
    async with aiohttp.ClientSession(connector=connector) as session:
        url = "http://x/v1/endophytes/web/console"
        async with session.ws_connect(url, compress=15) as ws:
            assert not ws.compress
            await ws.send_bytes(b"hello")
            assert await asyncio.wait_for(console.get(), OPEN_S) == b"hello"
            sent = send(ws)
            if sent is not None:
                await sent
            message = await ws.receive(timeout=OPEN_S)
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, close_code)
    assert console.empty()
