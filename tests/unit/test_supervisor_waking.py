"""An agent that slept: the epoch first, and no silence from the time of the sleep."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from hostagent.supervisor.waking import ASLEEP_S, read_epoch_after_sleep
from vdc.model.errors import UnavailableError
from vdc.store import keys

NOW_S = 1000.0


class Slept:
    """A host whose clock stands at NOW_S and which last heard of its store long ago."""

    def __init__(self, *, has_store: bool) -> None:
        self.clock = SimpleNamespace(boottime_s=lambda: NOW_S)
        self.store_heard_at_s = NOW_S - 60
        self.log = structlog.get_logger()
        self.mirror = self
        self.read: list[str] = []
        self._has_store = has_store

    async def refresh(self, key: str) -> None:
        self.read.append(key)
        if not self._has_store:
            raise UnavailableError("no store")


@pytest.mark.parametrize("has_store", [True, False])
async def test_after_a_sleep_the_epoch_is_read_and_silence_begins_anew(has_store: bool) -> None:
    host: Any = Slept(has_store=has_store)
    await read_epoch_after_sleep(host, "web", NOW_S - ASLEEP_S)
    assert host.read == [keys.pair("web")]
    assert host.store_heard_at_s == NOW_S


async def test_a_pass_in_time_reads_nothing() -> None:
    host: Any = Slept(has_store=True)
    await read_epoch_after_sleep(host, "web", NOW_S - ASLEEP_S / 2)
    assert not host.read
    assert host.store_heard_at_s == NOW_S - 60
