"""Taps through /dev/net/tun, made as QEMU expects to find them: persistent, one queue, with a vnet header.

Danger: a tap is attached while a process has it open. `create` does not touch an existing one; asking for
an open one again would fail with EBUSY, and setting another number of queues with EINVAL.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path

_TUN_DEVICE = "/dev/net/tun"
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_IFREQ = struct.Struct("16sH22x")


def open_tap(ifname: str) -> int:
    """Open a tap as QEMU does, creating one that vanishes on close where there is none; the descriptor."""
    descriptor = os.open(_TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(ifname.encode(), flags))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


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
