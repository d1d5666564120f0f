"""`hostagent go-on-alone` and `rejoin`: interrupted anywhere they can be repeated, or left to the agent."""

from __future__ import annotations

from typing import Any

import pytest
from etcd_support import (
    Agent,
    DiedError,
    Etcd,
    assert_begun,
    begin,
    config,
    etcd,
    without_majority,
)

from hostagent.agent import lineage, recovery
from hostagent.agent.lineage import LocalLineage, load, save
from hostagent.config import AgentConfig
from hostagent.drivers.etcd import EmbeddedMember
from vdc.model.errors import ConflictError, RefusedError
from vdc.model.lineage import Lineage

__all__ = ["config", "etcd"]

# ---- by command


async def test_a_command_that_was_interrupted_is_carried_on(
    etcd: Etcd, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    etcd.has_majority = False

    async def die(*_: object) -> None:
        raise DiedError

    for point in ("save", "record_lineage"):
        with monkeypatch.context() as patched:
            patched.setattr(recovery, point, die)
            with pytest.raises(DiedError):
                await recovery.go_on_alone(config, "somebody")
        assert await etcd.recorded() is None
    assert "lineage 1" in await recovery.go_on_alone(config, "somebody")
    found = await etcd.recorded()
    assert found and found.number == load(config.state_dir).number == 1
    assert etcd.starts == [True]
    with pytest.raises(ConflictError, match="a majority"):
        await recovery.go_on_alone(config, "somebody")
    assert etcd.starts == [True]


async def test_an_agent_carries_on_what_a_command_began(
    etcd: Etcd, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    etcd.has_majority = False

    async def die(*_: object, **__: object) -> None:
        raise DiedError

    with monkeypatch.context() as patched:
        patched.setattr(EmbeddedMember, "run", die)
        patched.setattr(EmbeddedMember, "wait_healthy", die)
        with pytest.raises(DiedError):
            await recovery.go_on_alone(config, "somebody")
    assert etcd.starts == []
    agent = Agent(etcd, config)
    await agent.start()
    await assert_begun(agent, etcd, config)
    await agent.end()


async def test_a_lineage_that_the_data_has_is_not_begun_again(etcd: Etcd, config: AgentConfig) -> None:
    """`lineage.json` was lost with nothing else."""
    etcd.has_majority = False
    older = Lineage(number=4, host="h1")
    await lineage.record_lineage(etcd.data, older)
    assert "lineage 5" in await recovery.go_on_alone(config, "somebody")
    found = await etcd.recorded()
    assert found and found.number == load(config.state_dir).number == 5


async def test_a_refused_command_leaves_etcd_as_it_was(
    etcd: Etcd, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RefusedError("may have been granted")

    monkeypatch.setattr(recovery, "_check_undecided", refuse)
    etcd.has_majority = False
    await etcd.spawn(("etcd",))
    with pytest.raises(RefusedError):
        await recovery.go_on_alone(config, "somebody")
    assert etcd.starts == [False, False] and etcd.program and etcd.program.is_alive()
    assert load(config.state_dir) == LocalLineage()


# ---- joining again


async def begun_by_a_former_agent(etcd: Etcd, config: AgentConfig) -> None:
    """A lineage was decided here, and its agent has ended since."""
    agent = await without_majority(etcd, config)
    agent.tasks[0].cancel()
    await begin(agent)
    await agent.end()


async def rejoined(*_: object, **__: object) -> None:
    """The others take this host's member back."""


async def test_rejoining_ends_what_was_decided_on_data_that_is_gone(
    etcd: Etcd, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would have every other host stand down for a lineage that nobody has."""
    await begun_by_a_former_agent(etcd, config)
    with pytest.raises(RefusedError, match="has its data"):
        await recovery.rejoin(config)
    etcd.log_path.unlink()
    monkeypatch.setattr(EmbeddedMember, "rejoin", rejoined)
    await recovery.rejoin(config)
    assert load(config.state_dir) == LocalLineage()


async def test_rejoining_a_newer_lineage_keeps_its_number(
    etcd: Etcd, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(config.state_dir, LocalLineage(number=2, left_out=True, members=("h1",)))
    monkeypatch.setattr(EmbeddedMember, "rejoin", rejoined)
    await recovery.rejoin(config)
    assert load(config.state_dir) == LocalLineage(number=2, members=("h1",))


async def test_the_member_that_joins_again_begins_nothing(
    etcd: Etcd, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark of the data that was put aside goes with it, an order to go on alone too."""
    await begun_by_a_former_agent(etcd, config)

    class Others:
        def __init__(self, _: object, **__: object) -> None:
            self.admin = self

        async def members(self) -> tuple[Any, ...]:
            return ()

        async def add_member(self, peer: str) -> None:
            pass

        async def close(self) -> None:
            pass

    monkeypatch.setattr("hostagent.drivers.etcd.member.EtcdStore", Others)
    await save(config.state_dir, LocalLineage(number=2, left_out=True, members=("h1",)))
    member = Agent(etcd, config).member
    await member.rejoin(discard=True)
    assert member.lineage == 0 and not await member.is_going_alone()
    assert not member.has_data
