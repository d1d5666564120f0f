"""What the replication connections of a bare pair carry: whether a text ever appears on the wire, and on which.

A packet socket on the namespace's loopback sees every segment; those of one direction of a connection are read as
one stream, so that a text which two segments share is found as well. Where the kernel dropped something nothing is
proved, and `close` says so.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from types import TracebackType
from typing import Self

from packet_probes import inside

from hostagent.drivers.qemu.plan import LockstepPlan

_ETH_P_ALL, _ETH_P_IP = 0x0003, 0x0800
_PACKET_HOST = 0
_SO_RCVBUFFORCE, _SOL_PACKET, _PACKET_STATISTICS = 33, 263, 6
_BUFFER_BYTES = 256 << 20
_MOST = 1 << 18
_TLS_HANDSHAKE = b"\x16\x03"


class ReplicationCapture:
    """From `with` on. `found` and `carried` count by kind of connection: mirror, compare, nbd, migration."""

    def __init__(self, namespace: str, plan: LockstepPlan, text: bytes) -> None:
        self._text = text
        self._kinds = {
            **dict.fromkeys(plan.ports.mirror, "mirror"),
            **dict.fromkeys(plan.ports.compare, "compare"),
            plan.ports.nbd: "nbd",
            plan.ports.migration: "migration",
        }
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
        while True:
            try:
                data, address = self._socket.recvfrom(_MOST)
            except TimeoutError:
                if self._stop.is_set():
                    return
                continue
            if address[1] == _ETH_P_IP and address[2] == _PACKET_HOST:
                self._read(data)

    def _read(self, data: bytes) -> None:
        header = (data[14] & 0x0F) * 4
        if data[23] != socket.IPPROTO_TCP:
            return
        tcp = 14 + header
        source, target, number = struct.unpack_from("!HHI", data, tcp)
        kind = self._kinds.get(source) or self._kinds.get(target)
        (length,) = struct.unpack_from("!H", data, 16)
        begin = tcp + (data[tcp + 12] >> 4) * 4
        payload = data[begin : 14 + length] if length else data[begin:]  # 0: larger than the field can say
        if kind is None or not payload:
            return
        flow = (source, target)
        if flow not in self._seen and payload.startswith(_TLS_HANDSHAKE) and target in self._kinds:
            self.begins_with_tls.add(kind)
        if self._seen.get(flow) == (number + len(payload)) % 2**32:  # sent again
            return
        self._seen[flow] = (number + len(payload)) % 2**32
        stream = self._tails.get(flow, b"") + payload
        self.carried[kind] += len(payload)
        self.found[kind] += stream.count(self._text)
        self._tails[flow] = stream[-(len(self._text) - 1) :]


def _open() -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    sock.bind(("lo", _ETH_P_ALL))
    return sock
