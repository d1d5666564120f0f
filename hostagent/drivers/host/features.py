"""Which parts of the kernel's networking this host really has: tried out, not read from a configuration.

Links of each kind are made in a network namespace that exists for the moment only. A namespace belongs
to a thread, so a thread of its own enters it, and the kernel deletes the namespace with everything in it
when that thread ends: the host's own interfaces are never touched, whatever happens here. Making a link
also loads its module where the kernel has one.

Danger: `unshare` changes the calling thread for good; never call `_try_links` from a shared thread.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

LINK_KINDS: Mapping[str, Mapping[str, Any]] = {
    "vxlan": {"vxlan_id": 1, "vxlan_port": 4789},
    "bridge": {},
    "veth": {"peer": "probe-peer"},
}
TUN_DEVICE = Path("/dev/net/tun")
_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that the overlay needs, whether it is there, and why it is not."""

    name: str
    is_available: bool
    reason: str = ""


def probe_features(*, tun_device: Path = TUN_DEVICE, deadline_s: float = 5.0) -> tuple[Feature, ...]:
    """Try a vxlan, a bridge, a veth and a tap in a throw-away namespace. Blocks for some 10 ms; never raises.

    Without the right to make a namespace (not root) every feature is reported as missing, for that reason.
    """
    found: dict[str, Feature] = {}
    thread = threading.Thread(target=_probe_into, args=(found, tun_device), name="feature-probe", daemon=True)
    thread.start()
    thread.join(deadline_s)
    names = (*LINK_KINDS, "tap")
    missing = f"the kernel did not answer within {deadline_s:g} s"
    return tuple(found.get(name) or Feature(name, False, missing) for name in names)


def _probe_into(found: dict[str, Feature], tun_device: Path) -> None:
    try:
        _enter_new_namespace()
        for kind, options in LINK_KINDS.items():
            found[kind] = _try_link(kind, options)
        found["tap"] = _try_tap(tun_device)
    except Exception as error:  # the thread's boundary: an unknown reason is still a reason
        reason = f"cannot be tried: {error}"
        for name in (*LINK_KINDS, "tap"):
            found.setdefault(name, Feature(name, False, reason))


def _enter_new_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"no network namespace can be made ({os.strerror(number)})")


def _try_link(kind: str, options: Mapping[str, Any]) -> Feature:
    with IPRoute() as netlink:
        try:
            netlink.link("add", ifname=f"probe-{kind}", kind=kind, **options)
        except NetlinkError as error:
            return Feature(kind, False, f"the kernel refuses a {kind} link: {os.strerror(error.code)}")
    return Feature(kind, True)


def _try_tap(device: Path) -> Feature:
    """Make a tap with virtio-net headers, as guests get one; it goes with its descriptor."""
    request = struct.pack("16sH22x", b"probe-tap", _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
    try:
        with device.open("r+b", buffering=0) as tun:
            fcntl.ioctl(tun, _TUNSETIFF, request)
    except OSError as error:
        return Feature("tap", False, f"{device}: {error.strerror}")
    return Feature("tap", True)
