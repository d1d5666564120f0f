"""A lineage that was decided begins, wherever the agent or etcd dies; and it begins once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from etcd_support import (
    RECORD,
    Agent,
    DiedError,
    Etcd,
    assert_begun,
    assert_starts_as_usual,
    begin,
    config,
    entry,
    etcd,
    power_cycled,
    state,
    until,
    without_majority,
)

from hostagent.agent import lineage
from hostagent.agent.lineage import LocalLineage, load, save
from hostagent.config import AgentConfig
from hostagent.drivers.etcd.wal import decided
from vdc.model.errors import ConflictError, RefusedError

__all__ = ["config", "etcd"]

# ---- where the agent dies


async def test_nothing_is_decided_before_the_log_was_seen(etcd: Etcd, config: AgentConfig) -> None:
    agent = await without_majority(etcd, config)
    seen: list[bool] = []

    def look(_: Path) -> None:
        seen.append(etcd.program is not None and etcd.program.is_alive())
        agent.crash()
        raise DiedError

    with pytest.raises(DiedError):
        await begin(agent, look)
    assert seen == [False]
    agent = await power_cycled(agent, etcd, config)
    await until(lambda: len(etcd.starts) == 2)
    assert etcd.starts == [False, False] and agent.host.lineage == 0
    assert load(config.state_dir) == LocalLineage()
    await agent.end()


async def test_dead_between_the_mark_and_what_is_remembered(
    etcd: Etcd, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await without_majority(etcd, config)

    async def die(*_: object) -> None:
        agent.crash()
        raise DiedError

    with monkeypatch.context() as patched:
        patched.setattr(lineage, "save", die)
        with pytest.raises(DiedError):
            await begin(agent)
    assert load(config.state_dir).number == 0
    agent = await power_cycled(agent, etcd, config)
    await assert_begun(agent, etcd, config, by="")  # who asked for it is not in the mark
    assert etcd.starts == [False, True]
    await assert_starts_as_usual(agent, etcd)
    await agent.end()


async def test_dead_before_etcd_was_started_again(etcd: Etcd, config: AgentConfig) -> None:
    agent = await without_majority(etcd, config)
    agent.tasks[0].cancel()  # who would start it
    await begin(agent)
    assert etcd.starts == [False]
    agent = await power_cycled(agent, etcd, config)
    await assert_begun(agent, etcd, config)
    assert etcd.starts == [False, True]
    await agent.end()


async def test_etcd_died_before_it_was_alone(etcd: Etcd, config: AgentConfig) -> None:
    """As a voter of the old cluster it must not come back: nothing was begun yet that this could harm."""
    etcd.outlives = False
    agent = await without_majority(etcd, config)
    await begin(agent)
    await until(lambda: len(etcd.starts) > 3)
    assert all(etcd.starts[1:])
    etcd.outlives = True
    agent = await power_cycled(agent, etcd, config)
    await assert_begun(agent, etcd, config)
    await assert_starts_as_usual(agent, etcd)
    await agent.end()


@pytest.mark.parametrize("outlives_its_agent", [True, False])
async def test_dead_before_the_lineage_was_recorded(
    etcd: Etcd, config: AgentConfig, outlives_its_agent: bool
) -> None:
    """The store answers then, and the old lineage must not go on in it."""
    agent = await without_majority(etcd, config)
    etcd.may_serve = False
    await begin(agent)
    await until(lambda: etcd.is_alone)
    assert await etcd.recorded() is None
    await agent.end()
    etcd.may_serve = True
    if outlives_its_agent:
        agent = Agent(etcd, config)
        await agent.start()
    else:
        agent = await power_cycled(agent, etcd, config)
    assert agent.host.lineage == 1  # before anything can be written
    await assert_begun(agent, etcd, config)
    assert etcd.starts.count(True) == 1
    await assert_starts_as_usual(agent, etcd)
    await agent.end()


async def test_cancelled_while_the_log_is_read_nothing_was_changed(etcd: Etcd, config: AgentConfig) -> None:
    agent = await without_majority(etcd, config)
    loop = asyncio.get_running_loop()

    def look(_: Path) -> None:
        loop.call_soon_threadsafe(asking.cancel)

    asking = asyncio.create_task(begin(agent, look))
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(lambda: len(etcd.starts) == 2)
    assert etcd.starts == [False, False] and agent.host.lineage == agent.member.lineage == 0
    await agent.end()


async def test_a_cancellation_does_not_come_between_the_mark_and_the_lineage(
    etcd: Etcd, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await without_majority(etcd, config)
    really_save = lineage.save
    asking: asyncio.Task[None] = asyncio.create_task(begin(agent))

    async def cancelled(state_dir: Path, known: LocalLineage) -> None:
        asking.cancel()
        await asyncio.sleep(0)
        await really_save(state_dir, known)

    monkeypatch.setattr(lineage, "save", cancelled)
    with pytest.raises(asyncio.CancelledError):
        await asking
    await assert_begun(agent, etcd, config)
    await agent.end()


# ---- what else must hold meanwhile


async def test_what_the_log_was_seen_to_hold_outlives_a_power_cut(
    etcd: Etcd, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else etcd would drop, as undecided, what it had known to be decided."""
    agent = await without_majority(etcd, config)
    agent.tasks[0].cancel()
    synced: list[tuple[Path, int]] = []
    monkeypatch.setattr(
        "hostagent.drivers.etcd.member.make_durable", lambda path: synced.append((path, agent.member.lineage))
    )
    await begin(agent)
    assert synced == [(config.state_dir / "etcd", 0)] and agent.member.lineage == 1
    await agent.end()


