"""ICMP echo to a peer that has fallen silent: its kernel answers for the host while its agent cannot.

An agent that is being restarted, or starved by its guests, sends no heartbeat; its host and its QEMU are well.
A host that lost power, or a network that is cut, answers no echo either, so asking costs no time there.

Kernels prove nothing by an echo; but every request carries its time and a mark that only this process can make, so
nobody can make up an answer who does not see the requests, and an answer proves life at the time of its request
alone, however late or often it comes. Who sees them can answer in a dead host's place (docs/failover.md, Limits).
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import socket
import struct
from collections.abc import Callable

_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_SOL_RAW, _ICMP_FILTER = 255, 1  # raw(7), linux/icmp.h: the set bits are types that are kept back
_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_TIME = struct.Struct("!d")
_MARK_BYTES = 16


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def request(identifier: int, sequence: int, payload: bytes) -> bytes:
    """An echo request."""
    bare = _HEADER.pack(_ECHO_REQUEST, 0, 0, identifier, sequence & 0xFFFF) + payload
    return _HEADER.pack(_ECHO_REQUEST, 0, checksum(bare), identifier, sequence & 0xFFFF) + payload


def payload_of_reply(packet: bytes, identifier: int) -> bytes | None:
    """What an IPv4 packet from a raw socket brings back; None unless it answers a request of `identifier`."""
    header_bytes = (packet[0] & 0x0F) * 4 if packet else 0
    if len(packet) < header_bytes + _HEADER.size or header_bytes < 20:
        return None
    kind, code, _, found, _ = _HEADER.unpack_from(packet, header_bytes)
    is_ours = (kind, code, found) == (_ECHO_REPLY, 0, identifier)
    return packet[header_bytes + _HEADER.size :] if is_ours else None


class Marks:
    """Payloads that tell, unforgeably and without remembering any, whom a request was sent to and when."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def make(self, address: str, now_s: float) -> bytes:
        """The payload of a request to `address`."""
        at = _TIME.pack(now_s)
        return at + self._mark(address, at)

    def asked_at_s(self, address: str, payload: bytes) -> float | None:
        """When `address` was sent this payload; None where it never was."""
        at = payload[: _TIME.size]
        if not hmac.compare_digest(payload[_TIME.size :], self._mark(address, at)):
            return None
        (asked_at_s,) = _TIME.unpack(at)
        return float(asked_at_s)

    def _mark(self, address: str, at: bytes) -> bytes:
        return hmac.digest(self._key, at + address.encode(), "sha256")[:_MARK_BYTES]


class Echo:
    """One raw socket per network address. `heard(source address, time of the request)` is called for each answer."""

    def __init__(self, address: str, clock: Callable[[], float], heard: Callable[[str, float], None]) -> None:
        self._identifier = os.getpid() & 0xFFFF
        self._sequence = 0
        self._clock = clock
        self._heard = heard
        self._marks = Marks()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.setblocking(False)
        # Answers alone: peers that ask a sleeping agent's kernel would else fill the queue before them.
        self._socket.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("@I", ~(1 << _ECHO_REPLY) & 0xFFFFFFFF))
        self._socket.bind((address, 0))
        asyncio.get_running_loop().add_reader(self._socket, self._receive)

    def ask(self, address: str) -> None:
        """Send one request; a network that refuses it is as good as silent."""
        self._sequence += 1
        payload = self._marks.make(address, self._clock())
        try:
            self._socket.sendto(request(self._identifier, self._sequence, payload), (address, 0))
        except OSError:
            return

    def close(self) -> None:
        """Close the socket."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _receive(self) -> None:
        while True:
            try:
                packet, (source, _) = self._socket.recvfrom(256)
            except OSError:
                return
            payload = payload_of_reply(packet, self._identifier)
            if payload is None:
                continue
            asked_at_s = self._marks.asked_at_s(source, payload)
            if asked_at_s is not None:
                self._heard(source, asked_at_s)
