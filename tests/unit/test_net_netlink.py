"""The messages on the wire, the answers read back, and deadlines. No kernel is asked."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hostagent.drivers.net import messages, watch
from hostagent.drivers.net.codec import ifinfmsg, ndmsg
from hostagent.drivers.net.errors import KernelRefusedError, NetworkTimeoutError
from hostagent.drivers.net.netlink import NLM_F_ACK, Netlink, Request, split
from hostagent.drivers.net.watch import EventKind, NetworkEvent, parse_event

MAC = "52:54:00:00:00:0a"
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def netlink() -> AsyncIterator[Netlink]:
    netlink = Netlink(deadline_s=0.05)
    yield netlink
    await netlink.close()


def test_a_placement_on_the_wire() -> None:
    """Compared with the bytes that `bridge fdb replace MAC dev X dst 10.9.0.2 self permanent` sends."""
    data = messages.place_mac(7, MAC, "10.9.0.2").encode(5, NLM_F_ACK)
    attributes = struct.pack("=HH6s2x", 10, 2, bytes.fromhex(MAC.replace(":", "")))
    attributes += struct.pack("=HH4s", 8, 1, socket.inet_aton("10.9.0.2"))
    body = struct.pack("=B3xiHBB", socket.AF_BRIDGE, 7, 0xC0, 0x02, 0) + attributes
    length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data)
    assert (length, kind, flags, sequence) == (16 + len(body), 28, 0x505, 5)
    assert data[16:] == body


def test_a_mac_that_lives_here_has_no_endpoint() -> None:
    assert messages.place_mac(7, MAC, None).encode(1).endswith(struct.pack("=HH4x", 8, 1))


def test_links_are_read_back() -> None:
    message = ifinfmsg()
    message["index"] = 9
    message["flags"] = messages.IFF_UP | messages.IFF_LOWER_UP
    info = [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", {"attrs": [("IFLA_VXLAN_ID", 100)]})]
    message["attrs"] = [("IFLA_IFNAME", "vx"), ("IFLA_MASTER", 3), ("IFLA_LINKINFO", {"attrs": info})]
    answer = ifinfmsg(Request("", 16, 0, message).encode(1))
    answer.decode()
    link = messages.parse_link(answer)
    assert (link.index, link.name, link.kind, link.master, link.alias) == (9, "vx", "vxlan", 3, "")
    assert link.is_up and link.has_carrier
    assert link.options == {"IFLA_VXLAN_ID": 100}


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (messages.place_mac(7, MAC, "10.9.0.2"), messages.FdbEntry(MAC, "10.9.0.2", True)),
        (messages.place_mac(7, MAC, None), messages.FdbEntry(MAC, None, True)),
        (messages.place_mac(8, MAC, "10.9.0.2"), None),  # another interface's
        (messages.pin_mac(7, MAC), None),  # the bridge's own
    ],
)
def test_forwarding_entries_are_read_back(request_: Request, expected: messages.FdbEntry | None) -> None:
    answer = ndmsg(request_.encode(1))
    answer.decode()
    assert messages.parse_fdb(answer, 7) == expected


def test_events() -> None:
    message = ifinfmsg()
    message["flags"] = messages.IFF_UP
    message["attrs"] = [("IFLA_IFNAME", "eth0")]
    data = Request("", 16, 0, message).encode(1)
    assert parse_event(16, data) == NetworkEvent(EventKind.LINK, "eth0", is_up=True, has_carrier=False)
    assert parse_event(17, data) == NetworkEvent(EventKind.LINK_GONE, "eth0", is_up=True, has_carrier=False)
    route = bytearray(28)
    assert parse_event(25, bytes(route)) is None
    route[16 + 5] = 190
    assert parse_event(25, bytes(route)) == NetworkEvent(EventKind.ROUTE_GONE)
    assert parse_event(20, data) is None


def test_datagrams_are_cut_at_their_boundaries() -> None:
    one = struct.pack("=IHHII", 18, 1, 2, 3, 0) + b"ab"
    two = struct.pack("=IHHII", 16, 4, 5, 6, 0)
    assert list(split(one + b"\0\0" + two)) == [(3, 1, 2, one), (6, 4, 5, two)]
    assert list(split(bytes(16))) == []


async def test_a_kernel_that_does_not_answer_is_a_timeout_and_the_job_is_still_finished(
    netlink: Netlink,
) -> None:
    release, finished = threading.Event(), threading.Event()

    def job() -> None:
        release.wait(5)
        finished.set()

    with pytest.raises(NetworkTimeoutError, match="slow thing"):
        await netlink.run("slow thing", job)
    assert not finished.is_set()
    release.set()
    assert await asyncio.to_thread(finished.wait, 5)
    assert await netlink.run("next", lambda: 42) == 42


async def test_a_system_call_that_fails_becomes_an_error_of_ours(netlink: Netlink) -> None:
    def job() -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    with pytest.raises(KernelRefusedError, match=r"open tap: Device or resource busy \(EBUSY\)") as caught:
        await netlink.run("open tap", job)
    assert caught.value.number == errno.EBUSY


def test_the_codec_loads_a_sixth_of_pyroute2_and_leaves_the_rest_usable() -> None:
    code = (
        "import sys, hostagent.drivers.net as net\n"
        "count = sum(name.startswith('pyroute2') for name in sys.modules)\n"
        "from pyroute2 import IPRoute, NetNS\n"
        "import pyroute2\n"
        "print(count, IPRoute.__name__, pyroute2.AsyncIPRoute.__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    count, *names = done.stdout.split()
    assert int(count) < 40
    assert names == ["IPRoute", "AsyncIPRoute"]


def test_reports_that_change_nothing_are_dropped_before_they_cost_anything() -> None:
    def report(kind: int, flags: int, *, index: int = 7, family: int = 0) -> bytes:
        return struct.pack("=IHHIIBxHiII", 32, kind, 0, 0, 0, family, 1, index, flags, 0)

    seen = watch._SeenFlags()
    new_link, del_link = 16, 17
    assert seen.is_news(new_link, report(new_link, 1))
    assert not seen.is_news(new_link, report(new_link, 1))
    assert seen.is_news(new_link, report(new_link, 1, index=8))
    assert seen.is_news(new_link, report(new_link, 0))
    assert not seen.is_news(new_link, report(new_link, 3, family=7))  # the bridge's view of a port
    assert seen.is_news(del_link, report(del_link, 0))
    assert seen.is_news(new_link, report(new_link, 0))
