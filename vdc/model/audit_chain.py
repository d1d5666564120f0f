"""Is the audit log whole? Every kind of damage with its exact sentence. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from vdc.model.audit import (
    KEEP,
    AuditAnchor,
    AuditHead,
    RememberedHead,
    canonical,
    hash_of,
    parse_entry,
)
from vdc.model.base import Record

MOST = 20  # damages that are told one by one


class DamageKind(StrEnum):
    """What was done to the log."""

    UNREADABLE = "unreadable"
    CHANGED = "changed"
    REPLACED = "replaced"  # two neighbours do not belong together
    MISSING = "missing"
    REORDERED = "reordered"
    CUT_AT_BEGINNING = "cut-at-beginning"
    CUT_AT_END = "cut-at-end"
    HEAD = "head"
    REWRITTEN = "rewritten"  # the chain holds, and a host remembers another one


class Damage(Record):
    """One place where the log is not what was written."""

    kind: DamageKind
    seq: int
    sentence: str


class ChainCheck:
    """Takes the entries one after the other; `finish` and `compare` when all are taken."""

    def __init__(self, anchor: AuditAnchor | None, *, lineage: int | None = None) -> None:
        """`anchor` None: begin with whatever comes first. `lineage`: the one in force, where it is known."""
        self.damage: list[Damage] = []
        self.notes: list[str] = []
        self.first = 0
        self.last = anchor.seq if anchor else 0
        self._anchor = anchor
        self._hash: str | None = anchor.hash if anchor else None  # None: what comes before is not known
        self._lineage = lineage
        self._lineages: dict[int, int] = {}  # the first entry of each
        self._wanted: dict[int, str | None] = {}
        self.count = 0
        self.hidden = 0

    def want(self, heads: Iterable[RememberedHead]) -> None:
        """Note the hashes that these are to be compared with."""
        self._wanted.update((one.seq, None) for one in heads)

    def take(self, place: int, text: str) -> None:
        """The entry that stands at `place`."""
        before, self.last = self.last, place
        self.count += 1
        known, self._hash = self._hash, None
        if place != before + 1:
            known = None
        if not self.first:
            self.first = place
            self._check_beginning(place)
        elif place != before + 1:
            missing = _entries(before + 1, place - 1)
            self._tell(DamageKind.MISSING, before + 1, f"{missing} missing")
        values = parse_entry(text)
        if values is None:
            self._tell(DamageKind.UNREADABLE, place, f"entry {place} cannot be read")
            return
        if values["seq"] != place:
            self._tell(
                DamageKind.REORDERED, place, f"entry {values['seq']} stands in the place of entry {place}"
            )
            return
        if values["hash"] != hash_of(values) or text != canonical(values):
            self._tell(
                DamageKind.CHANGED, place, f"entry {place} was changed: its content does not match its hash"
            )
        if known is not None and values["prev"] != known:
            self._tell_replaced(place)
        self._take_lineage(place, values["lineage"])
        self._hash = values["hash"]
        if place in self._wanted:
            self._wanted[place] = self._hash

    def finish(self, head: AuditHead | None, *, keep: int = KEEP) -> None:
        """All entries were taken: is this the end that the head tells of, and is enough left?"""
        last = self.last
        if head is None:
            if self.first:
                self._tell(DamageKind.HEAD, last, "the head of the log is missing")
            return
        if head.seq > last:
            missing = _entries(last + 1, head.seq)
            self._tell(
                DamageKind.CUT_AT_END, last + 1,
                f"the log ends with entry {last} and its head is entry {head.seq}: {missing} missing at its end",
            )  # fmt: skip
        elif head.seq < last:
            self._tell(
                DamageKind.HEAD, head.seq,
                f"the head is entry {head.seq}, and there are entries up to {last}: the head was set back",
            )  # fmt: skip
        elif self._hash is not None and head.hash != self._hash:
            self._tell(
                DamageKind.HEAD,
                last,
                f"the head does not match entry {last}: one of the two was replaced",
            )
        trimmed = self._anchor.seq if self._anchor else 0
        if trimmed and head.seq - trimmed < keep:
            self._tell(
                DamageKind.CUT_AT_BEGINNING, trimmed,
                f"only {head.seq - trimmed} entries are left, and the newest {keep} are never trimmed: "
                "the log was cut at its beginning",
            )  # fmt: skip

    def compare(self, head: RememberedHead) -> None:
        """With the end of the log that a host remembers; `want` was told of it."""
        seq, host = head.seq, head.host
        anchor = self._anchor or AuditAnchor()
        if seq < anchor.seq:
            self.notes.append(
                f"{host} remembers entry {seq}, which was trimmed since: it has been away for long"
            )
            return
        present = anchor.hash if seq == anchor.seq else self._wanted.get(seq)
        if seq <= self.last and present in (head.hash, None):
            return  # where the entry is missing or cannot be read, that was told
        if self._was_cut(head):
            self.notes.append(
                f"{host} remembers entry {seq} of lineage {head.lineage}, whose end a newer lineage does not have"
            )
        elif seq > self.last:
            self._tell(
                DamageKind.REWRITTEN, seq,
                f"{host} remembers entry {seq}, and the log ends with entry {self.last}: "
                "its end was cut off and its head set back",
            )  # fmt: skip
        else:
            self._tell(
                DamageKind.REWRITTEN, seq,
                f"{host} remembers another entry {seq} than there is: the log was rewritten there or before",
            )  # fmt: skip

    @property
    def end_hash(self) -> str:
        """The hash of the last entry; empty where it cannot be known."""
        return self._hash or ""

    # ---- helpers

    def _check_beginning(self, place: int) -> None:
        if self._anchor is None:
            return
        trimmed = self._anchor.seq
        if place > trimmed + 1:
            what = (
                f"though it was trimmed up to entry {trimmed} only" if trimmed else "and nothing was trimmed"
            )
            self._tell(
                DamageKind.CUT_AT_BEGINNING, trimmed + 1,
                f"the log begins with entry {place}, {what}: {_entries(trimmed + 1, place - 1)} "
                "missing at its beginning",
            )  # fmt: skip
        elif place <= trimmed:
            self._tell(
                DamageKind.CUT_AT_BEGINNING, place,
                f"entry {place} is there, and the log says that it was trimmed up to entry {trimmed}",
            )  # fmt: skip

    def _tell_replaced(self, place: int) -> None:
        if place == self.first and self._anchor is not None:
            what = f"what was trimmed up to entry {place - 1}" if place > 1 else "the beginning of a log"
            sentence = f"entry {place} does not follow {what}: one of the two was replaced"
        else:
            sentence = f"entry {place} does not follow entry {place - 1}: one of the two was replaced"
        self._tell(DamageKind.REPLACED, place, sentence)

    def _take_lineage(self, place: int, lineage: int) -> None:
        self._lineages.setdefault(lineage, place)
        if self._lineage is not None and lineage > self._lineage:
            self._tell(
                DamageKind.REPLACED, place,
                f"entry {place} claims lineage {lineage}, and lineage {self._lineage} is in force",
            )  # fmt: skip

    def _was_cut(self, head: RememberedHead) -> bool:
        """Whether a human's decision to go on with one member's data explains that its end is not there."""
        newer = [seq for lineage, seq in self._lineages.items() if lineage > head.lineage]
        if newer:
            return min(newer) <= head.seq
        return head.seq > self.last and (self._lineage or 0) > head.lineage

    def _tell(self, kind: DamageKind, seq: int, sentence: str) -> None:
        if len(self.damage) < MOST:
            self.damage.append(Damage(kind=kind, seq=seq, sentence=sentence))
        else:
            self.hidden += 1


def check_export(lines: Iterable[str]) -> ChainCheck:
    """Check what `vdc audit export` wrote: from its first entry on, without a head to compare with."""
    found: dict[int, str] = {}
    check = ChainCheck(None)
    disorder: list[Damage] = []
    before = 0
    for number, line in enumerate(lines, 1):
        values = parse_entry(line)
        if values is None:
            sentence = f"line {number} is no entry of an audit log"
            disorder.append(Damage(kind=DamageKind.UNREADABLE, seq=before, sentence=sentence))
            continue
        seq = values["seq"]
        if seq in found:
            sentence = f"entry {seq} is there twice"
            disorder.append(Damage(kind=DamageKind.REORDERED, seq=seq, sentence=sentence))
            continue
        if seq < before:
            sentence = f"entry {seq} stands after entry {before}"
            disorder.append(Damage(kind=DamageKind.REORDERED, seq=seq, sentence=sentence))
        found[seq], before = line, seq
    for seq in sorted(found):
        check.take(seq, found[seq])
    check.damage[:0] = disorder[:MOST]
    check.hidden += max(0, len(disorder) - MOST)
    return check


def _entries(first: int, last: int) -> str:
    return f"entry {first} is" if last <= first else f"entries {first} to {last} are"
