"""The invariants of failover.md: as a check that every transition of the arbitration record must pass, and as a
check of a whole world.

`check_transition` runs before each compare-and-swap, in simulation and in the running agent alike: a record
that would break an invariant is never written. `check_invariants` looks at everything at once, which only a
simulation (or an audit) can: who emits, by whose consent, what is on which disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vdc.model.errors import BugError
from vdc.model.pair import Pair, SyncState


def check_pair(pair: Pair) -> None:
    """Raise BugError where one version contradicts itself."""
    if pair.secondary == pair.primary:
        raise BugError(f"I1: {pair.name} has both copies on {pair.primary}")
    if (pair.secondary is None) != (pair.sync is SyncState.NONE):
        raise BugError(f"I3: {pair.name} says {pair.sync} with secondary {pair.secondary}")
    if pair.primary in pair.spares or (pair.secondary and pair.secondary in pair.spares):
        raise BugError(f"a host of {pair.name} is its own spare")


def check_transition(before: Pair | None, after: Pair) -> None:
    """Raise BugError where `after` must not follow `before`."""
    check_pair(after)
    if before is None:
        if after.epoch != 1 or after.secondary is not None:
            raise BugError(f"{after.name} must begin at epoch 1 and alone")
        return
    if (before.name, before.uid) != (after.name, after.uid):
        raise BugError("a pair never changes its identity")
    if after.lineage < before.lineage:
        raise BugError(f"I2: {after.name} went from lineage {before.lineage} to {after.lineage}")
    moved = before.hosts != after.hosts
    if after.epoch != before.epoch + (1 if moved else 0):
        raise BugError(f"I2: {after.name} went from epoch {before.epoch} to {after.epoch}")
    if after.primary != before.primary:
        if before.sync is not SyncState.IN_SYNC or after.primary != before.secondary:
            raise BugError(f"I3: {after.primary} took {after.name} over without being in sync")
        if after.secondary is not None:
            raise BugError(f"I4: {after.name} was promoted and kept a secondary")
    if after.sync is SyncState.IN_SYNC and moved:
        raise BugError(f"I3: {after.name} is in sync with a copy that was just added")


# ---- a whole world


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """A QEMU process that exists. `boot` names the cold start that it stems from or, as a secondary, its own."""

    uid: str
    boot: int
    mode: str  # alone, primary, secondary, ... : how it is wired
    executing: bool  # neither stopped nor standing still
    emits: bool  # packets of its guest reach the wire at this moment
    consent_of: str | None  # the host whose copy agrees to each of them; None: nobody is asked
    is_tap_live: bool
    epoch: int  # in whose name QEMU was last told to speak, or to be a secondary
    switched: str = (
        ""  # speaks by a planned switch: what it held back since a checkpoint went out "whole", or "torn"
    )
    was_fenced: bool = False  # as the primary: nothing of it could leave, for the switch that is under way
    lockstep: int = 0  # the epoch of the lockstep that it is in


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """The disk copy of a host as its record describes it, and `is_complete`: whether it really holds every
    write that was ever acknowledged to a client."""

    uid: str
    epoch: int
    is_clean: bool
    is_complete: bool


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What is on one host. `remembered` is the highest epoch on its disk, of the VM `remembered_uid`."""

    name: str
    guest: GuestFacts | None = None
    disk: DiskFacts | None = None
    remembered_uid: str = ""
    remembered: int = 0
    told_dead: tuple[tuple[str, int], ...] = ()  # (uid, epoch) of copies that its agent called dead
    believed_dead: tuple[
        tuple[str, str, int], ...
    ] = ()  # (host, uid, epoch) of others that it takes for dead


@dataclass(frozen=True, slots=True)
class WorldFacts:
    """One moment. `pair` is the arbitration record as the store holds it."""

    pair: Pair | None
    hosts: tuple[HostFacts, ...]
    only_agents: bool = False  # the step that led here did no more than start, stop or kill agents


def check_invariants(world: WorldFacts, before: WorldFacts | None = None) -> tuple[str, ...]:
    """Every invariant that does not hold, as a sentence that begins with its name; empty where all hold.

    `before` is the moment one step earlier, for those that speak about steps (I2, I3, I5, I7, I8).
    """
    found = [*_one_speaker(world), *_withdrawn_mark(world), *_truthful(world), *_durable(world)]
    if before is not None:
        found += [*_epochs_grow(world, before), *_boots(world, before), *_untouched(world, before)]
    return tuple(found)


def _one_speaker(world: WorldFacts) -> Iterator[str]:
    """I1, I4: who emits is the primary of the newest record, or emits nothing that the primary's copy refuses."""
    pair = world.pair
    emitting = [(host.name, host.guest) for host in world.hosts if host.guest and host.guest.emits]
    if len(emitting) > 1:
        yield f"I1: the guest speaks from {' and '.join(name for name, _ in emitting)} at once"
    for name, guest in emitting:
        may = pair is not None and pair.uid == guest.uid and pair.primary in (name, guest.consent_of)
        if not may:
            holder = f"{pair.primary} under epoch {pair.epoch}" if pair else "nobody"
            yield f"I1: {name} speaks under epoch {guest.epoch}, though {holder} may"
    for host in world.hosts:
        other = host.guest
        if other is None or pair is None or pair.uid != other.uid or pair.primary == host.name:
            continue
        if other.is_tap_live and other.mode in ("waiting", "secondary", "ended"):
            yield f"I4: the tap of {host.name} is live, and it has not won"
        if other.mode == "alone" and other.epoch >= pair.epoch:
            yield f"I4: {host.name} left lockstep under epoch {other.epoch} without having won it"
    yield from _switches(world)


