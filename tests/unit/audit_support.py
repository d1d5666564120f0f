"""Entries of the audit log, chained, for tests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from etcd_support import CONFIG
from protection_world import host

from hostagent.config import AgentConfig
from hostagent.server.audit import Audit
from hostagent.server.context import ServerContext
from hostagent.supervisor.node import NodeContext
from vdc.control.clock import SystemClock
from vdc.control.desired import DesiredState
from vdc.control.events import EventLog
from vdc.control.maintenance import MaintenanceWishes
from vdc.images.blobs import BlobStore
from vdc.images.reference import candidates
from vdc.model.audit import AuditAnchor, AuditEntry, AuditHead, RememberedHead
from vdc.model.audit_chain import ChainCheck
from vdc.model.errors import NotFoundError
from vdc.store.memory import MemoryStore
from vdc.store.mirror import Mirror

ALICE = "vdc://0123456789ab/operator/alice"


def asked(number: int = 1, **fields: Any) -> AuditEntry:
    values = {
        "id": f"{number:016x}", "at": "2030-01-01T00:00:00.000000Z", "host": "h1", "spool": "s", "number": number,
        "who": ALICE, "address": "10.0.0.9", "what": "promote_endophyte", "object": "web", "result": "ok",
    }  # fmt: skip
    return AuditEntry.model_validate({**values, **fields})


class Chain:
    """A whole log of so many entries, to be damaged."""

    def __init__(self, count: int, *, first: int = 1, lineages: tuple[int, ...] = ()) -> None:
        self.anchor = AuditAnchor() if first == 1 else AuditAnchor(seq=first - 1, hash="a" * 64)
        self.head = AuditHead(**self.anchor.model_dump())
        self.entries: dict[int, AuditEntry] = {}
        for place in range(count):
            lineage = lineages[place] if lineages else 0
            sealed = asked(place + 1).sealed(self.head.seq + 1, self.head.hash, lineage)
            self.entries[sealed.seq] = sealed
            self.head = self.head.after(sealed)
        self.texts = {seq: entry.text for seq, entry in self.entries.items()}

    def remembered(self, host: str, seq: int, **fields: Any) -> RememberedHead:
        entry = self.entries[seq]
        return RememberedHead(host=host, seq=seq, hash=entry.hash, lineage=entry.lineage).with_(**fields)

    def change(self, seq: int, **fields: Any) -> None:
        """Without its hash, as somebody does who does not know of it."""
        self.texts[seq] = self.entries[seq].with_(**fields).text

    def forge(self, seq: int, **fields: Any) -> None:
        """With its hash."""
        old = self.entries[seq]
        self.texts[seq] = old.with_(**fields).sealed(seq, old.prev, old.lineage).text

    def rewrite(self, seq: int, **fields: Any) -> None:
        """With its hash, and all that follow made anew, and the head."""
        prev = self.entries[seq].prev
        for place in range(seq, max(self.texts) + 1):
            old = self.entries[place].with_(**(fields if place == seq else {}))
            new = old.sealed(place, prev, old.lineage)
            self.texts[place], prev = new.text, new.hash
            self.head = self.head.after(new)

    def check(
        self, *remembered: RememberedHead, lineage: int | None = None, keep: int = 0
    ) -> tuple[list[str], list[str]]:
        """(sentences of damage, notes)."""
        found = ChainCheck(self.anchor, lineage=lineage)
        found.want(remembered)
        for seq in sorted(self.texts):
            found.take(seq, self.texts[seq])
        found.finish(self.head, keep=keep)
        for one in remembered:
            found.compare(one)
        return [one.sentence for one in found.damage], found.notes


class Deaf:
    """Heartbeats of a host without peers."""

    def silent_ms(self, peer: str, network: str) -> float:
        return 0.0

    def is_silent(self, peer: str) -> bool:
        return False


class Nowhere:
    """A host without copies."""

    def find(self, name: str) -> Any:
        raise NotFoundError(f"no copy of {name}", code="no-copy")

    async def follow(self, name: str, epoch: int) -> None:
        return


def node(folder: Path, store: MemoryStore, name: str = "h2") -> NodeContext:
    """What an agent has, without its etcd."""
    config = AgentConfig.model_validate({**CONFIG, "host": name})
    config = config.model_copy(update={"state_dir": folder / name})
    config.state_dir.mkdir()
    clock = SystemClock()
    made = NodeContext(
        config=config, record=host(name), store=store, mirror=Mirror(store, report=print),
        events=EventLog(store, name, clock), clock=clock, heartbeats=Deaf(),  # type: ignore[arg-type]
        store_heard_at_s=clock.boottime_s(),
    )  # fmt: skip
    return made


def context_of(made: NodeContext, audit: Audit) -> ServerContext:
    """What its handlers have."""
    nothing: Any = None

    async def none() -> tuple[Any, ...]:
        return ()

    desired = DesiredState(made.store, made.mirror, made.clock, candidates)
    return ServerContext(
        host=made, desired=desired, maintenance=MaintenanceWishes(made.store, made.mirror, made.clock, desired),
        supervisors=Nowhere(), blobs=BlobStore(made.image_dir), sessions=nothing, members=none, checks=none,
        override=SimpleNamespace(doing=""), audit=audit, sweep_images=nothing,
        issuer=SimpleNamespace(identities=nothing, keyring=SimpleNamespace(folder=made.config.state_dir)),
    )  # type: ignore[arg-type]  # fmt: skip
