"""Frames and packets by hand, with right checksums: br_netfilter looks at what it is given. Pure."""

from __future__ import annotations

import socket
import struct

BROADCAST = "ff:ff:ff:ff:ff:ff"
ARP, RARP, IPV4, IPV6 = 0x0806, 0x8035, 0x0800, 0x86DD
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58


def frame(destination: str, source: str, kind: int, payload: bytes) -> bytes:
    """An Ethernet frame of at least 60 bytes."""
    macs = bytes.fromhex((destination + source).replace(":", ""))
    return (macs + struct.pack(">H", kind) + payload).ljust(60, b"\0")


def arp(mac: str, sender: str, target: str = "10.77.0.254", *, operation: int = 1) -> bytes:
    """A request (1) or answer (2) of ARP: this MAC has this address."""
    own, asked = bytes.fromhex(mac.replace(":", "")), socket.inet_aton(target)
    return (
        struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation) + own + socket.inet_aton(sender) + bytes(6) + asked
    )


def rarp(mac: str) -> bytes:
    """A request of RARP for one's own address, as QEMU sends it for its guest."""
    own = bytes.fromhex(mac.replace(":", ""))
    return struct.pack(">HHBBH", 1, 0x0800, 6, 4, 3) + own + bytes(4) + own + bytes(4)


def checksum(data: bytes) -> int:
    """The Internet's, over an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def ipv4(source: str, protocol: int, payload: bytes, target: str = "10.77.0.255") -> bytes:
    """A packet of this protocol."""
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    fields = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol)
    return fields + struct.pack("!H", checksum(fields + bytes(2) + addresses)) + addresses + payload


def udp(source_port: int, port: int, content: bytes) -> bytes:
    """A datagram without a checksum."""
    return struct.pack("!HHHH", source_port, port, 8 + len(content), 0) + content


def ipv6(source: str, payload: bytes, protocol: int = UDP) -> bytes:
    """A packet to all nodes."""
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, "ff02::1")
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255) + addresses + payload
