"""`hostagent go-on-alone` and `hostagent rejoin`: what an operator may do about this host's etcd member.

The agent does not run meanwhile; it goes on from what is left on the disk, also where a command was interrupted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from hostagent.agent.audit import written_down
from hostagent.agent.credentials import open_keyring
from hostagent.agent.lineage import FOUND, LocalLineage, begun, record_lineage, save, taken_over
from hostagent.agent.running import agent_runs
from hostagent.config import AgentConfig
from hostagent.drivers.etcd import EmbeddedMember
from hostagent.drivers.process import User
from hostagent.drivers.trust import Trust
from hostagent.server.undecided import asked_for, may_be_granted
from vdc.model.errors import ConflictError, RefusedError, VdcError
from vdc.model.lineage import Lineage
from vdc.security.folder import pki_folder
from vdc.store import keys
from vdc.store.etcd import EtcdStore
from vdc.store.protocol import StoreUnavailableError

ALONE_S = 20.0
ASK_STORE_S = 2.0


async def go_on_alone(config: AgentConfig, by: str) -> str:
    """As `vdc promote replica --force` begins a lineage, for a host whose agent has seen no records since it
    started, and is stopped now. Raises VdcError; ConflictError while the agent runs.

    Nobody is promoted by this: afterwards the agent can read the records, and forcing a promotion is possible.
    Repeatable: a command that was interrupted is carried on, by the next one or by the agent.
    """
    embedded = config.etcd.embedded
    if embedded is None:
        raise RefusedError("this host runs no etcd member of its own", code="etcd-external")
    if agent_runs(config):
        raise ConflictError(
            "the agent runs", code="agent-runs", hint="stop it first, or: vdc promote replica --force"
        )
    trust = _trust(config)
    member = EmbeddedMember(
        config.host, embedded, state_dir=config.state_dir, runtime=config.runtime,
        user=User(config.guest_uids.etcd), trust=trust,
    )  # fmt: skip
    member.check_data()
    store = EtcdStore([member.endpoint], ssl=trust.client)
    try:
        async with written_down(config, "go-on-alone", by):
            known = await _decide(config, member, store, by)
            async with _running(member):
                await member.wait_healthy(ALONE_S)
                known = await _record(config, store, known)
    finally:
        await store.close()
    return f"{config.host} goes on alone under lineage {known.number}; start its agent"


def _trust(config: AgentConfig) -> Trust:
    return Trust(open_keyring(pki_folder(config.state_dir), datetime.now(UTC)))


async def _decide(config: AgentConfig, member: EmbeddedMember, store: EtcdStore, by: str) -> LocalLineage:
    """What begins: it was decided before, or is now."""
    known = await taken_over(config, member)
    if not known.left_out and await member.is_going_alone():
        return known
    with suppress(StoreUnavailableError):
        recorded = await _recorded(store)
        if known.began_on(config.host) and recorded.number < known.number:
            return known
        raise ConflictError(
            "a majority of the etcd members answers: there is nothing to decide", code="majority-answers",
            hint="start the agent",
        )  # fmt: skip
    following = begun(config, known.number + 1, by=by, reason="hostagent go-on-alone")
    try:
        await member.go_on_alone(
            lambda folder: _check_undecided(folder, config.host), following.number,
            lambda: save(config.state_dir, following),
        )  # fmt: skip
    except VdcError:
        if not known.left_out:
            async with _running(member):  # as it was
                await member.running()
        raise
    return following


async def _record(config: AgentConfig, store: EtcdStore, known: LocalLineage) -> LocalLineage:
    """Store the record of the lineage that has begun here."""
    before = await _recorded(store)
    if before.number > known.number or (before.number == known.number and before.host != config.host):
        known = begun(config, before.number + 1, reason=FOUND)  # what was remembered here had been lost
        await save(config.state_dir, known)
    await record_lineage(store, known.begun or Lineage(number=known.number, host=config.host, reason=FOUND))
    return known


async def _recorded(store: EtcdStore) -> Lineage:
    present = await store.get(keys.LINEAGE, deadline_s=ASK_STORE_S)
    return Lineage.from_json(present.value) if present else Lineage()


@asynccontextmanager
async def _running(member: EmbeddedMember) -> AsyncIterator[None]:
    """Its process is taken over or started, and outlives this."""
    running = asyncio.create_task(member.run(), name="etcd")
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _check_undecided(data_dir: Path, me: str) -> None:
    for found in asked_for(data_dir):
        if found.primary != me:
            raise may_be_granted(found)


async def rejoin(config: AgentConfig, replaces: str = "") -> str:
    """Give this host's member up and announce a new one; what was done as a sentence. Raises VdcError.

    Data of an older lineage is put aside (`etcd.old`); any other data is refused.
    """
    if config.etcd.embedded is None:
        raise RefusedError(
            "this host runs no etcd member of its own", code="etcd-external",
            hint="etcd.endpoints names another cluster's",
        )  # fmt: skip
    member = EmbeddedMember(
        config.host, config.etcd.embedded, state_dir=config.state_dir, runtime=config.runtime,
        user=User(config.guest_uids.etcd), trust=_trust(config),
    )  # fmt: skip
    known = await taken_over(config, member)
    is_given_up = known.number == member.lineage and await member.is_going_alone()
    await member.rejoin(replaces=replaces, discard=known.left_out)
    if known.left_out:
        await save(config.state_dir, known.with_(left_out=False))
    elif is_given_up:  # its data is gone, so the lineage that was decided here can never begin
        await save(config.state_dir, LocalLineage(number=known.number - 1))
    return f"{config.host} joins as a new etcd member when its agent starts"
