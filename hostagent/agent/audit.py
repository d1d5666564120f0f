"""Brings this host's spool into the audit log, and remembers the log's end.

Each host remembers the end on its own disk, and takes over a newer one only if that continues what it remembers: who
rewrites the log in the store does not reach that. Where it does not, the cluster is told once, and the host
goes on remembering what it has seen.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from hostagent.agent.running import agent_runs
from hostagent.config import AgentConfig
from hostagent.drivers.audit.spool import Spool
from hostagent.drivers.process import in_thread, write_atomically
from hostagent.server.audit import Audit
from hostagent.supervisor.node import NodeContext
from vdc.control.clock import SystemClock
from vdc.model.audit import OK, UNKNOWN, AuditAnchor, AuditEntry, AuditHead, RememberedHead
from vdc.model.audit_chain import ChainCheck, Damage, DamageKind
from vdc.model.errors import UnavailableError, VdcError
from vdc.store import keys
from vdc.store.audit import BATCH, AuditLog
from vdc.store.mirror import lineage_of

FOLDER = "audit"
HEAD_FILE = "head.json"
COMMAND = "hostagent"  # the address of who sits at the host
EVERY_S = 1.0
RETRY_S = 1.0
FOLLOW_EVERY_S = 10.0
DAMAGED_S = 600.0  # until a log that is damaged is looked at again


def open_audit(host: NodeContext) -> Audit:
    """What the API writes to. Blocks for a moment: before the agent serves."""
    folder = host.config.state_dir / FOLDER
    spool = Spool(folder, host.name)
    spool.load()
    audit = Audit(spool, host)
    audit.remembered = _load(folder / HEAD_FILE, host.name)
    return audit


class AuditKeeper:
    """One per agent."""

    def __init__(self, host: NodeContext, audit: Audit) -> None:
        self._host = host
        self._audit = audit
        self._spool = audit.spool
        self._log = AuditLog(host.store)
        self._path = host.config.state_dir / FOLDER / HEAD_FILE
        self._follow_at_s = 0.0
        self._told = ""

    async def run(self) -> None:
        """For ever; survives any time without the store. What waits when it ends is on the disk."""
        try:
            while True:
                self._audit.sum_up()
                try:
                    await self._pass()
                except UnavailableError:
                    await asyncio.sleep(RETRY_S)
                except Exception as error:  # this task's boundary: the acts of others have to be written
                    self._host.log.exception("defect in keeping the audit log", why=repr(error))
                    await asyncio.sleep(RETRY_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(EVERY_S):
                        await self._spool.changed.wait()
        finally:
            await self._audit.close()

    async def _pass(self) -> None:
        if self._spool.changed.is_set():
            await self.drain()
            self._follow_at_s = min(self._follow_at_s, self._host.clock.boottime_s() + EVERY_S)
        if self._host.clock.boottime_s() >= self._follow_at_s:
            self._follow_at_s = self._host.clock.boottime_s() + FOLLOW_EVERY_S
            await self.follow()

    async def drain(self) -> None:
        """Append all that waits. Raises UnavailableError."""
        await self._spool.flush()  # what is in the log must not be found again, as unknown, after a crash
        self._spool.appended(await self._log.end())
        while batch := self._spool.waiting(BATCH):
            self._spool.appended(await self._log.append(batch, self._host.lineage))

    async def follow(self) -> None:
        """Remember the present end of the log, if it continues what is remembered. Raises UnavailableError."""
        if await self._stands_down_soon():
            return
        head, known = await self._log.head(), self._audit.remembered
        if head is None and not known.seq:
            return
        if head is not None and (not known.seq or await self._is_cut(head, known)):
            await self._remember(head)  # a new host has nothing to compare with
            return
        if head is not None and head.lineage == known.lineage < self._host.lineage and head.seq < known.seq:
            return  # nothing was appended yet since a member went on alone
        damage = await self._damage(head, known)
        if damage is None and head is not None:
            if head.seq > known.seq:
                await self._remember(head)
        elif damage is not None:
            self._follow_at_s = self._host.clock.boottime_s() + DAMAGED_S
            await self._tell(damage)

    async def _stands_down_soon(self) -> bool:
        """Whether the store tells of a newer lineage than this agent acts under: it has just come back."""
        recorded = await self._host.store.get(keys.LINEAGE)
        return recorded is not None and lineage_of(recorded).number > self._host.lineage

    async def _damage(self, head: AuditHead | None, known: RememberedHead) -> Damage | None:
        """What is wrong from the remembered entry on."""
        if head is None:
            return Damage(kind=DamageKind.HEAD, seq=known.seq, sentence="the head of the log is missing")
        if head.seq < known.seq:
            check = ChainCheck(AuditAnchor(seq=head.seq, hash=head.hash))
            check.compare(known)
            return check.damage[0]
        anchor = await self._log.anchor()
        begin = anchor if anchor.seq > known.seq else AuditAnchor(seq=known.seq, hash=known.hash)
        check = ChainCheck(begin, lineage=self._host.lineage)
        async for page in self._log.entries(begin.seq + 1, head.seq):
            for seq, text in page:
                check.take(seq, text)
        check.finish(head, keep=0)
        return check.damage[0] if check.damage else None

    async def _is_cut(self, head: AuditHead, known: RememberedHead) -> bool:
        """Whether a newer lineage, which is in force, began before the remembered entry."""
        if not known.lineage < head.lineage <= self._host.lineage:
            return False
        async for page in self._log.entries(known.seq, known.seq):
            return f'"hash":"{known.hash}"' not in page[0][1]
        return head.seq < known.seq

    async def _remember(self, head: AuditHead) -> None:
        known = RememberedHead(host=self._host.name, seq=head.seq, hash=head.hash, lineage=head.lineage)
        if known == self._audit.remembered:
            return
        self._audit.remembered = known
        self._told = ""
        try:
            await in_thread(write_atomically, self._path, known.to_json())
        except OSError as error:
            self._host.log.warning("the audit log's end could not be written down", why=error.strerror)

    async def _tell(self, damage: Damage) -> None:
        if self._told != damage.sentence:
            self._told = damage.sentence
            await self._host.tell_of_node(
                "audit-damaged",
                f"the audit log is not what was written: {damage.sentence}; see vdc audit verify",
            )


@asynccontextmanager
async def written_down(config: AgentConfig, what: str, by: str) -> AsyncIterator[None]:
    """What is done with a command on this host while its agent does not run: the next agent brings it into the log."""
    if agent_runs(config):  # the spool is its, and the command is refused
        yield
        return
    spool = Spool(config.state_dir / FOLDER, config.host)
    spool.load()
    entry = AuditEntry(
        id=uuid.uuid4().hex[:16], at=SystemClock().wall(), host=config.host, who=by, address=COMMAND, what=what,
        object=config.host,
    )  # fmt: skip
    await spool.begin(entry)
    result = UNKNOWN
    try:
        yield
        result = OK
    except VdcError as error:
        result = error.code
        raise
    finally:
        spool.end(entry.with_(result=result))
        await spool.flush()


def _load(path: Path, host: str) -> RememberedHead:
    try:
        return RememberedHead.from_json(path.read_bytes()).with_(host=host)
    except (OSError, ValidationError):
        return RememberedHead(host=host)
