"""A client of the demo guest's services that never opens a connection twice; the standard library alone.

It runs as a program of its own inside the client's namespace (`vdc.lab.sessions` starts it).

    workload.py run ADDRESS [--tag T] [--first N] [--pause-ms 10] [--patience-s 30] [SERVICE...]
    workload.py check ADDRESS TAG FIRST LAST

`run` holds one TCP session per service (echo, diverging, durable) and asks it without end. Each answer has to
be the right one: the echo word for word, the diverging service's count higher by exactly one and its clock
never earlier, the store's `OK` for the number that was put. What goes to standard output, a JSON object a line:
ten times a second the answers so far, at once every gap that somebody would notice, and, when standard input
has ended, the report. The contents that `durable` puts follow from the tag and the number alone, so that
`check` can ask for every one of them later.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import ClassVar

CONNECT_S = 15.0
BATCH = 50  # requests in flight of the checker
PROGRESS_EVERY_S = 0.1
NOTICED_GAP_MS = 100.0
MOST_LATENCIES = 200_000

_printing = threading.Lock()


class WrongAnswerError(Exception):
    """The service answered, and what it said cannot be."""


class Connection:
    """One TCP session that speaks in lines."""

    def __init__(self, address: str, port: int, patience_s: float) -> None:
        self._socket = socket.create_connection((address, port), timeout=CONNECT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(patience_s)
        self._received = b""

    def send(self, text: str) -> None:
        """Send one line."""
        self._socket.sendall(text.encode() + b"\n")

    def receive(self) -> str:
        """Wait for one line; ConnectionError where the session ended, TimeoutError where none came."""
        while b"\n" not in self._received:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("the guest closed the session")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    def check_silent(self) -> None:
        """Raise where an answer came that nobody asked for."""
        if self._received:
            raise WrongAnswerError(f"an answer to nothing: {self._received[:80]!r}")

    def close(self) -> None:
        """End the session."""
        self._socket.close()


@dataclasses.dataclass
class Figures:
    """What one session has seen. A gap is the time between two answers, its pause taken off."""

    requests: int = 0
    seconds: float = 0.0  # that it was asked for
    latency_p50_ms: float = 0.0
    latency_p95_ms: float = 0.0
    latency_p99_ms: float = 0.0
    longest_gap_ms: float = 0.0
    longest_gap_at: float = 0.0  # seconds since the epoch, when the gap began
    acknowledged: int = 0  # the highest number that the store confirmed; 0 where none was
    errors: list[str] = dataclasses.field(default_factory=list)


def content_of(tag: str, number: int) -> str:
    """What is put under a number."""
    return f"{tag}-{number}-{number * 2654435761 % 2**32:08x}"


class Session(threading.Thread):
    """Asks one service until it is told to stop, or until an answer is wrong or does not come.

    A service is a class of its own, with how its session is opened, asked and closed.
    """

    def __init__(self, options: argparse.Namespace, service: str, stopping: threading.Event) -> None:
        super().__init__(name=service, daemon=True)
        self.figures = Figures()
        self.options = options
        self._stopping = stopping
        self._latencies_ms: list[float] = []
        self.open()

    def open(self) -> None:
        """Open the session."""
        raise NotImplementedError

    def ask(self, count: int) -> None:
        """Ask for the `count`th time; WrongAnswerError, OSError or ValueError where that went wrong."""
        raise NotImplementedError

    def finish(self) -> None:
        """Ask what there is to ask at the end, with the same exceptions."""

    def close(self) -> None:
        """End the session."""
        raise NotImplementedError

    def run(self) -> None:
        """Until told to stop, or until an answer is wrong or does not come; then the figures say so."""
        try:
            self._ask_for_ever()
            self.finish()
        except (OSError, WrongAnswerError, ValueError) as error:
            reason = "no answer in time" if isinstance(error, TimeoutError) else str(error)
            asked = self.figures.requests + 1
            self.figures.errors.append(f"{self.name}: request {asked}: {type(error).__name__}: {reason}")
        finally:
            self.close()
            self._summarise()

    def _summarise(self) -> None:
        ordered = sorted(self._latencies_ms) or [0.0]
        for percent in (50, 95, 99):
            rank = min(len(ordered) - 1, len(ordered) * percent // 100)
            setattr(self.figures, f"latency_p{percent}_ms", round(ordered[rank], 3))

    def _ask_for_ever(self) -> None:
        began = time.monotonic()
        while not self._stopping.is_set():
            asked = time.monotonic()
            self.ask(self.figures.requests + 1)
            now = time.monotonic()
            self._note((now - asked) * 1000)
            self.figures.requests += 1
            self.figures.seconds = now - began
            if self.options.pause_ms:
                self._stopping.wait(self.options.pause_ms / 1000)

    def _note(self, took_ms: float) -> None:
        if len(self._latencies_ms) < MOST_LATENCIES:
            self._latencies_ms.append(took_ms)
        began_at = time.time() - took_ms / 1000
        if took_ms > self.figures.longest_gap_ms:
            self.figures.longest_gap_ms = took_ms
            self.figures.longest_gap_at = began_at
        if took_ms >= NOTICED_GAP_MS:
            _print({"gap": {"service": self.name, "ms": round(took_ms, 1), "at": began_at}})


class LineSession(Session):
    """One that speaks in lines, on a port of its class."""

    port: ClassVar[int]

    def open(self) -> None:
        """Open the session."""
        self._connection = Connection(self.options.address, self.port, self.options.patience_s)

    def close(self) -> None:
        """End the session."""
        self._connection.close()

    def answer_to(self, line: str) -> str:
        """Ask, and wait for one line."""
        self._connection.send(line)
        answer = self._connection.receive()
        self._connection.check_silent()
        return answer


class Echo(LineSession):
    """Says what it is told."""

    port = 7

    def ask(self, count: int) -> None:
        """A line of its own."""
        line = f"{count} of {self.options.tag}"
        expect(self.answer_to(line), line)


class Diverging(LineSession):
    """Says what it is told after a count and its clock."""

    port = 7000
    _tick = 0

    def ask(self, count: int) -> None:
        """The count is higher by one, the clock not earlier."""
        line = f"line {count}"
        number, tick, rest = self.answer_to(line).split(" ", 2)
        expect(rest, line)
        expect(number, str(count))
        if int(tick) < self._tick:
            raise WrongAnswerError(f"the guest's clock went back from {self._tick} to {tick}")
        self._tick = int(tick)


class Durable(LineSession):
    """Confirms what it has stored."""

    port = 7001

    def ask(self, count: int) -> None:
        """Put the next number."""
        number = self.options.first + count - 1
        expect(self.answer_to(f"PUT {number} {content_of(self.options.tag, number)}"), f"OK {number}")
        self.figures.acknowledged = number


SERVICES: Mapping[str, type[Session]] = {"echo": Echo, "diverging": Diverging, "durable": Durable}


def expect(answer: str, wanted: str) -> None:
    """Raise where an answer is another one."""
    if answer != wanted:
        raise WrongAnswerError(f"{answer[:120]!r} instead of {wanted[:120]!r}")


def run(options: argparse.Namespace, known: Mapping[str, type[Session]]) -> int:
    """Ask all services at once until standard input ends; print progress, gaps and the report."""
    stopping = threading.Event()
    sessions = [known[service](options, service, stopping) for service in options.services or known]
    for session in sessions:
        session.start()

    def wait_for_end_of_input() -> None:
        while os.read(0, 4096):
            pass
        stopping.set()

    threading.Thread(target=wait_for_end_of_input, name="input", daemon=True).start()
    while not stopping.wait(PROGRESS_EVERY_S):
        _print({"progress": {session.name: session.figures.requests for session in sessions}})
        if any(session.figures.errors for session in sessions):
            break
    stopping.set()
    for session in sessions:
        session.join(options.patience_s + 5)
    _print({"report": {session.name: dataclasses.asdict(session.figures) for session in sessions}})
    return 0


def check(options: argparse.Namespace) -> int:
    """Ask on a fresh connection for every number from FIRST to LAST; print what is missing or different."""
    connection = Connection(options.address, Durable.port, options.patience_s)
    wrong = []
    for begin in range(options.first, options.last + 1, BATCH):
        numbers = range(begin, min(begin + BATCH, options.last + 1))
        for number in numbers:
            connection.send(f"GET {number}")
        for number in numbers:
            answer = connection.receive()
            if answer != f"VALUE {number} {content_of(options.tag, number)}":
                wrong.append(answer[:120])
    connection.send("COUNT")
    word, count = connection.receive().split(" ", 1)
    _print({"count": int(count) if word == "COUNT" else -1, "wrong": wrong[:20], "wrong_count": len(wrong)})
    return 0


def _print(values: object) -> None:
    with _printing:
        sys.stdout.write(json.dumps(values) + "\n")
        sys.stdout.flush()


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="workload.py")
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("address")
    running.add_argument("services", nargs="*", metavar="SERVICE")
    running.add_argument("--tag", default="w")
    running.add_argument("--first", type=int, default=1)
    running.add_argument("--pause-ms", type=float, default=10.0)
    running.add_argument("--patience-s", type=float, default=30.0)
    checking = commands.add_parser("check")
    checking.add_argument("address")
    checking.add_argument("tag")
    checking.add_argument("first", type=int)
    checking.add_argument("last", type=int)
    checking.add_argument("--patience-s", type=float, default=30.0)
    return parser.parse_args(arguments)


def main(arguments: list[str], known: Mapping[str, type[Session]] = SERVICES) -> int:
    """Exit status 1 where the guest cannot be reached, 2 where the command line is wrong."""
    options = parse(arguments)
    if unknown := set(getattr(options, "services", ())) - set(known):
        sys.stderr.write(f"unknown services: {', '.join(sorted(unknown))}\n")
        return 2
    try:
        return run(options, known) if options.command == "run" else check(options)
    except OSError as error:
        _print({"failed": f"{options.address}: {error}"})
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
