"""The records of who may speak hold under races, old news and unreadable neighbours."""

from __future__ import annotations

from datetime import timedelta

import pytest
from drain_support import cluster
from pki_support import CLUSTER, NOW, identity

from vdc.control.identities import BATCH, MOST_VALID, Identities
from vdc.model.credentials import IssuedCertificate, User
from vdc.model.errors import VdcError
from vdc.model.identity import Role
from vdc.store import keys
from vdc.store.memory import MemoryStore
from vdc.store.mirror import Mirror
from vdc.store.protocol import Delete, Put

__all__ = ["cluster"]
DAY = timedelta(days=1)
ALICE = User(name="alice", role=Role.OPERATOR, created_at=NOW)


def certificate(
    number: int, name: str = "alice", role: Role = Role.OPERATOR, days: int = 1
) -> IssuedCertificate:
    return IssuedCertificate(
        serial=f"{number:032x}", identity=identity(role, name), not_after=NOW + days * DAY, issued_at=NOW,
        issuer="i", key="k",
    )  # fmt: skip


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def records(store: MemoryStore) -> Identities:
    return Identities(store, Mirror(store, report=lambda sentence: None))


async def code_of(work) -> str:
    with pytest.raises(VdcError) as caught:
        await work
    return caught.value.code


async def test_a_certificate_that_is_entered_while_its_user_is_removed_is_revoked_or_refused(
    store: MemoryStore, records: Identities
) -> None:
    await records.add_user(ALICE)
    _, claim = await records.user("alice")
    await records.enter(certificate(1), claim)
    assert await code_of(records.enter(certificate(2), claim)) == "contention"  # old news
    _, claim = await records.user("alice")

    class Racing(Identities):
        async def user(self, name: str):
            found = await super().user(name)
            if not await store.get(keys.certificate(f"{3:032x}")):
                await records.enter(certificate(3), claim)
            return found

    removing = Racing(store, Mirror(store, report=lambda sentence: None))
    await removing.remove_user("alice", now=NOW, by="root")
    assert await records.revoked() == {f"{number:032x}" for number in (1, 3)}
    assert await code_of(records.enter(certificate(4), claim)) == "contention"


async def enter(records: Identities, item: IssuedCertificate) -> None:
    _, claim = await records.user("alice")
    await records.enter(item, claim)


async def test_who_renews_without_end_does_not_fill_the_store(
    store: MemoryStore, records: Identities
) -> None:
    await records.add_user(ALICE)
    old = certificate(1000).with_(not_after=NOW - DAY)
    for item in (old, *(certificate(number) for number in range(MOST_VALID - 1))):
        await store.commit([], [Put(keys.certificate(item.serial), item.to_json())])
    await enter(records, certificate(500))
    assert await code_of(enter(records, certificate(501))) == "certificates-many"
    assert await store.get(keys.certificate(f"{501:032x}")) is None
    await enter(records, certificate(501, role=Role.HOST))  # a machine has to be able to go on
    await records.revoke(f"{500:032x}", now=NOW, by="root")
    await enter(records, certificate(501))


async def test_more_certificates_than_a_transaction_takes_are_all_revoked(
    store: MemoryStore, records: Identities
) -> None:
    await records.add_user(ALICE)
    for number in range(BATCH + 30):
        item = certificate(number)
        await store.commit([], [Put(keys.certificate(item.serial), item.to_json())])
    assert await records.remove_user("alice", now=NOW, by="root") == BATCH + 30
    assert len(await records.revoked()) == BATCH + 30


async def test_removing_a_user_touches_nobody_else(store: MemoryStore, records: Identities) -> None:
    for number, (name, role) in enumerate(
        [("alice", Role.OPERATOR), ("bob", Role.OPERATOR), ("alice", Role.HOST)]
    ):
        item = certificate(number, name, role)
        await store.commit([], [Put(keys.certificate(item.serial), item.to_json())])
    await records.add_user(ALICE)
    await records.remove_user("alice", now=NOW, by="root")
    assert await records.revoked() == {f"{0:032x}"}


async def test_a_name_belongs_to_the_key_that_claimed_it(store: MemoryStore, records: Identities) -> None:
    await records.claim_name("h1", "key")
    await records.claim_name("h1", "key")
    assert await code_of(records.claim_name("h1", "other")) == "host-known"
    assert await code_of(records.require_name("h1", "other")) == "wrong-host"
    assert await code_of(records.require_name("h2", "key")) == "wrong-host"
    await store.commit([], [Put(keys.host("h3"), "{}")])  # a host from before names were claimed
    assert await code_of(records.claim_name("h3", "key")) == "host-known"


async def test_a_mirror_shows_what_is_revoked_even_where_it_cannot_be_read(store: MemoryStore) -> None:
    mirror = Mirror(store, report=lambda sentence: None)
    await store.commit([], [Put(keys.revoked("ab"), "?"), Put(keys.certificate("cd"), "?")])
    await mirror.read_all()
    assert "ab" in mirror.revoked
    assert keys.certificate("cd") in mirror.unreadable
    records = Identities(store, mirror)
    assert await records.certificates() == ()
    assert await records.revoked() == {"ab"}


async def test_what_ran_out_is_trimmed_and_what_counts_is_kept(
    store: MemoryStore, records: Identities
) -> None:
    for item in (certificate(1, days=1), certificate(2, days=10)):
        await store.commit([], [Put(keys.certificate(item.serial), item.to_json())])
        await records.revoke(item.serial, now=NOW, by="root")
    await store.commit([], [Put(keys.revoked("unreadable"), "?")])
    assert await records.trim(NOW + 1.5 * DAY) == 0
    assert await records.trim(NOW + 3 * DAY) == 2
    assert [found.serial for found in await records.certificates()] == [f"{2:032x}"]
    assert await records.revoked() == {f"{2:032x}", "unreadable"}


async def test_digits_that_begin_two_serial_numbers_name_neither(
    store: MemoryStore, records: Identities
) -> None:
    for item in (certificate(1), certificate(2)):
        await store.commit([], [Put(keys.certificate(item.serial), item.to_json())])
    assert await code_of(records.revoke("00000000", now=NOW, by="root")) == "serial-invalid"


async def test_a_removed_host_s_certificates_are_revoked_and_its_name_is_free(cluster) -> None:
    for number, (name, role) in enumerate(
        [("h3", Role.HOST), ("h3", Role.WITNESS), ("h3", Role.ADMIN), ("h2", Role.HOST)]
    ):
        item = certificate(number, name, role)
        await cluster.put((keys.certificate(item.serial), item.with_(not_after=NOW + 9000 * DAY).to_json()))
    records = Identities(cluster.store, cluster.mirror)
    await cluster.put((keys.machine("h3"), "key"))
    await cluster.store.commit([], [Delete(keys.liveness("h3"))])
    await cluster.mirror.read_all()
    await cluster.wishes.remove("h3")
    assert await records.revoked() == {f"{number:032x}" for number in (0, 1)}
    assert await cluster.store.get(keys.machine("h3")) is None
    assert identity(Role.HOST, "h3").cluster == CLUSTER
