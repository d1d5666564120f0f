"""One raw rtnetlink socket, worked by one thread of its own.

Why a thread: the kernel carries out a request inside `sendmsg`, under the RTNL lock that is shared by all
namespaces. Tearing a namespace down elsewhere holds that lock for 50 ms and more, non-blocking socket or not,
and heartbeats live on the event loop. Why a raw socket: what belongs together goes out in one `sendmsg`, the
acknowledgements are there when it returns, and nothing comes between (3 requests: 0.13 ms; the same
through AsyncIPRoute, one by one: 0.45 ms).

Invariants: a job runs whole or not at all, whatever happens to the task that waits for it; so the socket
never holds a stale answer. Requests are built to be repeated. The socket belongs to the network namespace
that the process was in at the first request.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hostagent.drivers.net.errors import KernelRefusedError, NetworkTimeoutError

T = TypeVar("T")

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_ACK_TLVS = 0x200
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_SO_RCVBUFFORCE = 33
_CHUNK = 100  # requests in one sendmsg; their acknowledgements must fit into the receive buffer
_DUMP_TRIES = 5
_SOCKET_TIMEOUT_S = 30.0

DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True)
class Request:
    """One message: `tolerate` are the error numbers that mean that nothing was left to do."""

    what: str
    kind: int
    flags: int
    message: Any
    tolerate: frozenset[int] = field(default_factory=frozenset)

    def encode(self, sequence: int, flags: int = 0) -> bytes:
        """Return the bytes on the wire."""
        header = self.message["header"]
        header["type"] = self.kind
        header["flags"] = self.flags | flags | NLM_F_REQUEST
        header["sequence_number"] = sequence
        self.message.reset()
        self.message.encode()
        return bytes(self.message.data)


class Netlink:
    """The way to the kernel; safe to be used by many tasks of one event loop at once."""

    def __init__(self, *, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._socket: socket.socket | None = None
        self._sequence = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netlink")

    async def batch(self, requests: Sequence[Request]) -> None:
        """Send requests in this order, all of them even when one fails; then raise the first failure."""
        if requests:
            await self.run(requests[0].what, lambda: self.batch_now(requests))

    async def dump(self, request: Request) -> list[Any]:
        """Return the decoded answers of a dump request."""
        return await self.run(request.what, lambda: self.dump_now(request))

    async def query(self, request: Request) -> Any | None:
        """Return the one decoded answer, or None where the error is one that the request tolerates."""
        return await self.run(request.what, lambda: self.query_now(request))

    async def run(self, what: str, job: Callable[[], T]) -> T:
        """Run a job on the socket's thread.

        Raises NetworkTimeoutError when the deadline passes and KernelRefusedError for an OSError of the job.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._deadline_s):
                return await loop.run_in_executor(self._thread, job)
        except TimeoutError:
            raise NetworkTimeoutError(what, self._deadline_s) from None
        except OSError as error:
            raise KernelRefusedError(what, error.errno or errno.EIO, str(error.strerror or "")) from error

    async def close(self) -> None:
        """End the thread and close the socket; what is under way is finished first."""
        self._thread.submit(self._close_socket)
        await asyncio.to_thread(self._thread.shutdown)

    # What follows runs on the socket's thread only, as does every job given to `run`.

    def batch_now(self, requests: Sequence[Request]) -> None:
        """`batch`, for use within a job."""
        failure: KernelRefusedError | None = None
        for start in range(0, len(requests), _CHUNK):
            failure = self._send_chunk(requests[start : start + _CHUNK]) or failure
        if failure is not None:
            raise failure

    def query_now(self, request: Request) -> Any | None:
        """`query`, for use within a job."""
        sock, sequence = self._open(), self._next_sequence()
        sock.send(request.encode(sequence))
        for _, kind, _, payload in self._answers(sock, {sequence}):
            if kind != _NLMSG_ERROR:
                return _decode(type(request.message), payload)
            number = -struct.unpack_from("=i", payload, _HEADER.size)[0]
            if number in request.tolerate:
                return None
            raise KernelRefusedError(request.what, number, _detail(payload))
        return None

    def dump_now(self, request: Request) -> list[Any]:
        """`dump`, for use within a job; a dump that the kernel calls inconsistent is read again."""
        for _ in range(_DUMP_TRIES):
            answers, is_consistent = self._dump_once(request)
            if is_consistent:
                return answers
        raise KernelRefusedError(request.what, errno.EAGAIN, "the table changes faster than it can be read")

    def _dump_once(self, request: Request) -> tuple[list[Any], bool]:
        sock, sequence = self._open(), self._next_sequence()
        sock.send(request.encode(sequence, NLM_F_DUMP))
        raw: list[bytes] = []
        is_consistent = True
        for _, kind, flags, payload in self._answers(sock, {sequence}):
            is_consistent = is_consistent and not flags & NLM_F_DUMP_INTR
            if kind == _NLMSG_DONE:
                break
            if kind == _NLMSG_ERROR:
                number = -struct.unpack_from("=i", payload, _HEADER.size)[0]
                raise KernelRefusedError(request.what, number, _detail(payload))
            raw.append(payload)
        return [_decode(type(request.message), data) for data in raw] if is_consistent else [], is_consistent

    def _send_chunk(self, requests: Sequence[Request]) -> KernelRefusedError | None:
        sock = self._open()
        pending = {self._next_sequence(): request for request in requests}
        sock.send(b"".join(_aligned(request.encode(seq, NLM_F_ACK)) for seq, request in pending.items()))
        failure: KernelRefusedError | None = None
        waiting = set(pending)
        for sequence, _, _, payload in self._answers(sock, waiting):
            waiting.discard(sequence)
            number = -struct.unpack_from("=i", payload, _HEADER.size)[0]
            request = pending[sequence]
            if number and number not in request.tolerate and failure is None:
                failure = KernelRefusedError(request.what, number, _detail(payload))
            if not waiting:
                break
        return failure

    def _answers(self, sock: socket.socket, wanted: set[int]) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield (sequence, type, flags, message) of wanted answers; the caller stops when it has enough."""
        try:
            while True:
                for sequence, kind, flags, payload in split(sock.recv(1 << 18)):
                    if sequence in wanted:
                        yield sequence, kind, flags, payload
        except OSError:
            self._close_socket()  # answers may have been lost; the next request gets a fresh socket
            raise

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = open_socket()
        return self._socket

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % 0xFFFFFFF0 + 1
        return self._sequence


def open_socket(groups: int = 0) -> socket.socket:
    """Open a route socket; `groups` is the bit mask of the multicast groups to join."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            sock.setsockopt(_SOL_NETLINK, option, 1)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 20)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.settimeout(_SOCKET_TIMEOUT_S)
        sock.bind((0, groups))
    except OSError:
        sock.close()
        raise
    return sock


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Cut what one `recv` returned into (sequence, type, flags, whole message)."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield sequence, kind, flags, data[offset : offset + length]
        offset += (length + 3) & ~3


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _decode(cls: Any, data: bytes) -> Any:
    message = cls(data)
    message.decode()
    return message


def _detail(payload: bytes) -> str:
    """The kernel's own sentence from the extended acknowledgement, or an empty string."""
    _, _, flags, _, _ = _HEADER.unpack_from(payload)
    number = -struct.unpack_from("=i", payload, _HEADER.size)[0]
    if not flags & NLM_F_ACK_TLVS or not number:
        return ""
    offset = _HEADER.size + 4 + _HEADER.size  # errno, then the header of the request (NETLINK_CAP_ACK)
    while offset + 4 <= len(payload):
        length, kind = struct.unpack_from("=HH", payload, offset)
        if length < 4:
            break
        if kind == _NLMSGERR_ATTR_MSG:
            text = payload[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
            return f"{os.strerror(number)}: {text}"
        offset += (length + 3) & ~3
    return ""
