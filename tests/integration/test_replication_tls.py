"""Replication of a bare pair of real QEMUs is unreadable, and nobody but the pair's other copy takes part in it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lockstep_clients import STORE, load, wait_for
from lockstep_support import Copy, Pair, missing
from packet_probes import inside
from replication_capture import ReplicationCapture
from throwaway_namespace import LOCAL

from hostagent.drivers.qemu import primary, secondary
from hostagent.drivers.qemu.inspect import LiveRole, inspect
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.sockets import tcp_socket
from vdc.model.errors import UnavailableError, VdcError
from vdc.security.pairs import KeyAndRequest, PairAuthority, Side, qemu_files

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

KINDS = {"mirror", "compare", "nbd", "migration"}


# ---- nothing can be read


async def known_text_goes_everywhere(pair: Pair, text: bytes) -> None:
    """A client sends it to the guest, which stores it, keeps it in memory and sends it back, again and again."""
    reader, writer = await pair.open(STORE)
    for number in range(1, 40):
        writer.write(b"PUT %d %s\n" % (number, text))
        assert (await reader.readline()).decode().strip() == f"OK {number}"
        writer.write(b"GET %d\n" % number)
        assert (await reader.readline()).split()[-1] == text
        await asyncio.sleep(0.05)
    writer.close()


@pytest.mark.parametrize("is_encrypted", [True, False], ids=["encrypted", "the control"])
async def test_a_text_that_the_guest_holds_stores_and_sends_is_not_on_the_wire(is_encrypted: bool) -> None:
    text = secrets.token_hex(64).encode()
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        await known_text_goes_everywhere(pair, text)  # it is in memory and on disk when both are copied
        second = await pair.start_secondary()
        pair.epoch += 1
        plan = pair.plan(first, is_encrypted=is_encrypted)
        with ReplicationCapture(pair.namespace.name, text) as capture:
            await pair.prepare(first, second, plan)
            await pair.enter_plan(first, plan)
            await pair.in_sync(first, second)
            await known_text_goes_everywhere(pair, text)
            before = first.meter.count
            await wait_for(lambda: first.meter.count > before + 3, "checkpoints", 10)
        assert set(capture.carried) == KINDS
        assert capture.carried["migration"] > 10 * 2**20
        if is_encrypted:
            assert not +capture.found
            assert capture.begins_with_tls == KINDS - {"nbd"}  # NBD asks for it in its own words first
        else:
            assert set(+capture.found) == KINDS, "the capture would have seen it"


# ---- nobody else takes part


def wrong_credentials(pair: Pair) -> dict[str, str]:
    """Of another pair's secondary."""
    authority, own = PairAuthority.create(pair.uid, pair.epoch), KeyAndRequest.make()
    return qemu_files(authority.certificate, authority.sign(own.request, Side.SECONDARY), own.key)


def contexts(pair: Pair) -> dict[str, ssl.SSLContext]:
    """Clients that ask nothing of the server: what is refused is refused by it."""
    made = {name: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) for name in ("no certificate", "another pair's")}
    for context in made.values():
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    folder = pair.folder / "wrong"
    folder.mkdir(exist_ok=True)
    for name, content in wrong_credentials(pair).items():
        (folder / name).write_text(content)
    made["another pair's"].load_cert_chain(folder / "client-cert.pem", folder / "client-key.pem")
    return made


def called(pair: Pair, port: int) -> socket.socket:
    sock = inside(pair.namespace.name, tcp_socket)
    sock.settimeout(5)
    sock.connect((LOCAL, port))
    return sock


def is_refused(sock: socket.socket, context: ssl.SSLContext | None) -> bool:
    """Whether the server hangs up; in TLS 1.3 a client hears that after its own last word."""
    with contextlib.suppress(ssl.SSLError, ConnectionError), sock:
        if context is None:
            sock.sendall(b"in clear\n" * 100)
            while sock.recv(4096):
                pass
            return True
        with context.wrap_socket(sock) as secured:
            assert secured.version() == "TLSv1.3"
            return secured.recv(1) == b""
    return True


def begin_nbd(sock: socket.socket, option: int) -> int:
    """NBD's greeting and one option without data; the server's reply."""
    greeting = sock.recv(18, socket.MSG_WAITALL)
    assert greeting[:16] == b"NBDMAGICIHAVEOPT"
    sock.sendall(struct.pack("!I8sII", 1, b"IHAVEOPT", option, 0))
    _magic, _option, reply, length = struct.unpack("!QIII", sock.recv(20, socket.MSG_WAITALL))
    sock.recv(length, socket.MSG_WAITALL)
    return int(reply)


_LIST, _STARTTLS, _ACK, _TLS_NEEDED = 3, 5, 1, 2**31 + 5


