"""What replication connections carry: whether a text ever appears on the wire, and on which kind of them.

A packet socket in a namespace (a bare pair's, or a lab's replication switch) sees every segment; those of one
direction of a connection are read as one stream, so that a text which two segments share is found as well. Where the
kernel dropped something nothing is proved, and the end of the block says so.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

from packet_probes import inside

from hostagent.drivers.qemu.plan import FIRST_PORT, PORTS_PER_SLOT
from vdc.model.manifest import MAX_NICS

_ETH_P_ALL, _ETH_P_IP = 0x0003, 0x0800
_PACKET_OUTGOING = 4  # on the loopback and at a switch each packet is seen coming in as well
_KINDS = ("mirror", "compare", "nbd", "migration")
_FIRST_EPHEMERAL = 32768
_SO_RCVBUFFORCE, _SOL_PACKET, _PACKET_STATISTICS = 33, 263, 6
_BUFFER_BYTES = 256 << 20
_MOST = 1 << 18
_TLS_HANDSHAKE = b"\x16\x03"
_LAST_S = 1.0


class ReplicationCapture:
    """From `with` on. `found` and `carried` count by kind of connection: mirror, compare, nbd, migration."""

    def __init__(self, namespace: str, text: bytes) -> None:
        self._text = text
        self.found: Counter[str] = Counter()
        self.carried: Counter[str] = Counter()  # bytes
        self.begins_with_tls: set[str] = set()
        self._tails: dict[tuple[int, int], bytes] = {}
        self._seen: dict[tuple[int, int], int] = {}  # the next sequence number of each direction
        self._socket = inside(namespace, _open)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replication capture", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._socket.close()
        if error is None:
            assert dropped == 0, f"the kernel dropped {dropped} packets: nothing is proved"

    def _run(self) -> None:
        self._socket.settimeout(0.1)
        end = float("inf")
        while time.monotonic() < end:
            if self._stop.is_set():  # what is under way is read; a network with heartbeats is never silent
                end = min(end, time.monotonic() + _LAST_S)
            try:
                data, address = self._socket.recvfrom(_MOST)
            except TimeoutError:
                if self._stop.is_set():
                    return
                continue
            if address[1] == _ETH_P_IP and address[2] != _PACKET_OUTGOING:
                self._read(data)

    def _read(self, data: bytes) -> None:
        header = (data[14] & 0x0F) * 4
        if data[23] != socket.IPPROTO_TCP:
            return
        tcp = 14 + header
        source, target, number = struct.unpack_from("!HHI", data, tcp)
        kind = _kind_of(source) or _kind_of(target)
        (length,) = struct.unpack_from("!H", data, 16)
        begin = tcp + (data[tcp + 12] >> 4) * 4
        payload = data[begin : 14 + length] if length else data[begin:]  # 0: larger than the field can say
        if kind is None or not payload:
            return
        flow = (source, target)
        if flow not in self._seen and payload.startswith(_TLS_HANDSHAKE) and _kind_of(target):
            self.begins_with_tls.add(kind)
        if self._seen.get(flow) == (number + len(payload)) % 2**32:  # sent again
            return
        self._seen[flow] = (number + len(payload)) % 2**32
        stream = self._tails.get(flow, b"") + payload
        self.carried[kind] += len(payload)
        self.found[kind] += stream.count(self._text)
        self._tails[flow] = stream[-(len(self._text) - 1) :]


def _kind_of(port: int) -> str | None:
    """By the layout of LockstepPorts."""
    if not FIRST_PORT <= port < _FIRST_EPHEMERAL:
        return None
    return _KINDS[(port - FIRST_PORT) % PORTS_PER_SLOT // MAX_NICS]


def _open() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_ALL))  # every interface
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    return sock
