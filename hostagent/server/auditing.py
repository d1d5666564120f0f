"""Handlers of the audit log: reading it, and checking it against what every host remembers."""

from __future__ import annotations

import asyncio

from aiohttp import web

from hostagent.server.context import ServerContext
from hostagent.server.http import number
from vdc.api import models as wire
from vdc.model.audit import MOST_SEQ, AuditEntry, AuditHead, RememberedHead, parse_entry
from vdc.model.audit_chain import ChainCheck
from vdc.model.errors import UnavailableError, VdcError
from vdc.store import keys
from vdc.store.audit import EMPTY_PAGES, AuditLog

MOST, USUAL = 1_000, 100
_ATTEMPTS = 3
_PEER_S = 10.0


class AuditHandlers:
    """One method per route, named like it."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._log = AuditLog(context.host.store)

    async def list_audit(self, request: web.Request) -> wire.AuditPage:
        """See the route table."""
        query = request.query
        limit = number(query.get("limit", str(USUAL)), 1, MOST)
        who, object_ = query.get("who"), query.get("object")
        head = await self._log.end()
        if "since" in query:
            since = number(query["since"], 0, MOST_SEQ)
            return await self._from(max(1, since), head, limit, who, object_)
        return await self._newest(head, limit, who, object_)

    async def verify_audit(self, request: web.Request) -> wire.AuditVerdict:
        """See the route table. Reads all of it; what is appended meanwhile is left to the next time."""
        remembered, notes = await self._remembered()
        for _ in range(_ATTEMPTS):
            check = await self._check(remembered)
            if check is not None:
                break
        else:
            raise UnavailableError("the audit log is being trimmed", code="contention", hint="try again")
        for one in remembered:
            check.compare(one)
        if check.hidden:
            notes.append(f"{check.hidden} more places are damaged")
        return wire.AuditVerdict(
            is_intact=not check.damage, first=check.first, last=check.last, hash=check.end_hash,
            damage=tuple(check.damage), notes=(*check.notes, *notes), remembered=tuple(remembered),
        )  # fmt: skip

    async def peer_audit_head(self, request: web.Request) -> RememberedHead:
        """See the route table."""
        return self._context.audit.remembered

    # ---- reading

    async def _from(
        self, since: int, head: AuditHead, limit: int, who: str | None, object_: str | None
    ) -> wire.AuditPage:
        found: list[dict[str, object]] = []
        async for page in self._log.entries(since, head.seq):
            for seq, text in page:
                values = parse_entry(text)
                if values is not None and _matches(values, who, object_):
                    found.append(values)
                if len(found) == limit:
                    return wire.AuditPage(items=tuple(found), next=seq + 1)
        return wire.AuditPage(items=tuple(found), next=max(since, head.seq + 1))

    async def _newest(
        self, head: AuditHead, limit: int, who: str | None, object_: str | None
    ) -> wire.AuditPage:
        found: list[dict[str, object]] = []
        first = (await self._log.anchor()).seq // keys.AUDIT_PAGE
        for page in range(head.seq // keys.AUDIT_PAGE, first - 1, -1):
            for seq, text in reversed(await self._log.page(page)):
                values = parse_entry(text) if seq <= head.seq else None
                if values is not None and _matches(values, who, object_):
                    found.append(values)
            if len(found) >= limit:
                break
        return wire.AuditPage(items=tuple(reversed(found[:limit])), next=head.seq + 1)

    # ---- checking

    async def _check(self, remembered: list[RememberedHead]) -> ChainCheck | None:
        """All of the log; None where it was trimmed meanwhile."""
        anchor, head = await self._log.anchor(), await self._log.head()
        check = ChainCheck(anchor, lineage=self._context.host.lineage)
        check.want(remembered)
        if head is None or await self._is_set_back(head):
            pages = self._log.entries(anchor.seq + 1, most_empty=EMPTY_PAGES)
        else:
            pages = self._log.entries(anchor.seq + 1, head.seq)
        async for page in pages:
            for seq, text in page:
                check.take(seq, text)
        check.finish(head)
        return check if await self._log.anchor() == anchor else None

    async def _is_set_back(self, head: AuditHead) -> bool:
        behind = await self._context.host.store.get(keys.audit(head.seq + 1))
        return behind is not None and await self._log.head() == head

    async def _remembered(self) -> tuple[list[RememberedHead], list[str]]:
        """What each host remembers, and of which that is not known."""
        host = self._context.host
        others = sorted(set(host.mirror.hosts) - {host.name})
        found, notes = [self._context.audit.remembered], []

        async def ask(name: str) -> RememberedHead:
            async with asyncio.timeout(_PEER_S):
                return (await self._context.peer(name).peer_audit_head()).with_(host=name)

        answers = await asyncio.gather(*(ask(name) for name in others), return_exceptions=True)
        for name, answer in zip(others, answers, strict=True):
            if isinstance(answer, RememberedHead):
                found.append(answer)
            elif isinstance(answer, VdcError | TimeoutError):
                notes.append(f"{name} does not tell what it remembers: {str(answer) or 'it does not answer'}")
            else:
                raise answer
        return found, notes


def _matches(values: dict[str, object], who: str | None, object_: str | None) -> bool:
    entry = AuditEntry.model_validate(values)
    is_by = who is None or who in (entry.who, entry.who.rsplit("/", 1)[-1], entry.address)
    return is_by and object_ in (None, entry.object)
