"""Taps through /dev/net/tun, made as QEMU expects to find them: persistent, one queue, with a vnet header.

Danger: a tap is attached while a process has it open. `create` does not touch an existing one; asking for
an open one again would fail with EBUSY, and setting another number of queues with EINVAL.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from io import FileIO
from pathlib import Path

from hostagent.drivers.net.errors import KernelRefusedError

_TUN_DEVICE = "/dev/net/tun"
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_TUNSETVNETHDRSZ = 0x400454D8
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_VNET_HEADER_BYTES = 10  # of struct virtio_net_hdr; what a guest negotiates makes it 12 later
_IFREQ = struct.Struct("16sH22x")


def open_tap(ifname: str) -> int:
    """Open a tap as QEMU does, creating one that vanishes on close where there is none; the descriptor.

    A tap keeps the header's size that an earlier QEMU has set, and one that gets a descriptor takes 10 for granted.
    """
    descriptor = os.open(_TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(ifname.encode(), flags))
        fcntl.ioctl(descriptor, _TUNSETVNETHDRSZ, struct.pack("i", _VNET_HEADER_BYTES))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_taps(ifnames: Iterable[str]) -> list[FileIO]:
    """Open the taps of a guest, for its QEMU to inherit. Blocks; raises KernelRefusedError."""
    opened: list[FileIO] = []
    for ifname in ifnames:
        try:
            opened.append(FileIO(open_tap(ifname), "r+"))
        except OSError as error:
            close_taps(opened)
            raise KernelRefusedError(f"open {ifname}", error.errno or errno.EIO) from error
    return opened


def close_taps(taps: Iterable[FileIO]) -> None:
    """Close this process's descriptors; whoever inherited them keeps the taps."""
    for tap in taps:
        tap.close()


def create(ifname: str, *, owner: int | None = None) -> None:
    """Create a persistent tap, down; `owner` is the uid that may open it without CAP_NET_ADMIN."""
    descriptor = open_tap(ifname)
    try:
        if owner is not None:
            fcntl.ioctl(descriptor, _TUNSETOWNER, owner)
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


def disable_ipv6(ifname: str) -> None:
    """Keep the host's IPv6 off the tap: a secondary's guest must not hear what the primary's does not.

    Best effort where /proc/sys is read-only; `messages.silence_ipv6` covers the addresses then.
    """
    with suppress(OSError):
        Path(f"/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6").write_text("1")
