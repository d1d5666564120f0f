"""The audit log in the store: appended to at its head, read by pages, trimmed at its beginning.

Its keys lie outside `/vdc/`, so that no agent's mirror carries a hundred thousand entries that it never looks at.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from vdc.model.audit import KEEP, MOST_SEQ, AuditAnchor, AuditEntry, AuditHead, Drained, parse_entry
from vdc.model.errors import UnavailableError
from vdc.store import keys
from vdc.store.protocol import Delete, Put, StateStore, Unchanged

BATCH = 100  # entries in a transaction: each is a compare and a write, and etcd takes 128 of both
_ATTEMPTS = 100
EMPTY_PAGES = 2  # behind these nothing is looked for, where the end is not known

Page = list[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Trimmed:
    """How many entries were removed, and when the last of them was asked for (RFC 3339; empty: unknown)."""

    count: int = 0
    last_at: str = ""


class AuditLog:
    """One per user of the log; keeps nothing but the store."""

    def __init__(self, store: StateStore, *, keep: int = KEEP) -> None:
        self._store = store
        self._keep = keep

    async def head(self) -> AuditHead | None:
        """The end of the chain as the store tells it; None where it is missing or cannot be read."""
        item = await self._store.get(keys.AUDIT_HEAD)
        return _head_of(item.value) if item else None

    async def end(self) -> AuditHead:
        """The same; where it is missing, what it has to be by the entries that are there."""
        return await self.head() or await self._found_head(None)

    async def anchor(self) -> AuditAnchor:
        """Where the log begins."""
        item = await self._store.get(keys.AUDIT_ANCHOR)
        try:
            return AuditAnchor.from_json(item.value) if item else AuditAnchor()
        except ValidationError:
            return AuditAnchor()

    async def append(self, entries: Sequence[AuditEntry], lineage: int) -> AuditHead:
        """Append entries of one host in the order of their numbers; one that is there already is left out.

        Raises UnavailableError: some may have been appended; the same call again goes on with the others.
        A head that is missing or set back hinders nothing: the chain goes on behind its last entry.
        """
        refused_at = -1
        for _ in range(_ATTEMPTS):
            item = await self._store.get(keys.AUDIT_HEAD)
            revision = item.mod_revision if item else 0
            head = _head_of(item.value) if item else None
            if (
                head is None or revision == refused_at
            ):  # nobody changed it, so that there is an entry behind it
                head = await self._found_head(head)
            left = [entry for entry in entries if not head.has(entry)]
            if not left:
                return head
            placed = _chained(left[:BATCH], head, lineage)
            after = head.after(placed[-1])
            compares = [
                Unchanged(keys.AUDIT_HEAD, revision),
                *(Unchanged(keys.audit(one.seq), 0) for one in placed),
            ]
            puts = [
                Put(keys.AUDIT_HEAD, after.to_json()),
                *(Put(keys.audit(one.seq), one.text) for one in placed),
            ]
            result = await self._store.commit(compares, puts)
            if result.succeeded and len(placed) == len(left):
                return after
            refused_at = -1 if result.succeeded else revision
        raise UnavailableError("the audit log's head changes all the time", code="contention")

    async def page(self, number: int) -> Page:
        """The entries of one page: `vdc.store.keys.AUDIT_PAGE` at most."""
        found: Page = []
        for item in (await self._store.list(keys.audit_page(number))).items:
            place = keys.last_part(item.key)
            if item.key == keys.audit(int(place) if place.isascii() and place.isdigit() else 0):
                found.append((int(place), item.value))
        return found

    async def entries(
        self, first: int, last: int = MOST_SEQ, *, most_empty: int = 2 * KEEP // keys.AUDIT_PAGE
    ) -> AsyncIterator[Page]:
        """The entries from `first` to `last`, page by page; not those behind `most_empty` pages without any."""
        number, empty = first // keys.AUDIT_PAGE, 0
        while number * keys.AUDIT_PAGE <= last and empty < most_empty:
            found = [(seq, text) for seq, text in await self.page(number) if first <= seq <= last]
            number, empty = number + 1, 0 if found else empty + 1
            if found:
                yield found

    async def trim(self) -> Trimmed:
        """Remove whole pages at the beginning, as long as `keep` entries are left."""
        trimmed = Trimmed()
        while True:
            head, item = await self.head(), await self._store.get(keys.AUDIT_ANCHOR)
            anchor = await self.anchor()
            number = (anchor.seq + 1) // keys.AUDIT_PAGE
            last = (number + 1) * keys.AUDIT_PAGE - 1
            if head is None or head.seq - last < self._keep:
                return trimmed
            page = await self.page(number)
            values = parse_entry(page[-1][1]) if page and page[-1][0] == last else None
            after = AuditAnchor(seq=last, hash=values["hash"] if values else "")
            committed = await self._store.commit(
                [Unchanged(keys.AUDIT_ANCHOR, item.mod_revision if item else 0)],
                [Put(keys.AUDIT_ANCHOR, after.to_json()), Delete(keys.audit_page(number), is_prefix=True)],
            )
            if committed.succeeded:
                trimmed = Trimmed(trimmed.count + len(page), values["at"] if values else trimmed.last_at)

    async def _found_head(self, known: AuditHead | None) -> AuditHead:
        """What the head has to be by the entries that are there."""
        head = known or AuditHead(**(await self.anchor()).model_dump())
        async for page in self.entries(head.seq + 1, most_empty=EMPTY_PAGES):
            for seq, text in page:
                values = parse_entry(text)
                if values is None:
                    head = head.with_(seq=seq)
                    continue
                entry = AuditEntry.model_validate(values)
                drained = dict(head.drained)
                if entry.spool and not head.has(entry):
                    drained[entry.host] = Drained(spool=entry.spool, number=entry.number)
                head = head.with_(seq=seq, hash=entry.hash, lineage=entry.lineage, drained=drained)
        return head


def _head_of(text: str) -> AuditHead | None:
    try:
        return AuditHead.from_json(text)
    except ValidationError:
        return None


def _chained(entries: Sequence[AuditEntry], head: AuditHead, lineage: int) -> list[AuditEntry]:
    """The entries behind the head. A lineage never falls: an agent may not have heard of the newest yet."""
    placed: list[AuditEntry] = []
    seq, prev, lineage = head.seq, head.hash, max(lineage, head.lineage)
    for entry in entries:
        placed.append(entry.sealed(seq + 1, prev, lineage))
        seq, prev = seq + 1, placed[-1].hash
    return placed
