"""From the answers that a client's sessions got to the two gaps that a client sees. Pure.

A trace is a list of (session, sent, answered) in seconds of one clock; `answered` is None for a request that
was in flight when the client ended. Session 0 is the single closed loop of the first figure; all others
together are the client of the second.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

Exchange = tuple[int, float, float | None]


@dataclass(frozen=True)
class Gaps:
    """What a client saw of one fault, in milliseconds."""

    slowest_request_ms: float
    service_gap_ms: float
    before_ms: float  # the longest service gap of the time before, as a measure of the noise


def gaps_around(trace: Sequence[Exchange], begin: float, end: float) -> Gaps:
    """The gaps that overlap the time from `begin` (the fault) to `end`.

    Raises ValueError where a session never came back: an answer is missing that was asked for before `end`,
    or no session answered after it.
    """
    lost = [session for session, sent, answered in trace if answered is None and sent < end]
    if lost:
        raise ValueError(f"no answer on {len(lost)} sessions: {sorted(lost)}")
    single = [
        (sent, answered)
        for session, sent, answered in trace
        if session == 0 and answered is not None and sent <= end and answered >= begin
    ]
    if not single:
        raise ValueError("the single session asked nothing around the fault")
    answers = sorted(answered for session, _, answered in trace if session != 0 and answered is not None)
    if not answers or answers[-1] < end:
        raise ValueError("the sessions ended before the fault was over")
    pairs = list(itertools.pairwise(answers))
    around = [late - early for early, late in pairs if early <= end and late >= begin]
    before = [late - early for early, late in pairs if late < begin]
    return Gaps(
        slowest_request_ms=max(answered - sent for sent, answered in single) * 1000,
        service_gap_ms=max(around, default=0.0) * 1000,
        before_ms=max(before, default=0.0) * 1000,
    )
