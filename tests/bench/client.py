"""The measuring client; runs as a program of its own in the client's namespace, the standard library alone.

    client.py gaps ADDRESS PORT SESSIONS    sessions until standard input ends, then every exchange as JSON
    client.py rate ADDRESS SERVICE SECONDS  one closed loop without a pause, then its figures as JSON
    client.py wait ADDRESS PORT SECONDS     until a line is answered; exit status 1 where none is

`gaps`: session 0 is a closed loop with 10 ms of think time. The others are closed loops too, which think for
as many times 10 ms as there are of them and begin 10 ms apart: one of them asks about every 10 ms, so that
the moments of their retransmissions are spread as well. Times are those of CLOCK_MONOTONIC, which all
processes of a machine share.
"""

from __future__ import annotations

import heapq
import json
import select
import socket
import sys
import time
from collections.abc import Callable

THINK_S = 0.01
CONNECT_S = 10.0
PATIENCE_S = 30.0
TRY_S = 0.1
PORTS = {"echo": 7, "diverging": 7000, "durable": 7001}
_READ_BYTES = 65536


def connect(address: str, port: int) -> socket.socket:
    sock = socket.create_connection((address, port), timeout=CONNECT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Gaps:
    """All sessions in one thread: with a thread each they would wait for one another."""

    def __init__(self, address: str, port: int, count: int) -> None:
        self.trace: list[tuple[int, float, float | None]] = []
        self.errors: list[str] = []
        self._sockets = [connect(address, port) for _ in range(count + 1)]
        self._think_s = [THINK_S] + [THINK_S * count] * count
        self._sent_at: dict[int, float] = {}
        self._asked = 0
        self._poll = select.epoll()
        self._of: dict[int, int] = {}
        for session, sock in enumerate(self._sockets):
            sock.setblocking(False)
            self._of[sock.fileno()] = session
            self._poll.register(sock.fileno(), select.EPOLLIN)
        begin = time.monotonic()
        self._due = [(begin + THINK_S * session, session) for session in range(count + 1)]
        heapq.heapify(self._due)

    def run(self) -> None:
        """Until standard input ends."""
        self._poll.register(0, select.EPOLLIN | select.EPOLLHUP)
        is_ready_told = False
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                self._send(heapq.heappop(self._due)[1])
            wait_s = max(0.0, self._due[0][0] - time.monotonic()) if self._due else PATIENCE_S
            for descriptor, _ in self._poll.poll(wait_s):
                if descriptor == 0:
                    return self._finish()
                self._receive(self._of[descriptor])
            if not is_ready_told and len(self.trace) > 3 * len(self._sockets):
                is_ready_told = True
                print(json.dumps({"ready": True}), flush=True)

    def _send(self, session: int) -> None:
        self._asked += 1
        self._sent_at[session] = time.monotonic()
        try:
            self._sockets[session].send(b"%d\n" % self._asked)
        except OSError as error:
            self._broke(session, error)

    def _receive(self, session: int) -> None:
        try:
            data = self._sockets[session].recv(_READ_BYTES)
        except OSError as error:
            return self._broke(session, error)
        now = time.monotonic()
        if not data:
            return self._broke(session, ConnectionError("the guest closed it"))
        if data.endswith(b"\n") and session in self._sent_at:
            self.trace.append((session, self._sent_at.pop(session), now))
            heapq.heappush(self._due, (now + self._think_s[session], session))

    def _broke(self, session: int, error: Exception) -> None:
        self.errors.append(f"session {session}: {type(error).__name__}: {error}")
        self._poll.unregister(self._sockets[session].fileno())

    def _finish(self) -> None:
        self.trace += [(session, sent, None) for session, sent in self._sent_at.items()]


def _lines(service: str) -> Callable[[int], bytes]:
    if service == "durable":
        return lambda count: b"PUT %d value-%d\n" % (count, count)
    return lambda count: b"line %d\n" % count


def rate(address: str, service: str, seconds: float) -> dict[str, object]:
    """Ask without a pause; every answer has to belong to its question."""
    sock = connect(address, PORTS[service])
    sock.settimeout(PATIENCE_S)
    line = _lines(service)
    latencies: list[float] = []
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        count = len(latencies) + 1
        asked = time.monotonic()
        sock.sendall(line(count))
        answer = b""
        while not answer.endswith(b"\n"):
            data = sock.recv(_READ_BYTES)
            if not data:
                raise ConnectionError("the guest closed the session")
            answer += data
        latencies.append((time.monotonic() - asked) * 1000)
        if answer.split()[-1] != b"%d" % count:
            raise ValueError(f"{answer[:80]!r} as the answer to number {count}")
    took_s = time.monotonic() - began
    ordered = sorted(latencies)
    ranks = {f"p{p}_ms": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 3) for p in (50, 95)}
    return {**ranks, "requests": len(ordered), "per_s": round(len(ordered) / took_s, 2)}


def wait(address: str, port: int, seconds: float) -> bool:
    """Whether a line was answered within the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with socket.create_connection((address, port), timeout=TRY_S) as sock:
                sock.settimeout(PATIENCE_S)
                sock.sendall(b"there\n")
                if sock.recv(_READ_BYTES):
                    return True
        except OSError:
            time.sleep(TRY_S / 10)
    return False


def main(arguments: list[str]) -> int:
    what, address, second, third = arguments
    if what == "wait":
        return 0 if wait(address, int(second), float(third)) else 1
    if what == "gaps":
        gaps = Gaps(address, int(second), int(third))
        gaps.run()
        print(json.dumps({"trace": gaps.trace, "errors": gaps.errors}), flush=True)
    else:
        print(json.dumps(rate(address, second, float(third))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
