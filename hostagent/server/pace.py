"""How often one person may act: each act stays in the audit log, which keeps so many and no more.

Without a pace whoever may act at all could push out of the log, within minutes, what he did before. Pure: the time
is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

AT_ONCE = 500  # acts
PER_S = 10.0


@dataclass(slots=True)
class _Bucket:
    left: float
    at_s: float


class Pace:
    """One per agent. Somebody who has acted little for a while is forgotten, so this does not grow."""

    def __init__(self, at_once: int = AT_ONCE, per_s: float = PER_S) -> None:
        self._at_once, self._per_s = at_once, per_s
        self._buckets: dict[str, _Bucket] = {}

    def take(self, who: str, now_s: float) -> bool:
        """Whether one more act is in time; if so it counts."""
        self._forget(now_s)
        bucket = self._buckets.setdefault(who, _Bucket(self._at_once, now_s))
        bucket.left = self._filled(bucket, now_s)
        bucket.at_s = now_s
        if bucket.left < 1:
            return False
        bucket.left -= 1
        return True

    def _filled(self, bucket: _Bucket, now_s: float) -> float:
        return min(self._at_once, bucket.left + (now_s - bucket.at_s) * self._per_s)

    def _forget(self, now_s: float) -> None:
        for who in [
            who for who, bucket in self._buckets.items() if self._filled(bucket, now_s) >= self._at_once
        ]:
            del self._buckets[who]