async def test_while_it_begins_nothing_is_read_of_the_others(etcd: Etcd, config: AgentConfig) -> None:
    """They may have found a majority, of the older lineage."""
    agent = await without_majority(etcd, config)
    assert len(agent.store.used) == 3
    etcd.may_serve = False
    await begin(agent)
    assert agent.store.used == ["https://10.0.0.2:7379"] and agent.keeper.owes_record(agent.host)
    await agent.end()


async def test_members_that_were_asked_for_before_it_began_are_not_those_of_it(
    etcd: Etcd, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await without_majority(etcd, config)
    before = await etcd.members()

    async def late(**_: object) -> object:
        await begin(agent)
        return before

    monkeypatch.setattr(etcd, "members", late)
    await agent.keeper._follow_members(agent.store)
    assert agent.keeper.known.members == load(config.state_dir).members == ("h2",)
    assert agent.store.used == ["https://10.0.0.2:7379"]
    await agent.end()


async def test_a_host_that_only_heard_of_it_records_nothing(etcd: Etcd, config: AgentConfig) -> None:
    await save(config.state_dir, LocalLineage(number=1, members=("h1",)))
    agent = Agent(etcd, config)
    await agent.start()
    await until(agent.host.mirror.synced.is_set)
    assert not agent.keeper.owes_record(agent.host)
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert await etcd.recorded() is None
    await agent.end()


async def test_who_was_left_out_does_not_begin_another(etcd: Etcd, config: AgentConfig) -> None:
    """Its data is older than what is in force."""
    await save(config.state_dir, LocalLineage(number=1, left_out=True, members=("h1",)))
    agent = Agent(etcd, config)
    with pytest.raises(RefusedError, match="older than lineage 1"):
        await agent.keeper.begin(agent.host, agent.store, RECORD.with_(number=2), lambda _: None)
    assert agent.member.lineage == 0 and not await agent.member.is_going_alone()


async def test_a_newer_lineage_that_was_heard_of_meanwhile_stays(etcd: Etcd, config: AgentConfig) -> None:
    agent = await without_majority(etcd, config)
    agent.keeper.known = LocalLineage(number=1, members=("h3",))
    with pytest.raises(ConflictError, match="lineage 1 has begun"):
        await begin(agent)
    assert agent.member.lineage == 0
    await agent.end()


async def test_an_old_member_that_was_left_running_is_ended(
    etcd: Etcd, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def told(*_: object) -> dict[str, int]:
        return {"h1": 1, "h3": 0}

    monkeypatch.setattr(lineage, "_lineages", told)
    await etcd.spawn(("etcd",))
    agent = Agent(etcd, config)
    await agent.keeper.ask_before_voting(lambda: None)  # type: ignore[arg-type]
    assert not agent.keeper.may_vote
    assert etcd.program and etcd.program.was_terminated


async def test_a_mark_of_an_earlier_version_cuts_nobody_off(etcd: Etcd, config: AgentConfig) -> None:
    (config.state_dir / "etcd-joined.json").write_text('{"joined": true, "alone": true}\n')
    agent = Agent(etcd, config)
    await agent.start()
    await until(lambda: etcd.starts)
    assert etcd.starts == [False]
    await agent.end()


def test_what_the_log_knows_to_be_decided(tmp_path: Path) -> None:
    folder = tmp_path / "member" / "wal"
    folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="no etcd log"):
        decided(tmp_path)
    (folder / "0.wal").write_bytes(state(3) + entry(4, b"a") + state(4) + entry(5, b"b"))
    assert decided(tmp_path) == 4
    (folder / "1.wal").write_bytes(state(4) + entry(6, b"c") + state(6) + bytes(64))
    assert decided(tmp_path) == 6
    (folder / "2.wal").write_bytes(state(9)[:-9])  # a file that was begun when the power went
    assert decided(tmp_path) == 6
