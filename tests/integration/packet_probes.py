"""Whether packets are lost: datagrams with numbers, and the kernel's counter of retransmissions.

Everything works inside a network namespace; the sockets are made there by a thread that enters it for that.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_PER_SECOND = 200
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_LATEST_S = 1.0  # an answer that takes longer counts as lost


def inside(namespace: str, make: Callable[[], T]) -> T:
    """Call `make` in a network namespace; what it opens stays there."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            return make()
        finally:
            libc.setns(own, _CLONE_NEWNET)
    finally:
        os.close(own)
        os.close(there)


@dataclass
class Retransmissions:
    """When the namespace's TCP sent a segment again, from the kernel's counter, looked at every 10 ms."""

    namespace: str
    at: list[float] = field(default_factory=list)

    def __enter__(self) -> Retransmissions:
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=inside, args=(self.namespace, self._run), name="retransmissions", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        before = _segments_sent_again()
        while not self._ended.wait(0.01):
            now = _segments_sent_again()
            self.at += [time.monotonic()] * (now - before)
            before = now

    def between(self, since: float, until: float) -> list[int]:
        """How long after `since`, in ms."""
        return [round((at - since) * 1000) for at in self.at if since <= at <= until]


def _segments_sent_again() -> int:
    lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])


@dataclass
class Datagrams:
    """ICMP echoes, 200 a second, each with its number: connectionless both ways, as UDP is for QEMU's filters."""

    namespace: str
    address: str
    sent_at: dict[int, float] = field(default_factory=dict)
    answered_at: dict[int, float] = field(default_factory=dict)

    def __enter__(self) -> Datagrams:
        def raw() -> socket.socket:
            return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)

        self._socket = inside(self.namespace, raw)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="datagrams", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        began, identity = time.monotonic(), threading.get_native_id() & 0xFFFF
        while not self._ended.is_set():
            due = began + len(self.sent_at) / _PER_SECOND
            if (now := time.monotonic()) >= due:
                number = len(self.sent_at)
                self._socket.sendto(_echo(identity, number), (self.address, 0))
                self.sent_at[number] = now
            elif select.select([self._socket], [], [], due - now)[0]:
                data = self._socket.recv(2048)
                kind, _, _, whose, number = struct.unpack_from("!BBHHH", data, (data[0] & 15) * 4)
                if kind == _ECHO_REPLY and whose == identity:
                    self.answered_at.setdefault(self._unwrapped(number), time.monotonic())

    def _unwrapped(self, number: int) -> int:
        latest = len(self.sent_at) - 1
        return latest - ((latest - number) & 0xFFFF)

    def lost(self, since: float, until: float) -> list[int]:
        """How long after `since`, in ms, those were sent that got no answer."""
        return [
            round((at - since) * 1000)
            for number, at in self.sent_at.copy().items()  # at once: datagrams still go out
            if since <= at <= until and self.answered_at.get(number, at + 2 * _LATEST_S) - at > _LATEST_S
        ]

    def longest_gap_ms(self, since: float, until: float) -> float:
        """The longest time without any answer."""
        times = sorted(at for at in self.answered_at.copy().values() if since <= at <= until)
        return max((b - a) * 1000 for a, b in pairwise(times))


def _echo(identity: int, number: int) -> bytes:
    packet = struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, identity, number & 0xFFFF) + bytes(24)
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return packet[:2] + struct.pack("!H", checksum) + packet[4:]
