"""Who speaks for a guest, seen on the wire: every frame of a guest that reaches the management switch.

One packet socket in the switch's namespace sees a frame as it arrives at a port, before the port's own rules:
what a host emits counts even where a partition, a locked port or another host's forwarding entries drop it
behind. A filter in the kernel lets through only VXLAN packets that come in at a port and carry a frame with a
guest's source MAC (`GUEST_OUI`); the rest costs nothing. Times are the kernel's own of the arrival.

Dangers: a guest with a MAC of the user's own choice is not seen. Frames between two guests on one host never
come to a wire. Where `dropped` is not 0 the kernel lost frames and nothing is proved.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
from dataclasses import dataclass
from ipaddress import IPv4Address
from types import TracebackType
from typing import Self

from vdc.lab import kernel
from vdc.lab.network import link_index, netlink
from vdc.lab.plan import BRIDGE, LabPlan, Underlay

GUEST_OUI = 0x525400  # of every MAC that VDC allots

_ETH_P_ALL, _ETH_P_IP = 0x0003, 0x0800
_VXLAN_PORT, _UDP = 4789, 17
_OUTER_SOURCE, _INNER = 26, 50  # offsets: Ethernet 14, IPv4 20 (VXLAN sends no options), UDP 8, VXLAN 8
_SNAPLEN = 96
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 26, 33, 35
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_BUFFER_BYTES = 32 << 20
_BATCH_S = 0.05
_ETHERTYPES = {0x0806: "arp", 0x8035: "rarp", 0x86DD: "ipv6"}
_IP_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}

# Classic BPF: opcodes, and the extension area (linux/filter.h).
_LD_W, _LD_H, _LD_B, _AND, _JEQ, _RET = 0x20, 0x28, 0x30, 0x54, 0x15, 0x06
_AD = 0xFFFFF000
_PACKET_TYPE, _IFINDEX = _AD + 4, _AD + 8
_PACKET_OUTGOING = 4

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Frame:
    """A guest's frame as it left a host. `source` is the outer address: the VXLAN endpoint that sent it."""

    at_s: float  # CLOCK_REALTIME, as all hosts of a lab share it
    source: IPv4Address
    mac: str
    protocol: str


class Capture:
    """From `with` on, every guest's frame that any member of the lab sends over the overlay."""

    def __init__(self, plan: LabPlan) -> None:
        self._frames: list[Frame] = []
        self._dropped = 0
        self._socket = kernel.in_namespace(plan.switch(Underlay.MANAGEMENT), _open)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching; what was seen stays. Safe to repeat."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._drain()
        self._socket.close()

    @property
    def frames(self) -> tuple[Frame, ...]:
        """What was seen until now, in the order of arrival."""
        if not self._stop.is_set():
            self._drain()
        with self._lock:
            return tuple(self._frames)

    @property
    def dropped(self) -> int:
        """Frames that the kernel could not keep for us."""
        return self._dropped

    def _run(self) -> None:
        while not self._stop.wait(_BATCH_S):
            self._drain()

    def _drain(self) -> None:
        with self._lock:
            while select.select([self._socket], [], [], 0)[0]:
                data, ancillary, _, _ = self._socket.recvmsg(_SNAPLEN, 64)
                if (frame := parse(data, _arrival_s(ancillary))) is not None:
                    self._frames.append(frame)
            statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            self._dropped += struct.unpack("II", statistics)[1]  # the kernel counts anew after each look


def parse(data: bytes, at_s: float) -> Frame | None:
    """Read the outer packet that the filter let through; None where it is too short to be one."""
    if len(data) < _INNER + 14:
        return None
    mac = data[_INNER + 6 : _INNER + 12]
    (ethertype,) = struct.unpack_from("!H", data, _INNER + 12)
    protocol = _ETHERTYPES.get(ethertype, f"{ethertype:#06x}")
    if ethertype == _ETH_P_IP and len(data) > _INNER + 23:
        number = data[_INNER + 23]
        protocol = _IP_PROTOCOLS.get(number, f"ip-{number}")
    source = IPv4Address(data[_OUTER_SOURCE : _OUTER_SOURCE + 4])
    return Frame(at_s, source, mac.hex(":"), protocol)


def filter_program(bridge: int) -> list[tuple[int, int, int, int]]:
    """(code, jump if true, jump if false, operand): a guest's frame in VXLAN that comes in at a port."""
    tests = [
        (_LD_W, _IFINDEX, bridge, False),  # the bridge itself shows what a port has shown before
        (_LD_W, _PACKET_TYPE, _PACKET_OUTGOING, False),
        (_LD_H, 12, _ETH_P_IP, True),
        (_LD_B, 23, _UDP, True),
        (_LD_H, 36, _VXLAN_PORT, True),
    ]
    program: list[tuple[int, int, int, int]] = []
    remaining = 2 * len(tests) + 3  # instructions up to the one that accepts
    for load, offset, value, is_wanted in tests:
        remaining -= 2
        reject = remaining + 1  # from behind the comparison to the last instruction
        program.append((load, 0, 0, offset & 0xFFFFFFFF))
        program.append((_JEQ, 0, reject, value) if is_wanted else (_JEQ, reject, 0, value))
    program += [
        (_LD_W, 0, 0, _INNER + 6),
        (_AND, 0, 0, 0xFFFFFF00),
        (_JEQ, 0, 1, GUEST_OUI << 8),
        (_RET, 0, 0, _SNAPLEN),
        (_RET, 0, 0, 0),
    ]
    return program


def _open() -> socket.socket:
    with netlink() as ip:
        bridge = link_index(ip, BRIDGE) or 0
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in filter_program(bridge))
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        _watch_every_interface(opened)  # nothing comes in before the filter is in place
    except BaseException:
        opened.close()
        raise
    return opened


def _watch_every_interface(opened: socket.socket) -> None:
    """`socket.bind` cannot name no interface."""
    address = struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(_ETH_P_ALL), 0, 0, 0, 0, b"")
    if _libc.bind(opened.fileno(), address, len(address)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"packet socket: {os.strerror(number)}")


def _arrival_s(ancillary: list[tuple[int, int, bytes]]) -> float:
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack("qq", value[:16])
            return float(seconds) + float(nanoseconds) / 1e9
    return 0.0
