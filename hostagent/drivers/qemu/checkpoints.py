"""Checkpoints as the guest feels them, from QEMU's STOP and RESUME events. Pure: times are handed in.

QEMU tells nothing else: `query-migrate` in lockstep says only `colo`. There are two ways to stall. A STOP
without RESUME is a checkpoint that does not complete, and the guest stands still (`stalled_for`). A secondary
that does not answer the request for a checkpoint shows as no STOP at all, while the guest runs and its
packets are held back (`quiet_for`): in lockstep one must complete in every interval.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

_WINDOW = 1024


class CheckpointMeter:
    """Counts completed checkpoints and keeps the pauses of the latest ones."""

    def __init__(self, window: int = _WINDOW) -> None:
        self._pauses_ms: deque[float] = deque(maxlen=window)
        self._stopped_at_s: float | None = None
        self._started_at_s: float | None = None
        self._heard_again_at_s = 0.0
        self.count = 0
        self.first_at_s: float | None = None  # completion of the first one
        self.last_at_s: float | None = None  # completion of the latest one

    def restart(self, now_s: float) -> None:
        """Forget everything; a new lockstep begins now."""
        self._started_at_s = now_s
        self._pauses_ms.clear()
        self._stopped_at_s = None
        self.count = 0
        self.first_at_s = self.last_at_s = None

    def hear_again(self, now_s: float) -> None:
        """Events could not be heard until now: what came meanwhile is unknown, and nothing is held against QEMU."""
        self._heard_again_at_s = now_s
        self._stopped_at_s = None

    def on_event(self, event: str, _data: dict[str, Any], at_s: float) -> None:
        """An event of the session (`QmpSession.add_listener`); others than STOP and RESUME are ignored."""
        if event == "STOP":
            self._stopped_at_s = at_s
        elif event == "RESUME" and self._stopped_at_s is not None:
            self._pauses_ms.append((at_s - self._stopped_at_s) * 1000)
            self._stopped_at_s = None
            self.count += 1
            self.last_at_s = at_s
            if self.first_at_s is None:
                self.first_at_s = at_s

    def excuse(self, now_s: float) -> None:
        """Something of ours held the checkpoints up until now: neither a pause of theirs nor a stall."""
        self._stopped_at_s = None
        self._started_at_s = now_s
        if self.last_at_s is not None:
            self.last_at_s = now_s

    @property
    def is_stopped(self) -> bool:
        """Whether the guest stands still in a checkpoint."""
        return self._stopped_at_s is not None

    def percentile_ms(self, percent: float) -> float:
        """The smallest pause of the window that `percent` of them do not exceed; 0 without any."""
        if not self._pauses_ms:
            return 0.0
        ordered = sorted(self._pauses_ms)
        rank = math.ceil(len(ordered) * percent / 100)
        return round(ordered[max(rank, 1) - 1], 2)

    @property
    def p50_ms(self) -> float:
        """Median pause."""
        return self.percentile_ms(50)

    @property
    def p99_ms(self) -> float:
        """Pause that 99 % of the checkpoints stay within."""
        return self.percentile_ms(99)

    def stalled_for(self, now_s: float) -> float:
        """Seconds since a STOP that no RESUME has followed; 0 while the guest runs."""
        return 0.0 if self._stopped_at_s is None else max(0.0, now_s - self._stopped_at_s)

    def quiet_for(self, now_s: float) -> float:
        """Seconds since a checkpoint completed, or since `restart`; 0 before either."""
        since = self._started_at_s if self.last_at_s is None else self.last_at_s
        return 0.0 if since is None else max(0.0, now_s - max(since, self._heard_again_at_s))
