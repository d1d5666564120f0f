"""A host's record is what its peers reach it by: one that could not be used is not read."""

from __future__ import annotations

import pytest
from protection_world import host
from pydantic import ValidationError

from vdc.model.host import Host, HostRole
from vdc.store import keys
from vdc.store.memory import MemoryStore
from vdc.store.mirror import Mirror
from vdc.store.protocol import Put

WITNESS = {"role": HostRole.WITNESS, "replication_address": "", "overlay_address": ""}


def text(**changes: object) -> str:
    return host("h2").model_copy(update=changes).to_json()


def test_a_witness_has_one_address() -> None:
    assert Host.from_json(text(**WITNESS)).is_witness


@pytest.mark.parametrize(
    "changes",
    [
        {"management_address": "h2.example"},
        {"management_address": ""},
        {"management_address": "10.0.0.1; accept"},
        {"replication_address": ""},
        {"overlay_address": "10.0.0"},
        {**WITNESS, "overlay_address": "x"},
        {"api_url": "https://h2:99999"},
        {"api_url": "https://[h2"},
    ],
    ids=str,
)
async def test_what_cannot_be_reached_is_no_record(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Host.from_json(text(**changes))
    store = MemoryStore()
    await store.commit(
        [], [Put(keys.host("h2"), text(**changes)), Put(keys.host("h1"), host("h1").to_json())]
    )
    mirror = Mirror(store, report=lambda sentence: None)
    await mirror.read_all()
    assert set(mirror.hosts) == {"h1"} and keys.host("h2") in mirror.unreadable