async def no_stranger_gets_in(pair: Pair, port: int, *, is_nbd: bool = False) -> None:
    for context in (None, *contexts(pair).values()):
        with await asyncio.to_thread(called, pair, port) as sock:
            if is_nbd and context is None:
                assert await asyncio.to_thread(begin_nbd, sock, _LIST) == _TLS_NEEDED
                continue
            if is_nbd:
                assert await asyncio.to_thread(begin_nbd, sock, _STARTTLS) == _ACK
            assert await asyncio.to_thread(is_refused, sock, context)


async def test_strangers_are_refused_and_the_pair_comes_into_lockstep_all_the_same() -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        second = await pair.start_secondary()
        pair.epoch += 1
        plan = pair.plan(first)
        pair.give_credentials(first, second)
        await primary.open_channels(first.qmp, plan, network=pair.network)
        await no_stranger_gets_in(pair, plan.ports.mirror[0])
        await no_stranger_gets_in(pair, plan.ports.compare[0])
        second.incoming = await secondary.prepare(second.qmp, plan, network=pair.network)
        await no_stranger_gets_in(pair, plan.ports.nbd, is_nbd=True)
        async with load(pair) as (talker, store):
            await pair.enter_plan(first, plan)
            await pair.in_sync(first, second)
            await wait_for(lambda: talker.answers > 20 and len(store.acknowledged) > 20, "answers", 20)
        assert (await inspect(first.qmp)).role is LiveRole.PRIMARY


@pytest.mark.parametrize("stranger", ["in clear", "no certificate", "another pair's"])
async def test_a_stranger_who_brings_memory_is_refused_and_the_guest_goes_on(stranger: str) -> None:
    """The secondary can take one connection for memory, so it is spoiled; the pair is made anew."""
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        second = await pair.start_secondary()
        pair.epoch += 1
        plan = pair.plan(first)
        await pair.prepare(first, second, plan)
        with await asyncio.to_thread(called, pair, plan.ports.migration) as sock:
            assert await asyncio.to_thread(is_refused, sock, contexts(pair).get(stranger))
        with pytest.raises(VdcError):
            await pair.enter_plan(first, plan, deadline_s=15)
        state = await inspect(first.qmp)
        assert (state.role, state.status, state.epoch) == (LiveRole.ALONE, "running", None)
        await pair.kill(second)
        fresh = await pair.start_secondary()
        await pair.protect(first, fresh)
        await pair.in_sync(first, fresh)


async def test_a_secondary_with_another_pairs_certificate_does_not_come_near() -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        second = await pair.start_secondary()
        pair.epoch += 1
        plan = pair.plan(first)
        pair.give_credentials(first, second)
        pair.files(second).forget()
        pair.files(first).make(pair.epoch)
        pair.files(second).keep(pair.epoch, wrong_credentials(pair))
        await primary.open_channels(first.qmp, plan, network=pair.network)
        with pytest.raises(UnavailableError) as caught:
            await secondary.prepare(second.qmp, plan, network=pair.network)
        assert caught.value.code == "handshake-failed"
        connected = {"path": f"/chardevs/{plan.mirror_chardev(0)}", "property": "connected"}
        assert not await first.qmp.execute("qom-get", connected)


# ---- what a QEMU that was taken over has


def interfaces(copy: Copy) -> set[str]:
    lines = Path(f"/proc/{copy.pid}/net/dev").read_text().splitlines()[2:]
    return {line.partition(":")[0].strip() for line in lines}


def open_kinds(copy: Copy) -> list[str]:
    """What the process has open, by the kernel's names for it."""
    found = []
    for path in Path(f"/proc/{copy.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(path.readlink()))
    return found


async def test_a_secondary_is_made_again_where_the_first_one_died_before_its_memory_came() -> None:
    """The primary's QEMU reads nothing yet from the channels: it does not see that they were only shut."""
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        dead = await pair.start_secondary()
        pair.epoch += 1
        plan = pair.plan(first)
        await pair.prepare(first, dead, plan)
        await pair.kill(dead)
        second = await pair.start_secondary()
        await pair.prepare(first, second, plan)
        await pair.enter_plan(first, plan)
        await pair.in_sync(first, second)


async def test_qemu_has_no_network_and_no_way_to_other_taps() -> None:
    async with Pair(nics=2) as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        second = await pair.start_secondary()
        plan, _ = await pair.protect(first, second)
        await pair.in_sync(first, second)
        for copy in (first, second):
            assert interfaces(copy) == {"lo"}
            assert not Path(f"/proc/{copy.pid}/root/dev/net").exists()
            assert open_kinds(copy).count("/dev/net/tun") == 2
        await assert_settled_without_tls(pair, first, second, plan)


async def assert_settled_without_tls(pair: Pair, first: Copy, second: Copy, plan: LockstepPlan) -> None:
    await pair.kill(first)
    await pair.take_over(second, plan)
    await pair.settle(second, plan)
    objects: list[dict[str, Any]] = await second.qmp.execute("qom-list", {"path": "/objects"})
    assert not [entry["name"] for entry in objects if entry["name"].startswith("tls")]
