"""Both ends of a running tool's pipes, by one thread: it is fed, heard, watched, and told when it is late.

What it says is bounded: of output that is kept the beginning, of complaints the end, which has the reason.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

MOST_BYTES = 16 << 20
_TAIL_BYTES = 64 << 10
_CHUNK_BYTES = 256 << 10
_LONGEST_LINE = 4096
_LOOK_S = 0.2  # how late a cancellation may be noticed


class Speech:
    """What a tool says: kept, or passed on."""

    def __init__(
        self, on_output: Callable[[bytes], None] | None, on_line: Callable[[str], None] | None
    ) -> None:
        self._on_output = on_output
        self._lines = {name: _Lines(on_line) for name in ("output", "complaint")} if on_line else {}
        self.output = bytearray()
        self._tail = bytearray()

    @property
    def complaint(self) -> str:
        """The end of what it wrote to standard error."""
        return self._tail.decode(errors="replace")

    def hear(self, what: str, chunk: bytes) -> None:
        """A piece of `output` or `complaint`."""
        if what == "complaint":
            self._tail = (self._tail + chunk)[-_TAIL_BYTES:]
        elif self._on_output is not None:
            self._on_output(chunk)
        else:
            self.output += chunk[: MOST_BYTES - len(self.output)]
        if what in self._lines:
            self._lines[what].feed(chunk)

    def end(self) -> None:
        """Pass on lines without an end."""
        for lines in self._lines.values():
            lines.feed(b"\n")


class _Lines:
    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).replace(b"\r", b"\n").split(b"\n")
        self._rest = self._rest[:_LONGEST_LINE]
        for line in lines:
            if text := line[:_LONGEST_LINE].decode(errors="replace").strip():
                self._tell(text)


class Pipes:
    """Feed and hear one process until it has ended."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: object, speech: Speech) -> None:
        self._process = process
        self._speech = speech
        self._left = memoryview(b"")
        self._chunks: Iterator[bytes] = iter(())
        self._selector = selectors.DefaultSelector()
        for name, pipe in (("output", process.stdout), ("complaint", process.stderr)):
            assert pipe is not None
            self._selector.register(pipe, selectors.EVENT_READ, name)
        if process.stdin is not None:
            source = (stdin,) if isinstance(stdin, bytes) else stdin
            assert isinstance(source, Iterable)
            self._chunks = iter(source)
            os.set_blocking(process.stdin.fileno(), False)
            self._selector.register(process.stdin, selectors.EVENT_WRITE, "input")

    def run(self, deadline_s: float, is_cancelled: Callable[[], bool]) -> str:
        """Until it has ended: "". Or "late" or "cancelled", and then it still runs."""
        end = time.monotonic() + deadline_s
        with self._selector:
            while self._selector.get_map() or self._process.poll() is None:
                if is_cancelled():
                    return "cancelled"
                if time.monotonic() > end:
                    return "late"
                self._turn()
        self._speech.end()
        return ""

    def _turn(self) -> None:
        if not self._selector.get_map():  # it closed its pipes and goes on
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LOOK_S)
            return
        for key, _ in self._selector.select(_LOOK_S):
            if key.data == "input":
                self._feed(key.fd)
            elif chunk := os.read(key.fd, _CHUNK_BYTES):
                self._speech.hear(key.data, chunk)
            else:
                self._selector.unregister(key.fileobj)

    def _feed(self, descriptor: int) -> None:
        try:
            if not self._left:
                self._left = memoryview(next(self._chunks))
            self._left = self._left[os.write(descriptor, self._left) :]
        except BlockingIOError:
            return
        except (StopIteration, BrokenPipeError):  # it need not listen to the end
            assert self._process.stdin is not None
            self._selector.unregister(self._process.stdin)
            self._process.stdin.close()


class Complaints:
    """Hear the complaints of a process whose output somebody else reads, and kill it at the deadline."""

    def __init__(self, process: subprocess.Popen[bytes], deadline_s: float) -> None:
        self._process = process
        self._speech = Speech(None, None)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._timer = threading.Timer(deadline_s, self._kill_late)
        self._timer.daemon = True
        self.is_late = False

    def __enter__(self) -> Self:
        self._thread.start()
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # it is not reaped yet, so this is its number
            self._process.wait()
        self._thread.join()

    def finish(self) -> None:
        """Hear what an ended process said last."""
        self._thread.join()

    @property
    def text(self) -> str:
        """The end of what it wrote to standard error."""
        return self._speech.complaint

    def _listen(self) -> None:
        assert self._process.stderr is not None
        while chunk := os.read(self._process.stderr.fileno(), _CHUNK_BYTES):
            self._speech.hear("complaint", chunk)

    def _kill_late(self) -> None:
        if self._process.poll() is None:
            self.is_late = True
            os.killpg(self._process.pid, signal.SIGKILL)


def drain(process: subprocess.Popen[bytes], deadline_s: float) -> None:
    """Wait until nobody holds the other ends of the output: the sandbox's first process ends before its last one."""
    end = time.monotonic() + deadline_s
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            if pipe is not None and not pipe.closed:
                selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map() and (left_s := end - time.monotonic()) > 0:
            for key, _ in selector.select(left_s):
                if not os.read(key.fd, _CHUNK_BYTES):
                    selector.unregister(key.fileobj)
