"""A short soak: some random faults of a fixed seed, one after the other on one VM and one set of sessions."""

from __future__ import annotations

import time

from testlab import Lab

from tests.soak.run import History, soak

SEED, FAULTS, LIMIT_S = 42, 8, 300.0


def test_random_faults_leave_everything_as_if_nothing_had_been(lab: Lab) -> None:
    history = History(SEED)
    numbers = range(1, FAULTS + 1)
    soak(lab, SEED, numbers, until_s=time.monotonic() + LIMIT_S, say=print, history=history)
    assert len(history.entries) == FAULTS
