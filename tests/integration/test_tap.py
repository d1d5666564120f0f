"""Taps as QEMU inherits them, on a real kernel."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from netns_support import Place

from hostagent.drivers.net import KernelRefusedError, close_taps, open_taps
from hostagent.drivers.net.tap import create, open_tap

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/net/tun").exists(), reason="needs root and /dev/net/tun"
)

_TUNGETIFF, _TUNGETVNETHDRSZ, _TUNSETVNETHDRSZ = 0x800454D2, 0x800454D7, 0x400454D8
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100


@pytest.fixture
def host() -> Iterator[Place]:
    place = Place(f"vdctap{os.getpid() % 1000}")
    with contextlib.closing(place):
        place.call(create, "t0")
        yield place


def header_bytes(descriptor: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(descriptor, _TUNGETVNETHDRSZ, bytes(4)))[0])


def test_a_tap_is_as_qemu_would_have_opened_it_also_after_another_qemu(host: Place) -> None:
    (first,) = host.call(open_taps, ["t0"])
    fcntl.ioctl(
        first.fileno(), _TUNSETVNETHDRSZ, struct.pack("i", 12)
    )  # as QEMU does for a guest with virtio 1
    close_taps([first])
    (again,) = host.call(open_taps, ["t0"])
    assert header_bytes(again.fileno()) == 10
    flags = struct.unpack("16sH22x", fcntl.ioctl(again.fileno(), _TUNGETIFF, bytes(40)))[1]
    assert flags & (_IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR) == _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
    assert not flags & _IFF_MULTI_QUEUE
    assert not os.get_blocking(again.fileno())
    close_taps([again])


def test_one_that_is_taken_is_said_and_the_others_are_let_go(host: Place) -> None:
    host.call(create, "t1")
    held = host.call(open_tap, "t1")
    with pytest.raises(KernelRefusedError, match=r"open t1: .*EBUSY"):
        host.call(open_taps, ["t0", "t1"])
    os.close(held)
    close_taps(host.call(open_taps, ["t0", "t1"]))
