"""Hosts, guests and a client in throw-away network namespaces, all inside the test's own process.

A namespace belongs to a thread: a `Place` is a thread that has entered its namespace and runs an event loop
there, so the driver works in it exactly as an agent does in its host's. A `Guest` is what QEMU is to a tap:
it opens it by name and carries frames between it and a network stack of its own.

    switch: two bridges        10.9.0.0/24 (u0, carries the overlay) and 10.8.0.0/24 (m0)
    h1 h2 h3                   10.9.0.1-3, 10.8.0.1-3; on the overlay 10.77.0.1-3
    client                     10.9.0.100; on the overlay 10.77.0.250, a learning VXLAN and nothing of ours
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import itertools
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from hostagent.drivers.net import Netlink, OverlayNetwork, Port
from hostagent.drivers.net.tap import open_tap
from tests.integration.packets import frame, rarp
from vdc.model.network import Network

T = TypeVar("T")
CLIENT_VTEP, CLIENT_ADDRESS = "10.9.0.100", "10.77.0.250"
MAC, MAC_B = "52:54:00:77:00:0a", "52:54:00:77:00:0b"
ADDRESS, ADDRESS_B = "10.77.0.10", "10.77.0.11"
ADDRESSES = {MAC: ADDRESS, MAC_B: ADDRESS_B}
NETWORK = Network(external_vteps=(CLIENT_VTEP,))
ETH_P_ALL = 3
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_serial = itertools.count()


def run(*argv: str, check: bool = True) -> str:
    """Run a command and return what it printed."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = 20.0) -> T:
    """Poll until the condition is true; returns its value, or fails with `what`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.01)


def _enter(netns: str) -> None:
    descriptor = os.open(f"/run/netns/{netns}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {netns}")
    finally:
        os.close(descriptor)


class Place:
    """A namespace with a thread and an event loop in it."""

    def __init__(self, netns: str) -> None:
        self.netns = netns
        run("ip", "netns", "add", netns)
        run("ip", "-n", netns, "link", "set", "lo", "up")
        self.loop = asyncio.new_event_loop()
        entered = threading.Event()
        self._thread = threading.Thread(target=self._main, args=(entered,), name=netns, daemon=True)
        self._thread.start()
        if not entered.wait(5):
            raise AssertionError(f"cannot enter {netns}")

    def _main(self, entered: threading.Event) -> None:
        _enter(self.netns)
        asyncio.set_event_loop(self.loop)
        self.loop.call_soon(entered.set)
        self.loop.run_forever()

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the namespace and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in the namespace."""

        async def wrapped() -> T:
            return function(*args)

        return self.do(wrapped())

    def ip(self, *argv: str, check: bool = True) -> str:
        """Run `ip` in the namespace."""
        return run("ip", "-n", self.netns, *argv, check=check)

    def popen(self, argv: list[str], **kwargs: Any) -> subprocess.Popen[bytes]:
        """Start a process in the namespace."""
        return self.call(lambda: subprocess.Popen(argv, **kwargs))

    def udp(self, address: str = "", port: int = 0, timeout_s: float = 0.2) -> socket.socket:
        """A UDP socket in the namespace."""
        sock = self.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(timeout_s)
        sock.bind((address, port))
        return sock

    def packet_socket(self, ifname: str) -> socket.socket:
        """A raw socket that sees what the interface receives and sends."""
        sock = self.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        try:
            self.call(sock.bind, (ifname, ETH_P_ALL))
        except OSError:
            sock.close()
            raise
        sock.settimeout(0.05)
        return sock

    def ping(self, address: str, timeout_s: float = 20.0) -> None:
        """Ping until the first answer; fails after the time."""
        wait_until(lambda: self.reaches(address), f"{self.netns} reaches {address}", timeout_s)

    def reaches(self, address: str, timeout_s: float = 0.2) -> bool:
        """Send one ICMP echo request and say whether it was answered."""
        sequence = next(_serial) & 0xFFFF
        body = struct.pack(">BBHHH", 8, 0, 0, 0x7664, sequence) + b"echo"
        total = sum(struct.unpack(f">{len(body) // 2}H", body))
        checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        with self.call(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
            sock.settimeout(timeout_s)
            with contextlib.suppress(OSError):
                sock.sendto(body[:2] + struct.pack(">H", checksum) + body[4:], (address, 0))
                while True:
                    data, (sender, _) = sock.recvfrom(2048)
                    reply = data[(data[0] & 0xF) * 4 :]
                    if sender == address and reply[:1] == b"\0" and reply[4:8] == body[4:8]:
                        return True
        return False

    def close(self) -> None:
        """Stop the thread and delete the namespace with everything in it."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()
        run("ip", "netns", "del", self.netns, check=False)


class Guest:
    """Opens a host's tap as QEMU does; behind it is a namespace with the guest's MAC and address."""

    ECHO_PORT = 7007

    def __init__(self, lab: Lab, host: Place, ifname: str, mac: str, address: str = "") -> None:
        self.place = lab.add_place(f"g{next(_serial)}")
        self.mac = mac
        self._inside = self.place.call(open_tap, "eth0")
        self.place.ip("link", "set", "eth0", "address", mac, "mtu", "1400", "up")
        if address:
            self.place.ip("addr", "add", f"{address}/24", "dev", "eth0")
        self._outside = host.call(open_tap, ifname)
        self._stop_read, self._stop_write = os.pipe()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._carry, daemon=True)]
        self._threads[0].start()
        lab.cleanup.callback(self.stop)

    def _carry(self) -> None:
        ways = {self._inside: self._outside, self._outside: self._inside}
        while True:
            readable, _, _ = select.select([*ways, self._stop_read], [], [])
            if self._stop_read in readable:
                return
            for descriptor in readable:
                with contextlib.suppress(BlockingIOError, OSError):
                    os.write(ways[descriptor], os.read(descriptor, 1 << 17))

    def serve_echo(self) -> None:
        """Answer UDP with what came, prefixed by the guest's namespace name."""
        sock = self.place.udp(port=self.ECHO_PORT, timeout_s=3600)
        self._sockets.append(sock)

        def echo() -> None:
            with contextlib.suppress(OSError):
                while True:
                    data, sender = sock.recvfrom(2048)
                    sock.sendto(self.place.netns.encode() + b":" + data, sender)

        thread = threading.Thread(target=echo, daemon=True)
        thread.start()
        self._threads.append(thread)

    def send_broadcast(self, payload: bytes = b"", source: str | None = None) -> None:
        """Send what QEMU's announce-self does, a broadcast of RARP, with something behind it."""
        source = source or self.mac
        sock = self.place.packet_socket("eth0")
        with sock:
            sock.send(frame("ff:ff:ff:ff:ff:ff", source, 0x8035, rarp(source) + payload))

    def stop(self) -> None:
        """Leave the tap, as a killed QEMU does; nothing is carried any more."""
        if self._stop_write < 0:
            return
        os.write(self._stop_write, b"x")
        self._threads[0].join(5)
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads[1:]:
            thread.join(5)
        for descriptor in (self._inside, self._outside, self._stop_read, self._stop_write):
            os.close(descriptor)
        self._stop_write = -1


class Host(Place):
    """A host's namespace with the driver in it."""

    number: int
    net: OverlayNetwork
    netlink: Netlink

    def start_driver(self, number: int, peers: list[str], netlink: Netlink | None = None) -> None:
        """Make the driver and this host's end of the overlay."""
        self.number = number
        self.vtep = f"10.9.0.{number}"

        async def start() -> None:
            self.netlink = netlink or Netlink()
            self.net = OverlayNetwork(
                NETWORK,
                vtep_address=self.vtep,
                overlay_address=f"10.77.0.{number}",
                underlay_interface="u0",
                netlink=self.netlink,
            )
            await self.net.ensure(peers)

        self.do(start())

    def close(self) -> None:
        """Close the driver's socket first."""
        if hasattr(self, "netlink"):
            self.do(self.netlink.close())
        super().close()


class Lab:
    """The whole of it; `with Lab() as lab`."""

    def __init__(self, hosts: int = 3) -> None:
        self._hosts = hosts
        self._prefix = f"vt{os.getpid()}-{next(_serial)}-"
        self.cleanup = contextlib.ExitStack()
        self.hosts: list[Host] = []

    def __enter__(self) -> Lab:
        try:
            self._build()
        except BaseException:
            self.cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.cleanup.close()

    def add_place(self, name: str, kind: type[Place] = Place) -> Any:
        """A further namespace, removed at the end."""
        place = kind(self._prefix + name)
        self.cleanup.callback(place.close)
        return place

    def _build(self) -> None:
        self.switch = self.add_place("sw")
        for bridge in ("u", "m"):
            self.switch.ip("link", "add", "name", bridge, "type", "bridge", "forward_delay", "0")
            self.switch.ip("link", "set", "dev", bridge, "up")
        addresses = [f"10.9.0.{number}" for number in range(1, self._hosts + 1)]
        for number in range(1, self._hosts + 1):
            host: Host = self.add_place(f"h{number}", Host)
            self.plug(host, "u", number)
            self.plug(host, "m", number)
            host.start_driver(number, [a for a in addresses if not a.endswith(f".{number}")])
            self.hosts.append(host)
        self.client = self.add_place("client")
        self.plug(self.client, "u", 100)
        self._build_client(addresses)

    def plug(self, place: Place, bridge: str, number: int) -> None:
        """A cable from a place to one of the switch's bridges."""
        ifname, subnet = f"{bridge}0", {"u": 9, "m": 8}[bridge]
        peer = ("type", "veth", "peer", "name", ifname, "netns", place.netns)
        self.switch.ip("link", "add", f"{bridge}{number}", *peer)
        self.switch.ip("link", "set", "dev", f"{bridge}{number}", "master", bridge, "up")
        place.ip("addr", "add", f"10.{subnet}.0.{number}/24", "dev", ifname)
        place.ip("link", "set", ifname, "up")

    def _build_client(self, vteps: list[str]) -> None:
        vxlan = ("type", "vxlan", "id", str(NETWORK.vni), "dstport", "4789", "local", CLIENT_VTEP)
        self.client.ip("link", "add", "vx", "mtu", "1400", *vxlan)
        for vtep in vteps:
            flood = ("00:00:00:00:00:00", "dev", "vx", "dst", vtep, "self")
            run("bridge", "-n", self.client.netns, "fdb", "append", *flood)
        self.client.ip("addr", "add", f"{CLIENT_ADDRESS}/24", "dev", "vx")
        self.client.ip("link", "set", "vx", "up")


def attach(host: Host, uid: str, mac: str, *, live: bool, address: str = "") -> Port:
    port = Port.of(uid, 0, mac, address or ADDRESSES.get(mac, "10.77.0.99"))
    host.do(host.net.attach_port(port, live=live))
    return port


def place(hosts: list[Host], mac: str, owner: Host) -> None:
    """What the agents of all other hosts do."""
    for host in hosts:
        if host is not owner:
            host.do(host.net.place({mac: owner.vtep}))


def start_guest(lab: Lab, host: Host, uid: str, mac: str, address: str, *, live: bool = True) -> Guest:
    port = attach(host, uid, mac, live=live, address=address)
    guest = Guest(lab, host, port.ifname, mac, address)
    wait_until(lambda: host.do(host.net.list_ports())[0].is_open, "the tap is open")
    if live:
        place(lab.hosts, mac, host)
    return guest


def frames(sock: socket.socket, seconds: float) -> Iterator[bytes]:
    """Yield what the socket receives for so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            data = sock.recv(1 << 16)
        except TimeoutError:
            continue
        except OSError as error:  # ENETDOWN: the interface was down for a moment
            if error.errno != errno.ENETDOWN:
                raise
            continue
        yield data


def hears(sock: socket.socket, payload: bytes, seconds: float) -> bool:
    """Whether a frame with this content arrives within the time."""
    return any(payload in data for data in frames(sock, seconds))


def runtime_root() -> Path | None:
    """Where dnsmasq is; None where there is none."""
    root = Path(os.environ.get("VDC_CACHE_DIR", "/var/cache/vdc")) / "runtime" / "current"
    return root.resolve() if (root / "usr/sbin/dnsmasq").exists() else None


async def timed(awaitable: Awaitable[object]) -> float:
    """Await it and return how many milliseconds that took."""
    start = time.perf_counter()
    await awaitable
    return (time.perf_counter() - start) * 1e3
