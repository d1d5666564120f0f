"""What a host publishes of itself: with the certificate that it has now, and as schedulable as it was."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from protection_world import host

from hostagent.agent.presence import Presence
from vdc.control.clock import SystemClock
from vdc.control.events import EventLog
from vdc.model.errors import UnavailableError
from vdc.model.host import Host
from vdc.store import keys
from vdc.store.memory import Fault, MemoryStore
from vdc.store.protocol import LeaseLostError, Put


class Here:
    def __init__(self):
        self.store, clock = MemoryStore(), SystemClock()
        self.ring = SimpleNamespace(credentials=SimpleNamespace(certificate_pem="first"), is_founding=True)
        self.node = SimpleNamespace(
            name="h1", record=host("h1").with_(incarnation=77), store=self.store, clock=clock,
            config=SimpleNamespace(timings=SimpleNamespace(liveness_ttl_s=3)), store_heard_at_s=0.0,
            events=EventLog(self.store, "h1", clock), announced=SimpleNamespace(set=lambda: None),
        )  # fmt: skip
        self.presence = Presence(self.node, self.ring)

    async def published(self):
        found = await self.store.get(keys.host("h1"))
        return Host.from_json(found.value), found.mod_revision


@pytest.fixture
def here():
    return Here()


async def test_the_record_carries_the_certificate_and_the_incarnation(here):
    await here.presence.renew()
    record, _ = await here.published()
    assert (record.certificate, record.incarnation) == ("first", 77)
    assert (await here.store.get(keys.liveness("h1"))).value == "77"
    assert here.node.store_heard_at_s > 0


async def test_a_renewed_certificate_is_published_once(here):
    await here.presence.renew()
    _, before = await here.published()
    await here.presence.renew()
    assert (await here.published())[1] == before, "nothing is written where nothing has changed"
    here.ring.credentials = SimpleNamespace(certificate_pem="second")
    await here.presence.renew()
    record, after = await here.published()
    assert record.certificate == "second"
    await here.presence.renew()
    assert (await here.published())[1] == after


async def test_that_a_host_takes_no_guests_outlives_its_certificate(here):
    await here.presence.renew()
    record, _ = await here.published()
    await here.store.commit([], [Put(keys.host("h1"), record.with_(schedulable=False).to_json())])
    here.ring.credentials = SimpleNamespace(certificate_pem="second")
    await here.presence.renew()
    assert (await here.published())[0].with_(certificate="") == here.node.record.with_(schedulable=False)


async def test_a_certificate_that_could_not_be_published_is_published_later(here):
    await here.presence.renew()
    here.ring.credentials = SimpleNamespace(certificate_pem="second")
    here.store.fail_next(Fault.UNAVAILABLE)
    with pytest.raises(UnavailableError):
        await here.presence.renew()
    await here.presence.renew()
    assert (await here.published())[0].certificate == "second"


async def test_a_lost_lease_is_granted_anew(here):
    await here.presence.renew()
    here.store.advance(10)
    assert await here.store.get(keys.liveness("h1")) is None
    with pytest.raises(LeaseLostError):
        await here.presence.renew()
    await here.presence.renew()
    assert (await here.store.get(keys.liveness("h1"))).value == "77"


async def test_a_host_that_was_removed_does_not_come_back_by_itself(here):
    here.ring.is_founding = False
    with pytest.raises(UnavailableError) as caught:
        await here.presence.renew()
    assert caught.value.code == "host-removed" and "hostagent join --anew" in caught.value.problem.hint
    assert await here.store.get(keys.host("h1")) is None
    assert await here.store.get(keys.liveness("h1")) is None
    await here.store.commit([], [Put(keys.machine("h1"), "its key")])  # it joined by a token
    await here.presence.renew()
    assert (await here.published())[0].incarnation == 77
