"""The embedded etcd member, with the real etcd of the runtime root."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from hostagent.config import EmbeddedEtcd
from hostagent.drivers.etcd import EmbeddedMember, measure_rtt_ms, timing_warnings
from hostagent.drivers.process import Backoff, User
from hostagent.drivers.process.identity import identity_of
from hostagent.drivers.trust import Trust
from tests.integration.etcd_cluster import free_ports, runtime_root
from vdc.model.errors import RefusedError, UnavailableError
from vdc.security.authority import Authority
from vdc.security.cluster import issue_host_folder
from vdc.security.folder import pki_folder
from vdc.security.keyring import Keyring
from vdc.store.etcd import EtcdStore
from vdc.store.protocol import Put

ROOT = runtime_root()
pytestmark = pytest.mark.skipif(ROOT is None, reason="no runtime root with etcd")
WAIT_S = 30.0


def keyrings_of(folder: Path, addresses: dict[str, IPv4Address]) -> dict[str, Keyring]:
    """A cluster of these hosts, each with its credentials in its state folder."""
    now = datetime.now(UTC)
    authority = Authority.create("0123456789ab", now)
    for host, address in addresses.items():
        issue_host_folder(authority, pki_folder(folder / host), name=host, addresses=[str(address)], now=now)
    return {host: Keyring(pki_folder(folder / host)) for host in addresses}


class Hosts:
    """Three hosts at 127.0.0.1 to 127.0.0.3 with a member each, and the tasks that run them."""

    def __init__(self, folder: Path) -> None:
        client, peer = free_ports(2)
        addresses = {f"h{number}": IPv4Address(f"127.0.0.{number}") for number in (1, 2, 3)}
        self.config = EmbeddedEtcd(members=addresses, client_port=client, peer_port=peer)
        self.folder = folder
        self.keyrings = keyrings_of(folder, addresses)
        self.trusts = {host: Trust(keyring) for host, keyring in self.keyrings.items()}
        self.members = {host: self.member(host) for host in addresses}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def member(self, host: str) -> EmbeddedMember:
        return EmbeddedMember(
            host, self.config, state_dir=self.folder / host, runtime=ROOT, user=User(1_900_100_000),
            trust=self.trusts[host], backoff=Backoff(0.05, 2.0, 0.2),
        )  # fmt: skip

    def store(self, endpoints: Sequence[str], host: str = "h1") -> EtcdStore:
        """A client that shows what a host does."""
        return EtcdStore(endpoints, ssl=self.trusts[host].client)

    def start(self, *hosts: str) -> None:
        for host in hosts or self.members:
            (self.folder / host).mkdir(exist_ok=True)
            self.tasks[host] = asyncio.create_task(self.members[host].run())

    async def healthy(self, *hosts: str) -> None:
        await asyncio.gather(*(self.members[host].wait_healthy(WAIT_S) for host in hosts or self.members))

    async def let_go(self, host: str) -> None:
        """What the death of an agent does."""
        task = self.tasks.pop(host)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    hosts = Hosts(tmp_path)
    yield hosts
    for member in hosts.members.values():
        await member.stop(0.5)
    await asyncio.gather(*hosts.tasks.values())
    assert not list(tmp_path.glob("*/etcd.pid"))


async def test_three_members_serve_restart_and_outlive_their_agents(hosts: Hosts) -> None:
    hosts.start()
    await hosts.healthy()
    member = hosts.members["h1"]
    store = hosts.store(member.endpoints)
    await store.commit([], [Put("/t/a", "1")])
    status = await store.admin.status()
    assert [one.is_healthy for one in status] == [True] * 3
    assert sum(one.is_leader for one in status) == 1

    killed = member.handle
    assert killed
    killed.kill()
    await killed.wait_gone()
    await hosts.healthy("h1")
    assert member.starts == 2
    restarted = member.handle
    assert restarted

    await hosts.let_go("h1")
    assert restarted.is_alive()
    hosts.members["h1"] = member = hosts.member("h1")
    hosts.start("h1")
    await hosts.healthy("h1")
    assert member.is_adopted and member.handle and member.handle.identity == restarted.identity
    item = await store.get("/t/a")
    assert item and item.value == "1"

    await member.stop()
    await hosts.tasks["h1"]
    assert identity_of(restarted.pid) is None
    assert not (await member.status()).is_healthy
    assert (await store.get("/t/a")) == item  # the other two go on
    await store.close()


async def test_alone_it_says_that_the_quorum_is_missing(hosts: Hosts) -> None:
    hosts.start("h1")
    with pytest.raises(UnavailableError) as caught:
        await hosts.members["h1"].wait_healthy(3.0)
    assert caught.value.code in ("etcd-no-quorum", "etcd-no-answer")
    assert "h1" in str(caught.value)


async def test_a_port_that_is_taken_is_told(hosts: Hosts) -> None:
    with socket.create_server(("127.0.0.1", hosts.config.client_port)):
        hosts.start("h1")
        with pytest.raises(UnavailableError) as caught:
            await hosts.members["h1"].wait_healthy(2.0)
    assert caught.value.code == "etcd-not-running"
    assert "address already in use" in str(caught.value)


async def test_a_member_that_lost_its_data_is_refused_until_it_rejoins(hosts: Hosts) -> None:
    hosts.start()
    await hosts.healthy()
    member = hosts.members["h2"]
    store = hosts.store(hosts.members["h1"].endpoints)
    await store.commit([], [Put("/t/a", "1")])
    with pytest.raises(RefusedError, match="has its data"):
        await member.rejoin()

    assert member.mark_path.exists()
    await member.stop()
    await hosts.tasks.pop("h2")
    shutil.rmtree(member.data_dir)
    hosts.members["h2"] = member = hosts.member("h2")
    with pytest.raises(RefusedError, match="must not vote again"):
        await member.wait_healthy()

    await member.rejoin(WAIT_S)
    await member.rejoin(WAIT_S)  # repeatable
    hosts.start("h2")
    await hosts.healthy("h2")
    own = hosts.store([member.endpoint])
    item = await own.get("/t/a")
    assert item and item.value == "1"
    assert len(await store.admin.members()) == 3
    await own.close()
    await store.close()


async def test_no_variable_of_the_environment_reaches_it(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETCD_NAME", "intruder")
    hosts.start("h1")
    handle = await hosts.members["h1"]._process.running()
    environment = Path(f"/proc/{handle.pid}/environ").read_bytes()
    assert b"ETCD_" not in environment and os.environ["ETCD_NAME"] == "intruder"


async def test_round_trips_are_measured(hosts: Hosts) -> None:
    with socket.create_server(("127.0.0.2", hosts.config.peer_port)):
        measured = await measure_rtt_ms(hosts.config, "h1")
    assert measured.keys() == {"h2", "h3"} and measured["h3"] is None
    assert measured["h2"] is not None and 0 < measured["h2"] < 1000
    assert timing_warnings(hosts.config, {"h2": 0.1}) == ()
