"""From a simulated world to the facts that `check_invariants` judges."""

from __future__ import annotations

from functools import lru_cache

from tests.simulation import qemu
from tests.simulation.store import pair_of, uid_of
from tests.simulation.world import HOSTS, NOBODY, OPEN, OPEN_TORN, Host, World
from vdc.protection.invariants import DiskFacts, GuestFacts, HostFacts, WorldFacts, check_invariants


def violations(world: World, before: World | None = None, *, only_agents: bool = False) -> tuple[str, ...]:
    """Every invariant that does not hold."""
    return check_invariants(
        facts(world, only_agents=only_agents), _before(before) if before is not None else None
    )


@lru_cache(8)
def _before(world: World) -> WorldFacts:
    return facts(world)


def facts(world: World, *, only_agents: bool = False) -> WorldFacts:
    """What an observer of everything sees."""
    hosts = tuple(
        _host(h, host, *qemu.emits(world, h), qemu.executes(world, h)) for h, host in enumerate(world.hosts)
    )
    rec = world.store.rec
    return WorldFacts(pair_of(rec.body) if rec else None, hosts, only_agents)


def _host(h: int, host: Host, speaks: bool, consent: int, runs: bool) -> HostFacts:
    dead = host.agent.dead if host.agent else frozenset()
    heard = host.agent.heard if host.agent else frozenset()
    return _facts_of(h, host.qemu, host.disk, host.saved, dead, heard, speaks, consent, runs)


@lru_cache(200_000)
def _facts_of(h, process, disk, saved, dead, heard, speaks, consent, runs):
    guest = process and GuestFacts(
        uid=uid_of(process.uid), boot=process.boot, mode=process.mode, executing=runs, emits=speaks,
        consent_of=None if consent == NOBODY else HOSTS[consent], is_tap_live=process.tap, epoch=process.epoch,
        switched={OPEN: "whole", OPEN_TORN: "torn"}.get(process.hold, ""), was_fenced=bool(process.fence),
        lockstep=process.plan,
    )  # fmt: skip
    copy = disk and DiskFacts(uid_of(disk.uid), disk.epoch, disk.state == "clean", disk.fresh)
    return HostFacts(
        HOSTS[h], guest, copy, uid_of(saved.uid) if saved else "", saved.highest if saved else 0,
        tuple((uid_of(uid), epoch) for uid, epoch in dead),
        tuple((HOSTS[other], uid_of(uid), epoch) for other, uid, epoch in heard),
    )  # fmt: skip
