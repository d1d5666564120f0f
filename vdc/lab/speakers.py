"""One speaker at a time (invariant I1), judged from captured frames and from who was primary when. Pure.

A turn is an unbroken run of frames of one guest from one host. The turns have to follow the primaries of the
epochs: once the host of a newer epoch has sent, no host of an older one sends again, and no host sends before
its own epoch was asked for. Only what lockstep gates is judged (`GATED`); the rest is counted beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from vdc.lab.capture import Frame
from vdc.model.event import Event

GATED = frozenset({"tcp", "udp", "icmp"})
_BY_PRIMARY = frozenset({"started", "promoted", "lockstep-entered", "lockstep", "alone"})
_CLOCK_S = 0.001  # both times are of one clock; the event's are rounded to 0.1 ms


@dataclass(frozen=True, slots=True)
class Owner:
    """The host that may speak from an epoch on. Times are of the wall clock, as the frames'; 0: not known."""

    epoch: int
    host: str
    asked_at_s: float = 0.0  # when it began to ask for the epoch: it must not speak before
    won_at_s: float = 0.0  # when it knew that it had it: nobody else should speak from then on


@dataclass(slots=True)
class Turn:
    """An unbroken run of gated frames from one host."""

    host: str
    began_at_s: float
    ended_at_s: float
    frames: int = 1


@dataclass(slots=True)
class Verdict:
    """What the wire shows of one guest."""

    mac: str
    turns: list[Turn]
    violations: list[str]
    late: dict[str, Counter[str]] = field(default_factory=dict)  # host: frames by protocol after it had lost

    def __str__(self) -> str:
        turns = ", ".join(f"{t.host} {t.frames}" for t in self.turns)
        late = "; ".join(f"late from {host}: {dict(count)}" for host, count in self.late.items())
        return f"{self.mac}: {turns}" + (f" ({late})" if late else "")


def owners(events: Iterable[Event]) -> list[Owner]:
    """Who was primary when, by what the primaries themselves told: an entry for each change of the host."""
    found: list[Owner] = []
    for event in sorted(events, key=lambda event: event.at):
        if event.code not in _BY_PRIMARY:
            continue
        owner = _owner(event)
        if found and owner.host == found[-1].host:
            continue
        if found and owner.epoch <= found[-1].epoch and event.code != "started":
            continue  # told late; a VM that was made anew under an old name begins with `started`
        found.append(owner)
    return found


def _owner(event: Event) -> Owner:
    if event.code != "promoted" or "total_ms" not in event.figures:
        return Owner(event.epoch, event.host)
    asked = datetime.fromisoformat(event.at).timestamp() - event.figures["total_ms"] / 1000
    return Owner(event.epoch, event.host, asked, asked + event.figures.get("arbitrated_ms", 0.0) / 1000)


def judge(
    mac: str,
    frames: Sequence[Frame],
    names: Mapping[str, str],
    allowed: Sequence[Owner],
) -> Verdict:
    """`names`: host by VXLAN endpoint. Without owners each host may have one turn and never another."""
    mine = [(frame, names.get(str(frame.source), str(frame.source))) for frame in frames if frame.mac == mac]
    turns: list[Turn] = []
    for frame, host in mine:
        if frame.protocol not in GATED:
            continue
        if turns and turns[-1].host == host:
            turns[-1].ended_at_s, turns[-1].frames = frame.at_s, turns[-1].frames + 1
        else:
            turns.append(Turn(host, frame.at_s, frame.at_s))
    verdict = Verdict(mac, turns, _out_of_turn(turns, allowed))
    for frame, host in mine:
        won = [place for place, owner in enumerate(allowed) if owner.won_at_s and owner.won_at_s < frame.at_s]
        if won and host != allowed[won[-1]].host and host in {owner.host for owner in allowed[: won[-1]]}:
            verdict.late.setdefault(host, Counter())[frame.protocol] += 1
    return verdict


def _out_of_turn(turns: Sequence[Turn], allowed: Sequence[Owner]) -> list[str]:
    found: list[str] = []
    place, seen = 0, set[str]()
    for turn in turns:
        if allowed:
            later = (
                index
                for index in range(place, len(allowed))
                if allowed[index].host == turn.host
                and turn.began_at_s >= allowed[index].asked_at_s - _CLOCK_S
            )
            following = next(later, None)
            is_wrong = following is None
            place = place if following is None else following
        else:
            is_wrong = turn.host in seen
        seen.add(turn.host)
        if is_wrong:
            owner = (
                f"; {allowed[place].host} has spoken under epoch {allowed[place].epoch}" if allowed else ""
            )
            found.append(f"{turn.host} sent {turn.frames} frames out of turn{owner}")
    return found
