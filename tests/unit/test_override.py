"""A forced promotion is carried out whole, whether or not somebody still waits for it; and it is said how far it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from etcd_support import Agent, Etcd, config, entry, etcd, until
from protection_world import pair

from hostagent.config import AgentConfig
from hostagent.server import override
from vdc.api.models import PromoteRequest, PromoteResult
from vdc.model.errors import BugError, ConflictError, RefusedError, UnavailableError
from vdc.store import keys

__all__ = ["config", "etcd"]

BODY = PromoteRequest(force=True, confirm="web")


@pytest.fixture
async def agent(etcd: Etcd, config: AgentConfig) -> Any:
    """It has seen the records, and its etcd has lost its majority since."""
    made = Agent(etcd, config)
    await made.start()
    await until(lambda: etcd.serves and made.host.mirror.synced.is_set())
    etcd.has_majority = False
    yield made
    await made.end()


def force(agent: Agent) -> asyncio.Task[PromoteResult]:
    return asyncio.create_task(agent.override.promote("web", BODY, "somebody"))


async def leave(request: asyncio.Task[PromoteResult]) -> None:
    """What aiohttp does with the handler of a client that is gone."""
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request


async def test_a_new_lineage_and_then_the_promotion(agent: Agent, etcd: Etcd) -> None:
    result = await force(agent)
    assert (result.primary, result.previous, result.epoch, result.lineage) == ("h2", "h1", 3, 1)
    assert await etcd.recorded() == agent.keeper.known.begun
    after = await etcd.pair()
    assert (after.primary, after.epoch, after.lineage) == ("h2", 3, 1)
    assert agent.events == ["forced-promotion"] and etcd.starts == [False, True]
    with pytest.raises(ConflictError, match=r"epoch 3, lineage 1: there is nothing to force"):
        await force(agent)


async def test_it_goes_on_without_the_client(agent: Agent, etcd: Etcd) -> None:
    etcd.may_serve = False
    request = force(agent)
    await until(lambda: etcd.is_alone)
    await leave(request)
    assert "waiting for this host's etcd to serve alone" in agent.override.doing
    etcd.may_serve = True
    await until(lambda: "forced-promotion" in agent.events)
    found, after = await etcd.recorded(), await etcd.pair()
    assert found and (found.number, found.by, found.left_out) == (1, "somebody", ("h1", "h3"))
    assert (after.primary, after.epoch, after.lineage) == ("h2", 3, 1)
    assert agent.override.doing == "" and not agent.member._mark.read().alone


async def test_the_same_command_again_joins(agent: Agent, etcd: Etcd) -> None:
    etcd.may_serve = False
    request = force(agent)
    await until(lambda: etcd.is_alone)
    await leave(request)
    again = force(agent)
    await asyncio.sleep(0.02)
    etcd.may_serve = True
    assert (await again).lineage == 1
    assert etcd.starts == [False, True] and agent.events == ["forced-promotion"]


async def test_a_later_agent_finishes_what_the_store_answers_in_already(
    agent: Agent, etcd: Etcd, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That its member answers, alone, is no majority."""
    etcd.may_serve = False
    request = force(agent)
    await until(lambda: etcd.is_alone)
    await leave(request)
    assert agent.override._work
    agent.override._work.cancel()  # with its agent
    await agent.end()
    etcd.may_serve = True
    following = Agent(etcd, config)
    really_complete = following.keeper._complete
    monkeypatch.setattr(following.keeper, "_complete", lambda _: asyncio.sleep(0))
    await following.start()
    await until(following.host.mirror.synced.is_set)
    again = force(following)
    while not following.override.doing:
        await asyncio.sleep(0)
    monkeypatch.setattr(following.keeper, "_complete", really_complete)
    assert (await again).lineage == 1
    found = await etcd.recorded()
    assert found and found.number == 1 and (await etcd.pair()).lineage == 1
    assert etcd.starts == [False, True]
    await following.end()


async def test_nothing_was_done_while_the_silence_is_waited_for(agent: Agent, etcd: Etcd) -> None:
    agent.beats.silence_ms = 1_000.0
    request = force(agent)
    await until(lambda: "silent for 10 s" in agent.override.doing)
    await leave(request)
    assert etcd.starts == [False] and agent.member.lineage == agent.host.lineage == 0
    assert agent.override.doing == ""


async def test_a_refusal_after_the_log_was_read_changes_nothing(agent: Agent, etcd: Etcd) -> None:
    asked = pair(epoch=3, secondary=None)
    etcd.write(entry(701, keys.pair("web").encode() + asked.to_json().encode()))
    with pytest.raises(RefusedError, match="h1 asked at the last moment"):
        await force(agent)
    await until(lambda: len(etcd.starts) == 2)
    assert etcd.starts == [False, False]
    assert agent.member.lineage == agent.host.lineage == 0 and len(agent.store.used) == 3


async def test_a_log_that_cannot_be_read_changes_nothing(agent: Agent, etcd: Etcd) -> None:
    etcd.log_path.write_bytes(b"\xff" * 64)
    with pytest.raises(BugError, match="log cannot be read"):
        await force(agent)
    assert agent.member.lineage == 0


async def test_what_does_not_come_up_in_time_is_said_to_have_begun(
    agent: Agent, etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(override, "ALONE_S", 0.1)
    etcd.may_serve = False
    with pytest.raises(UnavailableError, match="lineage 1 is begun, and goes on as soon as it can"):
        await force(agent)
    etcd.may_serve = True
    await until(lambda: not agent.keeper.owes_record(agent.host))
    assert etcd.starts == [False, True]
    assert (await force(agent)).lineage == 1  # a majority of one answers now; the lineage is the same
    assert etcd.starts == [False, True]


async def test_a_majority_that_is_lost_again_is_another_lineage(agent: Agent, etcd: Etcd) -> None:
    """Also where no agent was there to notice that the member had gone alone: its log tells."""
    await force(agent)
    agent.member._mark.change(lambda mark: mark.with_(alone=True))
    etcd.is_alone = False  # another has joined it, and is gone
    agent.supervisor.copy.state.epoch = 3
    assert (await force(agent)).lineage == 2
    assert etcd.starts == [False, True, True]
    found = await etcd.recorded()
    assert found and found.number == agent.host.lineage == 2
