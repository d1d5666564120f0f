"""Whom etcd talks to: the cluster's hosts, from their own addresses, over TLS; nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hostagent.agent.etcd import Turn
from tests.integration.test_embedded_etcd import ROOT, WAIT_S, Hosts
from vdc.model.identity import Role
from vdc.security.authority import Authority
from vdc.security.cluster import issue_user
from vdc.security.folder import BUNDLE, CERTIFICATE, REVOKED, write_private
from vdc.security.tls import client_context
from vdc.store.etcd import EtcdStore
from vdc.store.protocol import Put, StoreUnavailableError

pytestmark = pytest.mark.skipif(ROOT is None, reason="no runtime root with etcd")


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    made = Hosts(tmp_path)
    made.start()
    await made.healthy()
    yield made
    for member in made.members.values():
        await member.stop(0.5)
    await asyncio.gather(*made.tasks.values())


def held(hosts: Hosts) -> Authority:
    found = hosts.keyrings["h1"].credentials.authority
    assert found is not None
    return found


async def why_not(endpoint: str, bundle: str, certificate: str = "", key: str = "") -> str:
    store = EtcdStore([endpoint], ssl=client_context(bundle, certificate, key))
    try:
        with pytest.raises(StoreUnavailableError) as caught:
            await store.get("/vdc/leader", deadline_s=5.0)
    finally:
        await store.close()
    return str(caught.value)


async def test_nobody_but_a_host_at_its_own_address_is_admitted(hosts: Hosts) -> None:
    authority, now, endpoint = held(hosts), datetime.now(UTC), hosts.members["h1"].endpoint
    admin = issue_user(authority, name="root", role=Role.ADMIN, now=now)
    foreign = Authority.create("ffffffffffff", now)
    stranger = issue_user(foreign, name="root", role=Role.ADMIN, now=now)
    host = hosts.keyrings["h1"].credentials

    await why_not(endpoint, authority.pem)
    await why_not(endpoint, authority.pem, admin.certificate_pem, admin.key_pem)
    await why_not(endpoint, authority.pem, stranger.certificate_pem, stranger.key_pem)
    assert "CERTIFICATE_VERIFY_FAILED" in await why_not(
        endpoint, foreign.pem, host.certificate_pem, host.key_pem
    )

    for port in (hosts.config.client_port, hosts.config.peer_port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" not in await reader.read(100)
        writer.close()


async def test_a_host_that_was_revoked_is_refused_without_a_restart(hosts: Hosts) -> None:
    authority, now = held(hosts), datetime.now(UTC)
    gone = hosts.keyrings["h3"].credentials.certificate.serial
    store = hosts.store([hosts.members["h1"].endpoint], "h3")
    await store.commit([], [Put("/t/a", "1")])
    await store.close()
    for host in ("h1", "h2"):
        folder = hosts.keyrings[host].folder
        write_private(folder / REVOKED, authority.revocation_list([(gone, now)], now))
        assert not await hosts.members[host].renew_credentials()
    late = hosts.store([hosts.members["h1"].endpoint], "h3")
    with pytest.raises(StoreUnavailableError):
        await late.get("/t/a", deadline_s=1.0)
    await late.close()
    own = hosts.store([hosts.members["h1"].endpoint])
    assert await own.get("/t/a")
    await own.close()


async def test_another_authority_is_trusted_after_a_restart_and_the_data_stays(hosts: Hosts) -> None:
    old, now = held(hosts), datetime.now(UTC)
    new = Authority.create(old.cluster, now)
    store = hosts.store(hosts.members["h1"].endpoints)
    await store.commit([], [Put("/t/a", "1")])
    for host, member in hosts.members.items():  # one after the other: a majority stays
        keyring = hosts.keyrings[host]
        write_private(keyring.folder / BUNDLE, old.pem + new.pem)
        keyring.reload()
        assert await member.renew_credentials()
        await member.wait_healthy(WAIT_S)
        assert not await member.renew_credentials()
    for host, member in hosts.members.items():
        keyring = hosts.keyrings[host]
        renewed = new.renew(keyring.credentials.certificate_pem, now)
        write_private(keyring.folder / CERTIFICATE, renewed)
        keyring.reload()
        assert not await member.renew_credentials()  # etcd reads it by itself
        await member.wait_healthy(WAIT_S)
    later = hosts.store(hosts.members["h2"].endpoints, "h2")
    item = await later.get("/t/a")
    assert item and item.value == "1"
    await store.close()
    await later.close()


async def test_members_that_hear_of_another_authority_together_start_again_one_by_one(hosts: Hosts) -> None:
    new = Authority.create(held(hosts).cluster, datetime.now(UTC))
    stores = {host: hosts.store(member.endpoints, host) for host, member in hosts.members.items()}
    fewest = len(hosts.members)

    async def count() -> None:
        nonlocal fewest
        while True:
            handles = [member.handle for member in hosts.members.values()]
            fewest = min(fewest, sum(handle is not None and handle.is_alive() for handle in handles))
            await asyncio.sleep(0.01)

    for keyring in hosts.keyrings.values():
        write_private(keyring.folder / BUNDLE, held(hosts).pem + new.pem)
        keyring.reload()
    counting = asyncio.create_task(count())
    try:
        renewals = [m.renew_credentials(Turn(stores[host], host)) for host, m in hosts.members.items()]
        assert await asyncio.gather(*renewals) == [True] * len(hosts.members)
        assert fewest == len(hosts.members) - 1
        assert [await member.knows_authorities() for member in hosts.members.values()] == [True] * 3
    finally:
        counting.cancel()
        for store in stores.values():
            await store.close()
