"""A local copy of the cluster's records, kept current by one watch and repaired by periodic full reads.

It is for looking, never for deciding: whoever acts on what it shows commits with a compare on the version
(`Versioned.revision`) that it looked at. A record that cannot be parsed is reported and stands in `unreadable`:
it is neither absent nor what it was before, and nothing may be done about what it describes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import ValidationError

from vdc.model.base import Record
from vdc.model.credentials import Authorities, IssuedCertificate, Trust, User
from vdc.model.endophyte import Endophyte, Observed
from vdc.model.host import Host
from vdc.model.image import ImageEntry
from vdc.model.lineage import Lineage
from vdc.model.maintenance import Maintenance
from vdc.model.network import Network
from vdc.model.pair import Pair
from vdc.model.snapshot import Snapshot
from vdc.store import keys
from vdc.store.protocol import (
    Change,
    ChangeKind,
    KeyValue,
    Listing,
    StateStore,
    StoreUnavailableError,
)

T = TypeVar("T", bound=Record)
FULL_READ_EVERY_S = 60.0
RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class Versioned(Generic[T]):
    """A record with the revision to compare against when it is changed."""

    value: T
    revision: int


_PARSED: dict[str, type[Record]] = {
    keys.HOSTS: Host,
    keys.ENDOPHYTES: Endophyte,
    keys.PAIRS: Pair,
    keys.OBSERVED: Observed,
    keys.NETWORKS: Network,
    keys.IMAGES: ImageEntry,
    keys.SNAPSHOTS: Snapshot,
    keys.MAINTENANCE: Maintenance,
    keys.USERS: User,
    keys.CERTIFICATES: IssuedCertificate,
    keys.TRUST: Trust,
    keys.AUTHORITIES: Authorities,
}
_PLAIN = (keys.LIVENESS, keys.IMAGE_NAMES, keys.LEADER, keys.DELETED, keys.REVOKED, keys.MACHINES)

Listener = Callable[[str], None]


class Mirror:
    """The cluster as this process last saw it. Dictionaries are keyed by what follows the prefix in the key."""

    def __init__(self, store: StateStore, *, report: Callable[[str], None]) -> None:
        self._store = store
        self._report = report
        self._listeners: list[Listener] = []
        self._tables: dict[str, dict[str, Versioned[Record]]] = {prefix: {} for prefix in _PARSED}
        self._texts: dict[str, dict[str, str]] = {prefix: {} for prefix in _PLAIN}
        self._hosts: dict[str, Versioned[Host]] | None = None  # as shown; made when asked for
        self.revision = 0
        self.synced = asyncio.Event()
        self.unreadable: set[str] = set()  # keys whose value is there and cannot be parsed
        self.lineage = Lineage()
        self.silent: frozenset[str] = frozenset()  # not heard while the store is lost: its leases say nothing
        self.unstored: dict[str, Observed] = {}  # what this process could not store yet, by "NAME/HOST"
        self._least_lineage = 0
        self._reads_asked = 0
        self._reads_done = 0  # the newest asking that a whole read has begun after
        self._following: asyncio.Timeout | None = None

    # ---- what is known

    def _table(self, prefix: str, _type: type[T]) -> dict[str, Versioned[T]]:
        return self._tables[prefix]  # type: ignore[return-value]

    @property
    def hosts(self) -> dict[str, Versioned[Host]]:
        """Inventory by host name; a drained host is shown as not schedulable."""
        if self._hosts is None:
            self._hosts = {
                name: Versioned(found.value.with_(schedulable=False), found.revision)
                if name in self.drained
                else found
                for name, found in self._table(keys.HOSTS, Host).items()
            }
        return self._hosts

    @property
    def maintenance(self) -> dict[str, Versioned[Maintenance]]:
        """Wishes to drain, by host name."""
        return self._table(keys.MAINTENANCE, Maintenance)

    @property
    def drained(self) -> frozenset[str]:
        """Hosts that are drained; one whose wish cannot be read counts."""
        unreadable = {key for key in self.unreadable if key.startswith(keys.MAINTENANCE)}
        return frozenset({*self.maintenance, *(keys.last_part(key) for key in unreadable)})

    @property
    def endophytes(self) -> dict[str, Versioned[Endophyte]]:
        """Desired state by name."""
        return self._table(keys.ENDOPHYTES, Endophyte)

    @property
    def pairs(self) -> dict[str, Versioned[Pair]]:
        """Arbitration records by name."""
        return self._table(keys.PAIRS, Pair)

    @property
    def networks(self) -> dict[str, Versioned[Network]]:
        """Overlays by name."""
        return self._table(keys.NETWORKS, Network)

    @property
    def images(self) -> dict[str, Versioned[ImageEntry]]:
        """Images by digest."""
        return self._table(keys.IMAGES, ImageEntry)

    @property
    def snapshots(self) -> dict[str, Versioned[Snapshot]]:
        """Snapshots by `VM/NAME`."""
        return self._table(keys.SNAPSHOTS, Snapshot)

    @property
    def image_names(self) -> dict[str, str]:
        """Digest by reference."""
        return self._texts[keys.IMAGE_NAMES]

    @property
    def deleted(self) -> dict[str, str]:
        """When VMs were deleted, by uid: of the newest some thousands."""
        return self._texts[keys.DELETED]

    @property
    def users(self) -> dict[str, Versioned[User]]:
        """Persons by name."""
        return self._table(keys.USERS, User)

    @property
    def certificates(self) -> dict[str, Versioned[IssuedCertificate]]:
        """Certificates that were issued, by serial number."""
        return self._table(keys.CERTIFICATES, IssuedCertificate)

    @property
    def revoked(self) -> AbstractSet[str]:
        """Serial numbers that count no more; one whose record cannot be read is among them."""
        return self._texts[keys.REVOKED].keys()

    @property
    def revocations(self) -> dict[str, str]:
        """The records (JSON) behind `revoked`."""
        return self._texts[keys.REVOKED]

    @property
    def authorities(self) -> Versioned[Authorities] | None:
        """Whom to trust, as the store says; `vdc.security.authorities.verify` says whether to believe it."""
        return self._table(keys.AUTHORITIES, Authorities).get("")

    @property
    def trust(self) -> dict[str, tuple[str, ...]]:
        """Fingerprints of the authorities that each host uses by now."""
        return {name: found.value.fingerprints for name, found in self._table(keys.TRUST, Trust).items()}

    def is_orphan(self, name: str, uid: str) -> bool:
        """Whether a copy has no record at all: neither a VM of its name, nor that this one was deleted."""
        is_unknown = self.pair(name) is None and self.endophyte(name) is None
        return bool(uid) and is_unknown and uid not in self.deleted

    def orphans(self) -> tuple[Observed, ...]:
        """Copies that hosts have of VMs that have no record."""
        shown = [found.value for found in self._table(keys.OBSERVED, Observed).values()]
        return tuple(copy for copy in shown if self.is_orphan(copy.name, copy.uid))

    @property
    def alive(self) -> frozenset[str]:
        """Hosts whose agent renews its lease."""
        return frozenset(self._texts[keys.LIVENESS]) - self.silent

    @property
    def leader(self) -> str | None:
        """The host whose agent leads."""
        return self._texts[keys.LEADER].get("")

    def observed(self, name: str, host: str) -> Observed | None:
        """What `host` says of its copy of `name`."""
        found = self._table(keys.OBSERVED, Observed).get(f"{name}/{host}")
        return self.unstored.get(f"{name}/{host}") or (found.value if found else None)

    def copies(self, name: str) -> tuple[Observed, ...]:
        """What all hosts say of their copies of `name`."""
        stored = {key: entry.value for key, entry in self._table(keys.OBSERVED, Observed).items()}
        shown = stored | self.unstored
        return tuple(value for key, value in shown.items() if key.startswith(f"{name}/"))

    def pair(self, name: str) -> Pair | None:
        """The arbitration record, if there is one."""
        found = self.pairs.get(name)
        return found.value if found else None

    def endophyte(self, name: str) -> Endophyte | None:
        """The desired state, if there is one."""
        found = self.endophytes.get(name)
        return found.value if found else None

    def is_readable(self, name: str) -> bool:
        """Whether the records of an Endophyte can be understood (or are not there)."""
        return self.unreadable.isdisjoint((keys.pair(name), keys.endophyte(name)))

    # ---- how it is kept

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener(key)` after each change ("" after a full read). Returns what ends it."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            with suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    async def run(self) -> None:
        """Keep the copy current, for ever; survives any time without the store."""
        while True:
            try:
                await self.read_all()
                if self.is_current:  # else that was asked for while it was read
                    await self._follow()
            except StoreUnavailableError:
                await asyncio.sleep(RETRY_S)

    def require_lineage(self, number: int) -> None:
        """Take nothing older from now on, and read everything again: the history that was followed is cut."""
        self._least_lineage = max(self._least_lineage, number)
        self.read_again()

    def read_again(self) -> None:
        """Have everything read anew as soon as the store answers; `is_current` tells when that is done."""
        self._reads_asked += 1
        if self._following is not None:
            with suppress(RuntimeError):  # its time was up by itself
                self._following.reschedule(asyncio.get_running_loop().time())

    @property
    def is_current(self) -> bool:
        """Whether everything was read since that was last asked for."""
        return self._reads_done == self._reads_asked

    async def read_all(self) -> None:
        """Replace the whole copy by one consistent listing."""
        asked = self._reads_asked
        listing = await self._store.list(keys.ROOT)
        lineage = _lineage_in(listing)
        if lineage.number < max(self.lineage.number, self._least_lineage):
            raise StoreUnavailableError(
                f"this member keeps lineage {lineage.number}, a newer one is in force"
            )
        self._reads_done = max(self._reads_done, asked)
        is_same = lineage.number == self.lineage.number
        if is_same and listing.revision < self.revision:
            return
        ahead = [  # shown early from this process's own commits, after the listing was made
            (table, name, entry)
            for table in self._tables.values()
            for name, entry in table.items()
            if is_same and entry.revision > listing.revision
        ]
        for records in self._tables.values():
            records.clear()
        for texts in self._texts.values():
            texts.clear()
        self.unreadable.clear()
        for item in listing.items:
            self._take(item)
        for table, name, entry in ahead:
            table[name] = entry
        self.lineage = lineage
        self.revision = listing.revision
        self.synced.set()
        self._notify("")

    async def _follow(self) -> None:
        watch = self._store.watch(keys.ROOT, from_revision=self.revision + 1)
        with suppress(TimeoutError):
            async with asyncio.timeout(FULL_READ_EVERY_S) as self._following, aclosing(watch) as changes:
                async for change in changes:
                    if change.kind is ChangeKind.RESYNC:
                        return
                    self.apply(change)

    def apply_early(self, item: KeyValue) -> None:
        """Show one's own commit before the watch reports it. The revision stays: the watch will pass it again."""
        prefix = next((p for p in self._tables if item.key.startswith(p)), None)
        known = self._tables[prefix].get(item.key.removeprefix(prefix)) if prefix else None
        if known is None or known.revision < item.mod_revision:
            self._take(item)
            self._notify(item.key)

    async def refresh(self, key: str) -> None:
        """Read one record now, for a question that an older view would answer wrongly. Raises as StateStore.get."""
        item = await self._store.get(key)
        if item is not None:
            self.apply_early(item)

    def apply(self, change: Change) -> None:
        """Take over one change that the watch reports."""
        if change.item is None or change.revision < self.revision:
            return
        if change.item.key == keys.LINEAGE and change.kind is ChangeKind.PUT:
            newer = lineage_of(change.item).number
            if newer > self.lineage.number:  # what came before may be of another history
                self.require_lineage(newer)
                return
        self.revision = change.revision
        if change.kind is ChangeKind.PUT:
            self._take(change.item)
        else:
            self._drop(change.item.key)
        self._notify(change.item.key)

    def _take(self, item: KeyValue) -> None:
        if item.key == keys.LINEAGE:
            self.lineage = lineage_of(item)
            return
        for prefix, record_type in _PARSED.items():
            if item.key.startswith(prefix):
                try:
                    record = record_type.from_json(item.value)
                except ValidationError as error:
                    self._report(f"{item.key} cannot be read: {error.error_count()} errors")
                    self.unreadable.add(item.key)
                    return
                self.unreadable.discard(item.key)
                table, name = self._tables[prefix], item.key.removeprefix(prefix)
                if name not in table or table[name].revision <= item.mod_revision:
                    table[name] = Versioned(record, item.mod_revision)
                return
        for prefix in _PLAIN:
            if item.key.startswith(prefix):
                self._texts[prefix][item.key.removeprefix(prefix)] = item.value

    def _drop(self, key: str) -> None:
        self.unreadable.discard(key)
        for prefix, records in self._tables.items():
            if key.startswith(prefix):
                records.pop(key.removeprefix(prefix), None)
        for prefix, texts in self._texts.items():
            if key.startswith(prefix):
                texts.pop(key.removeprefix(prefix), None)

    def _notify(self, key: str) -> None:
        if not key or key.startswith((keys.HOSTS, keys.MAINTENANCE)):
            self._hosts = None
        for listener in tuple(self._listeners):
            listener(key)


def _lineage_in(listing: Listing) -> Lineage:
    return next((lineage_of(item) for item in listing.items if item.key == keys.LINEAGE), Lineage())


def lineage_of(item: KeyValue) -> Lineage:
    """Raises StoreUnavailableError for a record that makes no sense: nobody may guess at it."""
    try:
        return Lineage.from_json(item.value)
    except ValidationError as error:
        raise StoreUnavailableError(f"{item.key} cannot be read") from error
