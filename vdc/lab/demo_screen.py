"""How the demo looks: plain lines everywhere, colour and a moving status line on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from vdc.lab.sessions import Report

WIDTH = 100
BAR_MS = 20.0
LONGEST_BAR = 40


class Screen:
    """Writes to one stream."""

    def __init__(self, stream: TextIO, *, colour: bool) -> None:
        self._stream = stream
        self._colour = colour
        self._is_waiting = False

    def title(self, text: str) -> None:
        """The headline."""
        self._line("")
        self._line(self._paint("1", text))
        self._line(self._paint("2", "─" * min(WIDTH, len(text))))

    def step(self, command: str) -> None:
        """What is done next, as a user would type it."""
        self._line("")
        self._line(f"{self._paint('36;1', '▸')} {self._paint('1', command)}")

    def fact(self, sentence: str) -> None:
        """What came of it."""
        self._line(f"  {self._paint('32', '✓')} {sentence}")

    def waiting(self, sentence: str) -> None:
        """What is being waited for; replaced by whatever comes next."""
        if self._colour:
            self._stream.write(f"\r\x1b[2K  {self._paint('2', '… ' + sentence[: WIDTH - 6])}")
            self._stream.flush()
            self._is_waiting = True

    def timeline(self, moments: Sequence[tuple[str, float, str]]) -> None:
        """Milestones in milliseconds since the fault."""
        for name, ms, note in moments:
            self._line(
                f"  {self._paint('33', f'{max(0.0, ms):7.0f} ms')}  {name:<20} {self._paint('2', note)}"
            )

    def gap(self, service: str, ms: float) -> None:
        """The longest wait that a session noticed."""
        bar = "█" * min(LONGEST_BAR, max(1, round(ms / BAR_MS)))
        self._line(
            f"  {self._paint('35', f'{ms:7.0f} ms')}  {service + ' waited':<20} {self._paint('35', bar)}"
        )

    def summary(self, report: Report, took_s: float) -> None:
        """What the client can say at the end, and where to look next."""
        requests = sum(session.requests for session in report.sessions.values())
        self._line("")
        self._line(self._paint("1", "What the client saw"))
        self.fact(
            f"{requests} requests on {len(report.sessions)} TCP sessions, none opened twice, no wrong answer"
        )
        self.fact(f"{report.acknowledged} writes were acknowledged, and every one of them is there")
        self.fact(f"longest wait for an answer: {report.longest_gap_ms:.0f} ms")
        self._line("")
        self._line(self._paint("1", f"Done in {took_s:.0f} s. Look around:"))
        for command, why in (
            ("vdc get endophytes -o wide", "where it runs now"),
            ("vdc describe endophyte demo", "both copies, checkpoints, what happened"),
            ("vdc events -w", "then, in another terminal: vdc lab fault power-off h2"),
            ("vdc console demo", "the guest's console; Ctrl-] leaves"),
            ("vdc lab down", "takes everything away"),
        ):
            self._line(f"  .venv/bin/{command:<30} {self._paint('2', why)}")
        self._line("")

    def failed(self, message: str, hint: str) -> None:
        """One line and a hint."""
        self._line(f"  {self._paint('31;1', '✗')} {message}")
        if hint:
            self._line(f"    {hint}")

    def _line(self, text: str) -> None:
        if self._is_waiting:
            self._stream.write("\r\x1b[2K")
            self._is_waiting = False
        self._stream.write(text + "\n")
        self._stream.flush()

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text
