"""Each fault does what it says and no more, and healing undoes it: seen with real sockets between hosts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vdc.lab import api, cgroups, kernel
from vdc.lab.audit import audit
from vdc.lab.faults import host_processes
from vdc.lab.models import HostState, LabState
from vdc.lab.plan import Underlay, make_plan
from vdc.lab.processes import read_process
from vdc.lab.settings import Settings
from vdc.model.errors import InvalidError, NotFoundError, RefusedError

QUIET_S = 0.4  # long enough for a FIN, a RST or a retransmission that must not come
ETH_P_ALL = 0x0003


def namespace(lab: str, member: str) -> str:
    return f"vdc-{lab}-{member}"


def udp(lab: str, member: str, address: str, port: int = 5000) -> socket.socket:
    """A UDP socket that lives on a host: a socket stays in the namespace that it was made in."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, port))
        made.settimeout(QUIET_S)
        return made

    return kernel.in_namespace(namespace(lab, member), make)


def drain(receiver: socket.socket) -> int:
    """Take what is there already, and say how many datagrams that were; a veth delivers at once."""
    receiver.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while receiver.recv(2048):
            count += 1
    return count


def arrives(sender: socket.socket, receiver: socket.socket) -> bool:
    """Whether datagrams get through; several, as the first one may wait for an address to be resolved."""
    deadline = time.monotonic() + QUIET_S
    drain(receiver)
    receiver.settimeout(0.05)
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            sender.sendto(b"hello", receiver.getsockname())
        with contextlib.suppress(TimeoutError):
            return receiver.recv(2048) == b"hello"
    return False


@contextlib.contextmanager
def pair(
    lab: str, first: str, second: str, underlay: Underlay = Underlay.MANAGEMENT
) -> Iterator[tuple[socket.socket, socket.socket]]:
    octets = {"h1": 1, "h2": 2, "h3": 3, "client": 200}
    with (
        udp(lab, first, str(underlay.address(octets[first]))) as one,
        udp(lab, second, str(underlay.address(octets[second]))) as two,
    ):
        yield one, two


@contextlib.contextmanager
def captured(lab: str, member: str, interface: str) -> Iterator[socket.socket]:
    """Every frame that reaches or leaves an interface."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        made.bind((interface, 0))
        return made

    with kernel.in_namespace(namespace(lab, member), make) as packets:
        packets.setblocking(False)
        yield packets


def tcp_flags(packets: socket.socket, source: str) -> list[int]:
    """The flags of the TCP segments that were captured from this address."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            frame = packets.recv(65536)
            if frame[12:14] == b"\x08\x00" and frame[23] == 6 and socket.inet_ntoa(frame[26:30]) == source:
                found.append(frame[14 + (frame[14] & 15) * 4 + 13])
    return found


async def test_every_member_reaches_every_other(lab: str, settings: Settings) -> None:
    for underlay in Underlay:
        with pair(lab, "h1", "h3", underlay) as (one, three):
            assert arrives(one, three) and arrives(three, one)
    with pair(lab, "client", "h2") as (client, two):
        assert arrives(client, two) and arrives(two, client)


@pytest.mark.parametrize(
    ("direction", "to_host", "from_host"), [("in", False, True), ("out", True, False), ("both", False, False)]
)
async def test_a_partition_drops_one_network_in_the_direction_that_was_asked_for(
    lab: str, settings: Settings, direction: str, to_host: bool, from_host: bool
) -> None:
    with pair(lab, "h1", "h2") as (one, two), pair(lab, "h1", "h2", Underlay.REPLICATION) as (first, second):
        assert arrives(one, two) and arrives(two, one)  # both know each other's address: no ARP is in the way
        status = await api.fault(
            lab, "partition", "h1", network="management", direction=direction, settings=settings
        )
        assert status.hosts[0].state is HostState.PARTITIONED
        assert (arrives(two, one), arrives(one, two)) == (to_host, from_host)
        assert arrives(first, second) and arrives(second, first)
        carrier = subprocess.run(
            api.exec_argv(lab, "h1", ["cat", "/sys/class/net/mgmt0/carrier"], settings=settings),
            capture_output=True, check=True,
        )  # fmt: skip
        assert carrier.stdout == b"1\n"
        healed = await api.fault(lab, "heal", "h1", settings=settings)
        assert healed.hosts[0].state is HostState.UP
        assert arrives(one, two) and arrives(two, one)


