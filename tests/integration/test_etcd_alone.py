"""A majority is lost for good: one member goes on alone, with everything that it knows to be decided."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hostagent.agent import lineage, recovery
from hostagent.agent.running import api_socket
from hostagent.config import AgentConfig, EtcdConfig
from hostagent.drivers.etcd.wal import undecided
from hostagent.server.undecided import pairs_in
from tests.integration.test_embedded_etcd import ROOT, WAIT_S, Hosts
from vdc.model.errors import ConflictError, RefusedError
from vdc.model.lineage import Lineage
from vdc.model.pair import Pair
from vdc.store import keys
from vdc.store.protocol import Put, StoreUnavailableError, Unchanged, UnknownOutcomeError

pytestmark = pytest.mark.skipif(ROOT is None, reason="no runtime root with etcd")
CONFIG = {
    "host": "h1", "state_dir": "/short", "management": {"address": "127.0.0.1", "interface": "lo"},
    "replication": {"address": "127.0.0.2", "interface": "lo"}, "overlay_address": "10.77.0.1",
    "etcd": {"embedded": {"members": {"h1": "127.0.0.1"}}},
}  # fmt: skip
PAIR = Pair(name="web", uid="u", epoch=7, primary="h2", slot=0, reason="going on alone – ä")


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    made = Hosts(tmp_path)
    yield made
    for member in made.members.values():
        await member.stop(0.5)
    await asyncio.gather(*made.tasks.values())


async def test_it_goes_on_with_its_data_and_the_others_join_anew(hosts: Hosts) -> None:
    hosts.start()
    await hosts.healthy()
    member = hosts.members["h1"]
    store = hosts.store([member.endpoint])
    await store.commit([], [Put("/t/a", "1")])
    for host in ("h2", "h3"):
        await hosts.members[host].stop(0)
        await hosts.tasks.pop(host)

    seen: list[tuple[bytes, ...]] = []
    with pytest.raises(RefusedError):
        await member.go_on_alone(_refuse, 1, _remember)
    with pytest.raises(StoreUnavailableError):
        await store.get("/t/a", deadline_s=1.0)
    assert not await member.is_going_alone() and member.lineage == 0
    await member.go_on_alone(lambda folder: seen.append(undecided(folder)), 1, _remember)
    await hosts.healthy("h1")
    assert not await member.is_going_alone() and member.lineage == 1
    assert len(seen) == 1 and not any(b"/t/a" in entry for entry in seen[0])
    item = await store.get("/t/a")
    assert item and item.value == "1"
    assert [one.name for one in await store.admin.members()] == ["h1"]
    assert len(await store.admin.voters()) == 1
    await store.commit([], [Put("/t/a", "2")])

    # a second start is an ordinary one
    handle = member.handle
    assert handle
    handle.kill()
    await handle.wait_gone()
    await hosts.healthy("h1")
    assert "--force-new-cluster" not in _command(hosts, "h1")

    # who was left out has nothing to say, and joins with empty data
    other = hosts.members["h2"] = hosts.member("h2")
    with pytest.raises(RefusedError, match="has its data"):
        await other.rejoin()
    await other.rejoin(WAIT_S, discard=True)
    hosts.start("h2")
    await hosts.healthy("h2")
    own = hosts.store([other.endpoint])
    item = await own.get("/t/a")
    assert item and item.value == "2"
    assert {one.name for one in await store.admin.members()} == {"h1", "h2"}
    await own.close()
    await store.close()


async def test_what_may_have_been_decided_is_seen_in_the_log(hosts: Hosts) -> None:
    hosts.start()
    await hosts.healthy()
    member = hosts.members["h1"]
    store = hosts.store([member.endpoint])
    admin = hosts.store(member.endpoints)
    status = await member.status()
    await admin.admin.move_leader(status.member_id)
    await store.commit([], [Put("/t/before", "1")])
    others = [handle.pid for host in ("h2", "h3") if (handle := hosts.members[host].handle)]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        key = keys.pair("web")
        with pytest.raises((UnknownOutcomeError, StoreUnavailableError)):
            await store.commit_everywhere([Unchanged(key, 0)], [Put(key, PAIR.to_json())], deadline_s=1.0)
        async with member.suspended():
            entries = undecided(member.data_dir)
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)
    assert [found for entry in entries for found in pairs_in(entry)] == [PAIR]
    assert not any(b"/t/before" in entry for entry in entries)
    await store.close()
    await admin.close()


def _refuse(_: Path) -> None:
    raise RefusedError("not now")


async def _remember() -> None:
    """Nothing runs here that would have to know of the lineage."""


def _command(hosts: Hosts, host: str) -> str:
    handle = hosts.members[host].handle
    assert handle
    return Path(f"/proc/{handle.pid}/cmdline").read_text()


async def test_by_command_where_the_agent_has_seen_no_records(hosts: Hosts) -> None:
    hosts.start()
    await hosts.healthy()
    member = hosts.members["h1"]
    store = hosts.store([member.endpoint])
    await store.commit([], [Put("/t/a", "1")])
    for host in ("h2", "h3"):
        await hosts.members[host].stop(0)
        await hosts.tasks.pop(host)
    await hosts.let_go("h1")
    config = AgentConfig.model_validate(CONFIG).model_copy(
        update={"state_dir": hosts.folder / "h1", "runtime": ROOT, "etcd": EtcdConfig(embedded=hosts.config)}
    )
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(api_socket(config)))
        agent.listen()
        with pytest.raises(ConflictError, match="the agent runs"):
            await recovery.go_on_alone(config, "somebody")
    # The socket stays, as that of an agent that was killed does.
    assert "lineage 1" in await recovery.go_on_alone(config, "somebody")
    record = await store.get(keys.LINEAGE)
    assert record and Lineage.from_json(record.value).left_out == ("h2", "h3")
    known = lineage.load(config.state_dir)
    assert (known.number, known.members, known.left_out) == (1, ("h1",), False)
    item = await store.get("/t/a")
    assert item and item.value == "1"
    with pytest.raises(ConflictError, match="a majority"):
        await recovery.go_on_alone(config, "somebody")  # done; it would cut off who has joined since
    hosts.members["h1"] = hosts.member("h1")  # the agent that starts now takes the member over
    hosts.start("h1")
    await hosts.healthy("h1")
    assert hosts.members["h1"].is_adopted
    await store.close()
