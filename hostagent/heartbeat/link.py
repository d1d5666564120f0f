"""What one network says of one peer: when its agent and its host were last heard, and how regular that is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_WEIGHT = 1 / 32  # of a new interval in the running mean, about two seconds' worth of heartbeats
_DEVIATIONS = 6.0
_MAX_WIDENING = 3.0


@dataclass(slots=True)
class Link:
    """Arrival statistics. Times are boot-time seconds; a link is new until the first datagram came."""

    heard_at_s: float
    mean_s: float
    deviation_s: float = 0.0
    heard_ever: bool = False
    sequence: int = -1
    lost: int = 0
    echoed_at_s: float = float("-inf")  # when the latest echo was asked for that its host has answered
    asked_at_s: float = float("inf")  # the first echo request that was not answered yet

    def hear(self, now_s: float, sequence: int) -> None:
        """Count an arrival; the interval widens or narrows what counts as suspicious silence."""
        interval = now_s - self.heard_at_s
        if self.heard_ever and sequence == self.sequence + 1:
            error = interval - self.mean_s
            self.mean_s += _WEIGHT * error
            self.deviation_s += _WEIGHT * (abs(error) - self.deviation_s)
        elif self.heard_ever and sequence > self.sequence:
            self.lost += sequence - self.sequence - 1
        self.heard_ever = True
        self.heard_at_s = now_s
        self.asked_at_s = float("inf")
        self.sequence = sequence

    def echo(self, asked_at_s: float) -> None:
        """The host's kernel answered what it was asked then, however late the answer comes: it lived at that time.

        What is asked next is given its own time: this process may starve before it. An answer to something older
        gives none, or whoever repeats one would buy time again and again.
        """
        self.echoed_at_s = max(self.echoed_at_s, asked_at_s)
        if asked_at_s >= self.asked_at_s:
            self.asked_at_s = float("inf")

    def restart(self, now_s: float) -> None:
        """The peer's agent is a new one: its sequence begins again."""
        self.heard_at_s, self.sequence, self.heard_ever = now_s, -1, True

    def agent_silent_ms(self, now_s: float) -> float:
        """How long no heartbeat has come."""
        return (now_s - self.heard_at_s) * 1000

    def silent_ms(self, now_s: float) -> float:
        """How long neither the agent nor its host's kernel has been heard."""
        return (now_s - max(self.heard_at_s, self.echoed_at_s)) * 1000

    def suspect_ms(self, floor_ms: float) -> float:
        """The silence that jitter no longer explains: the configured floor, at most three times that."""
        usual_ms = (self.mean_s + _DEVIATIONS * self.deviation_s) * 1000
        return min(max(floor_ms, usual_ms), _MAX_WIDENING * floor_ms)