async def test_a_partition_of_all_networks_leaves_the_others_alone(lab: str, settings: Settings) -> None:
    await api.fault(lab, "partition", "h2", settings=settings)
    for underlay in Underlay:
        with pair(lab, "h1", "h2", underlay) as (one, two):
            assert not arrives(one, two) and not arrives(two, one)
        with pair(lab, "h1", "h3", underlay) as (one, three):
            assert arrives(one, three) and arrives(three, one)


async def test_a_partition_can_be_made_fifty_times_in_a_row(lab: str, settings: Settings) -> None:
    """What was learnt while the flags changed must not let a frame through."""
    with pair(lab, "h1", "h2") as (one, two):
        for _ in range(50):
            assert arrives(one, two)
            await api.fault(lab, "partition", "h1", network="management", direction="out", settings=settings)
            drain(two)
            for _ in range(5):
                one.sendto(b"hello", two.getsockname())
            assert drain(two) == 0
            await api.fault(lab, "heal", "h1", settings=settings)


ECHO = (
    "import socket, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "s = socket.create_server(('10.70.0.1', 7)); print('ready', flush=True); c, _ = s.accept();"
    "[c.sendall(d) for d in iter(lambda: c.recv(100), b'')]"
)


@contextlib.contextmanager
def echo_session(lab: str, settings: Settings) -> Iterator[socket.socket]:
    """A server process on h1, and a TCP session to it from h2 that has echoed one line."""
    argv = api.exec_argv(lab, "h1", [sys.executable, "-c", ECHO], settings=settings)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        session = kernel.in_namespace(
            namespace(lab, "h2"), lambda: socket.create_connection(("10.70.0.1", 7), timeout=5)
        )
        with session:
            session.sendall(b"one\n")
            assert session.recv(100) == b"one\n"
            session.settimeout(QUIET_S)
            yield session
        server.kill()


async def test_power_off_is_silence(lab: str, settings: Settings) -> None:
    """No FIN and no RST gets out, and everything on the host is dead, whatever it thinks of SIGTERM."""
    plan = make_plan(lab, 3, settings.state_root)
    with echo_session(lab, settings) as session, captured(lab, "h2", "mgmt0") as packets:
        assert len(host_processes(plan.host("h1"))) >= 3
        status = await api.fault(lab, "power-off", "h1", settings=settings)
        assert status.hosts[0].state is HostState.OFF
        assert (status.hosts[0].agent_pid, status.hosts[0].etcd_pid) == (None, None)
        assert host_processes(plan.host("h1")) == ()
        session.sendall(b"two\n")
        with pytest.raises(TimeoutError):
            session.recv(100)
        assert not [flags for flags in tcp_flags(packets, "10.70.0.1") if flags & 0b101]  # RST or FIN
    assert status.state is LabState.UP  # a fault that was asked for is no defect
    assert audit(lab, settings=settings) == ()
    with pytest.raises(RefusedError) as caught:
        api.exec_argv(lab, "h1", ["true"], settings=settings)
    assert caught.value.code == "host-off"
    for kind in ("pause", "partition"):
        with pytest.raises(RefusedError):
            await api.fault(lab, kind, "h1", settings=settings)


@pytest.mark.parametrize("has_groups", [True, False])
async def test_power_off_kills_what_hides_in_a_namespace_of_its_own(
    lab: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, has_groups: bool
) -> None:
    """Sandboxes without a network have one; with control groups and without, nothing survives."""
    hidden = (
        "import time, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('ready', flush=True); time.sleep(99)"
    )
    command = ["sh", "-c", 'unshare --net "$0" -c "$1"; true', sys.executable, hidden]
    argv = api.exec_argv(lab, "h1", command, settings=settings)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        child = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())
        seen = read_process(child)
        assert seen and seen.netns != kernel.namespace_inode(namespace(lab, "h1"))
        try:
            with monkeypatch.context() as patch:
                if not has_groups:
                    patch.setattr(cgroups, "_hierarchy", lambda: None)
                    patch.setattr(cgroups, "_old_hierarchies", lambda: ())
                await api.fault(lab, "power-off", "h1", settings=settings)
            assert read_process(child) is None
            assert parent.wait(5) != 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


