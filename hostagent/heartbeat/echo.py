"""ICMP echo to a peer that has fallen silent: its kernel answers for the host while its agent cannot.

An agent that is being restarted, or starved by its guests, sends no heartbeat; its host and its QEMU are well.
A host that lost power, or a network that is cut, answers no echo either, so asking costs no time there.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable

_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_SOL_RAW, _ICMP_FILTER = 255, 1  # raw(7), linux/icmp.h: the set bits are types that are kept back
_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def request(identifier: int, sequence: int) -> bytes:
    """An echo request without payload."""
    bare = _HEADER.pack(_ECHO_REQUEST, 0, 0, identifier, sequence & 0xFFFF)
    return _HEADER.pack(_ECHO_REQUEST, 0, checksum(bare), identifier, sequence & 0xFFFF)


def is_reply(packet: bytes, identifier: int) -> bool:
    """Whether an IPv4 packet from a raw socket is the answer to one of our requests."""
    header_bytes = (packet[0] & 0x0F) * 4 if packet else 0
    if len(packet) < header_bytes + _HEADER.size or header_bytes < 20:
        return False
    kind, code, _, found, _ = _HEADER.unpack_from(packet, header_bytes)
    return (kind, code, found) == (_ECHO_REPLY, 0, identifier)


class Echo:
    """One raw socket per network address. `heard(source address)` is called for each answer."""

    def __init__(self, address: str, heard: Callable[[str], None]) -> None:
        self._identifier = os.getpid() & 0xFFFF
        self._sequence = 0
        self._heard = heard
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.setblocking(False)
        # Answers alone: peers that ask a sleeping agent's kernel would else fill the queue before them.
        self._socket.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("@I", ~(1 << _ECHO_REPLY) & 0xFFFFFFFF))
        self._socket.bind((address, 0))
        asyncio.get_running_loop().add_reader(self._socket, self._receive)

    def ask(self, address: str) -> None:
        """Send one request; a network that refuses it is as good as silent."""
        self._sequence += 1
        try:
            self._socket.sendto(request(self._identifier, self._sequence), (address, 0))
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
            if is_reply(packet, self._identifier):
                self._heard(source)