def _switches(world: WorldFacts) -> Iterator[str]:
    """I1 in a planned switch, where even what nothing gates comes from one: the primary that it took over from was
    fenced. One of an earlier lockstep, which slept meanwhile, was taken over from without asking."""
    for host in world.hosts:
        guest = host.guest
        if guest is None or not guest.switched:
            continue
        if guest.switched == "torn":
            yield f"I1: {host.name} says what a checkpoint has taken back"
        for other in world.hosts:
            old = other.guest
            if old is None or other is host or old.uid != guest.uid or old.mode != "primary":
                continue
            if old.lockstep != guest.lockstep:
                continue
            if old.executing and old.is_tap_live and not old.was_fenced:
                yield f"I1: {host.name} took over by a planned switch, and {other.name} was never fenced"


def _withdrawn_mark(world: WorldFacts) -> Iterator[str]:
    """I3: nobody goes on alone while the record still lets another be promoted."""
    pair = world.pair
    for host in world.hosts:
        guest = host.guest
        is_alone = guest is not None and guest.emits and guest.consent_of is None
        if is_alone and pair is not None and pair.sync is SyncState.IN_SYNC:
            yield f"I3: {host.name} speaks alone, yet {pair.secondary} may still be promoted"


def _truthful(world: WorldFacts) -> Iterator[str]:
    """I6: who calls a copy dead must know it; silence does not suffice."""
    for host in world.hosts:
        guest = host.guest
        if guest is not None and (guest.uid, guest.epoch) in host.told_dead:
            yield f"I6: {host.name} calls its copy under epoch {guest.epoch} dead, and it lives"
        pair = world.pair
        if pair is None or pair.secondary is None:
            continue  # a claim counts only while there is another copy that could act on it
        for other in world.hosts:
            guest = other.guest
            if guest is None or guest.epoch != pair.epoch:
                continue
            if (other.name, guest.uid, guest.epoch) in host.believed_dead:
                yield f"I6: {host.name} takes the copy on {other.name} for dead, and it lives"


def _durable(world: WorldFacts) -> Iterator[str]:
    """The promise to clients: what was acknowledged is in the copy that speaks."""
    for host in world.hosts:
        if host.guest and host.guest.emits and host.disk and not host.disk.is_complete:
            yield f"durable: {host.name} speaks, and lacks a write that was acknowledged"


def _epochs_grow(world: WorldFacts, before: WorldFacts) -> Iterator[str]:
    """I2: epochs only grow, and are on disk before QEMU is told anything in their name."""
    if before.pair and world.pair and before.pair.uid == world.pair.uid:
        try:
            check_transition(before.pair, world.pair)
        except BugError as error:
            yield str(error)
    for host, earlier in zip(world.hosts, before.hosts, strict=True):
        if host.remembered_uid == earlier.remembered_uid and host.remembered < earlier.remembered:
            yield f"I2: {host.name} forgot epoch {earlier.remembered}"
        guest = host.guest
        if guest is not None and guest != earlier.guest and guest.mode != "waiting":
            known = host.remembered if host.remembered_uid == guest.uid else 0
            if known < guest.epoch:
                yield f"I2: {host.name} acted under epoch {guest.epoch} before it was on its disk"


def _boots(world: WorldFacts, before: WorldFacts) -> Iterator[str]:
    """I5, I7: a cold start needs the record's word, no other copy that runs unguarded, and a whole disk."""
    for host, earlier in zip(world.hosts, before.hosts, strict=True):
        guest = host.guest
        if guest is None or guest.mode != "alone" or (earlier.guest and earlier.guest.boot == guest.boot):
            continue
        pair = world.pair
        if pair is None or pair.uid != guest.uid or pair.primary != host.name:
            yield f"I5: {host.name} started the guest and is not its primary"
        elif pair.sync is SyncState.IN_SYNC:
            yield f"I5: {host.name} started the guest though {pair.secondary} may take over"
        for other in world.hosts:
            if other.name != host.name and other.guest and other.guest.uid == guest.uid and other.guest.emits:
                yield f"I5: {host.name} started the guest while it runs on {other.name}"
        disk = host.disk
        if disk is None or disk.uid != guest.uid or not disk.is_clean:
            yield f"I7: {host.name} started the guest from a disk that is not whole"
        elif not disk.is_complete:
            yield f"I7: {host.name} started the guest from a stale disk"


def _untouched(world: WorldFacts, before: WorldFacts) -> Iterator[str]:
    """I8: what becomes of an agent changes nothing about a guest."""
    if not world.only_agents:
        return
    for host, earlier in zip(world.hosts, before.hosts, strict=True):
        if host.guest != earlier.guest:
            yield f"I8: the guest on {host.name} changed with its agent"