async def test_a_host_gets_its_power_back_with_its_old_disk_and_a_new_network(
    lab: str, settings: Settings
) -> None:
    folder = settings.state_root / "lab" / lab / "h1"
    (folder / "stale.pid").write_text("{}")
    subprocess.run(
        api.exec_argv(lab, "h1", ["ip", "link", "add", "br9", "type", "bridge"], settings=settings),
        check=True,
    )
    before = await api.status(lab, settings=settings)
    await api.fault(lab, "power-off", "h1", settings=settings)
    await api.fault(lab, "power-off", "h1", settings=settings)  # once more does no harm
    said: list[str] = []
    after = await api.fault(lab, "heal", "h1", progress=said.append, settings=settings)
    assert said == ["h1 has power again", "the agent of h1 was started"]
    assert after.hosts[0].state is HostState.UP
    assert after.hosts[0].agent_pid != before.hosts[0].agent_pid
    assert (folder / "stale.pid").exists()
    shown = subprocess.run(
        api.exec_argv(lab, "h1", ["ip", "link"], settings=settings),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "br9" not in shown.stdout
    for underlay in Underlay:
        with pair(lab, "h1", "h2", underlay) as (one, two):
            assert arrives(one, two) and arrives(two, one)
    with pair(lab, "client", "h1") as (client, one):
        assert arrives(client, one)


async def test_a_pause_stops_everything_and_closes_nothing(lab: str, settings: Settings) -> None:
    plan = make_plan(lab, 3, settings.state_root)
    with echo_session(lab, settings) as session:
        status = await api.fault(lab, "pause", "h1", settings=settings)
        assert status.hosts[0].state is HostState.PAUSED
        assert {process.state for process in host_processes(plan.host("h1"))} == {"T"}
        session.sendall(b"two\n")
        with pytest.raises(TimeoutError):
            session.recv(100)
        await api.fault(lab, "heal", settings=settings)
        session.settimeout(5)
        assert session.recv(100) == b"two\n"
    assert (await api.status(lab, settings=settings)).hosts[0].state is HostState.UP


async def test_a_paused_host_can_lose_its_power(lab: str, settings: Settings) -> None:
    await api.fault(lab, "pause", "h3", settings=settings)
    status = await api.fault(lab, "power-off", "h3", settings=settings)
    assert status.hosts[2].state is HostState.OFF
    assert (await api.fault(lab, "heal", settings=settings)).hosts[2].state is HostState.UP


async def test_a_slow_host_is_slow_both_ways_until_it_is_healed(lab: str, settings: Settings) -> None:
    status = await api.fault(lab, "slow", "h1", rate="2mbit", settings=settings)
    assert status.hosts[0].state is HostState.SLOW
    for sender, receiver in (("h1", "h2"), ("h2", "h1")):
        bits_per_s = await asyncio.to_thread(throughput, lab, sender, receiver)
        assert 0.5e6 < bits_per_s < 4e6
    assert await asyncio.to_thread(throughput, lab, "h2", "h3") > 20e6
    assert (await api.fault(lab, "heal", "h1", settings=settings)).hosts[0].faults == ()
    assert await asyncio.to_thread(throughput, lab, "h1", "h2") > 20e6


def throughput(lab: str, sender: str, receiver: str, size_bytes: int = 200_000) -> float:
    """Bits per second of one TCP transfer over the replication network."""
    octets = {"h1": 1, "h2": 2, "h3": 3}
    address = str(Underlay.REPLICATION.address(octets[receiver]))
    listener = kernel.in_namespace(namespace(lab, receiver), lambda: socket.create_server((address, 0)))
    with listener:
        port = listener.getsockname()[1]
        out = kernel.in_namespace(
            namespace(lab, sender), lambda: socket.create_connection((address, port), timeout=10)
        )
        with out, listener.accept()[0] as into:
            into.settimeout(20)
            out.setblocking(False)
            data, left = b"x" * size_bytes, size_bytes
            started = time.monotonic()
            while left:
                with contextlib.suppress(BlockingIOError):
                    data = data[out.send(data) :] if data else data
                left -= len(into.recv(65536))
            return size_bytes * 8 / (time.monotonic() - started)


async def test_arguments_that_make_no_sense_are_refused(lab: str, settings: Settings) -> None:
    cases: list[tuple[type[Exception], str, dict[str, str]]] = [
        (NotFoundError, "power-off", {"host": "h9"}),
        (NotFoundError, "power-off", {"host": "client"}),
        (InvalidError, "power-off", {}),
        (InvalidError, "explode", {"host": "h1"}),
        (InvalidError, "partition", {"host": "h1", "network": "overlay"}),
        (InvalidError, "partition", {"host": "h1", "direction": "up"}),
        (InvalidError, "slow", {"host": "h1"}),
        (InvalidError, "slow", {"host": "h1", "rate": "fast"}),
    ]
    for error, kind, more in cases:
        with pytest.raises(error):
            await api.fault(lab, kind, **more, settings=settings)  # type: ignore[arg-type]
    assert {host.state for host in (await api.status(lab, settings=settings)).hosts} == {HostState.UP}
