"""Runs the agent under a wall clock that a file shifts: `shifted_clock.py FILE ARGUMENTS...`, seconds in the file.

The lab's hosts share the machine's clock, which a test must not touch. What is shifted is what Python's own `time` and
`datetime` say, so everything that the agent could decide by; monotonic clocks are left alone, as a jump of the
wall clock leaves them alone.
"""

from __future__ import annotations

import datetime
import sys
import time
from pathlib import Path

_real_time, _real_datetime = time.time, datetime.datetime
_file = Path(sys.argv[1])


def _shift_s() -> float:
    try:
        return float(_file.read_text() or 0)
    except (OSError, ValueError):
        return 0.0


class _Shifted(_real_datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> _Shifted:
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> _Shifted:
        return cls.now(datetime.UTC).replace(tzinfo=None)


def main() -> None:
    time.time = lambda: _real_time() + _shift_s()
    time.time_ns = lambda: int(time.time() * 1e9)
    datetime.datetime = _Shifted  # type: ignore[misc]
    sys.argv[:2] = ["hostagent"]
    from hostagent.main import main as agent

    agent()


if __name__ == "__main__":
    main()
