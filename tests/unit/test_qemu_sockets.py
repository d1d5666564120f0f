"""Connections that the agent makes for QEMU, on this machine's loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import replace
from typing import Any

import pytest
from qemu_support import PLAN, ModelQemu

from hostagent.drivers.net.underlay import HANDED_OVER
from hostagent.drivers.qemu.incoming import Incoming
from hostagent.drivers.qemu.plan import LockstepPorts
from hostagent.drivers.qemu.sockets import Network, connected, give_listening
from vdc.model.errors import UnavailableError

LOCAL, STRANGER = "127.0.0.1", "127.0.0.9"


def free_port() -> int:
    with socket.create_server((LOCAL, 0)) as sock:
        return int(sock.getsockname()[1])


async def call(port: int, *, source: str = LOCAL) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(LOCAL, port, local_addr=(source, 0))


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def waiting(qemu: ModelQemu) -> Any:
    port = free_port()
    plan = replace(
        PLAN, primary_address=LOCAL, secondary_address=LOCAL,
        ports=replace(LockstepPorts.for_slot(3, 7), migration=port),
    )  # fmt: skip
    incoming = Incoming(qemu, plan)  # type: ignore[arg-type]
    try:
        yield incoming, port
    finally:
        incoming.close()


async def test_qemu_begins_with_the_connection_of_the_primary() -> None:
    qemu = ModelQemu(status="inmigrate")
    async with waiting(qemu) as (_, port):
        _, writer = await call(port)
        await until(lambda: len(qemu.said) == 2)
        assert qemu.said == ["(descriptor) mig0-e7", 'migrate-incoming {"uri": "fd:mig0-e7"}']
        with pytest.raises(ConnectionRefusedError):  # once and never again
            await call(port)
        writer.close()


async def test_a_stranger_is_hung_up_on_and_spoils_nothing() -> None:
    qemu = ModelQemu(status="inmigrate")
    async with waiting(qemu) as (_, port):
        reader, writer = await call(port, source=STRANGER)
        async with asyncio.timeout(30):
            assert await reader.read(1) == b""
        writer.close()
        assert not qemu.said
        _, writer = await call(port)
        await until(lambda: len(qemu.said) == 2)
        writer.close()


async def test_a_qemu_that_refuses_shows_as_the_end_of_the_connection() -> None:
    qemu = ModelQemu(status="inmigrate")
    qemu.do_migrate_incoming = lambda _: qemu.refuse("migrate-incoming")  # type: ignore[method-assign]
    async with waiting(qemu) as (_, port):
        reader, writer = await call(port)
        async with asyncio.timeout(30):
            assert await reader.read(1) == b""
        writer.close()


async def test_nobody_listens_after_the_end_and_another_may() -> None:
    qemu = ModelQemu(status="inmigrate")
    async with waiting(qemu) as (incoming, port):
        incoming.close()
        await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            await call(port)
        Network().listen(LOCAL, port).close()


async def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server((LOCAL, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError) as caught:
            await give_listening(ModelQemu(), "x", Network(), LOCAL, port)  # type: ignore[arg-type]
    assert caught.value.code == "port-taken"


async def test_a_refused_connection_is_tried_again_only_by_the_patient() -> None:
    port = free_port()
    began = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        await Network().connect(LOCAL, port)
    assert caught.value.code == "peer-unreachable"
    assert time.monotonic() - began < 5
    connecting = asyncio.create_task(Network().connect(LOCAL, port, patience_s=5))
    await asyncio.sleep(0.05)
    assert not connecting.done()
    with Network().listen(LOCAL, port), await connecting as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_what_is_handed_over_is_marked_and_so_is_what_it_accepts() -> None:
    port = free_port()
    with (
        Network().listen(LOCAL, port) as listening,
        await Network().connect(LOCAL, port) as sock,
        listening.accept()[0] as accepted,
    ):
        marks = {one.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) for one in (listening, sock, accepted)}
    assert marks == {HANDED_OVER}


async def test_a_peer_that_is_never_accepted_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostagent.drivers.qemu.sockets.HANDSHAKE_S", 0.05)
    with pytest.raises(UnavailableError) as caught:
        await connected(ModelQemu(), ["cmps0-e7"])  # type: ignore[arg-type]
    assert caught.value.code == "handshake-failed"
