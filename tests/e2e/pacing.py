"""How long a test waits for something, how long something took, how often a test repeats itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.1
# Deadlines say what is expected of a quiet machine: one is missed by what hangs, not by what is slow.
PATIENCE = 3
# The longest silence that a client may see. TCP asks again 0.2, 0.6, 1.4, 3.0, 6.2 and 12.6 s after what was lost:
# who misses one of these by little is heard at the next. How quick a failover is, the benchmarks measure.
FAILOVER_GAP_MS = 13_500
UNDISTURBED_GAP_MS = 3_500  # where no copy is given up


def wait_for(
    condition: Callable[[], T], deadline_s: float, describe: str | Callable[[], str], every_s: float = POLL_S
) -> T:
    """Ask until the answer is true and return it; fail with the description at the deadline."""
    end = time.monotonic() + deadline_s * PATIENCE
    while not (value := condition()):
        if time.monotonic() > end:
            what = describe if isinstance(describe, str) else describe()
            raise AssertionError(f"not within {deadline_s * PATIENCE:g} s: {what}")
        time.sleep(every_s)
    return value


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Seconds since the block began."""
    began = time.monotonic()
    yield lambda: time.monotonic() - began


def rounds(usual: int, full: int) -> int:
    """How often a test repeats itself: `full` with VDC_TEST_FULL=1 in the environment."""
    return full if os.environ.get("VDC_TEST_FULL") else usual
