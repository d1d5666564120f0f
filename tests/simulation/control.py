"""The leader's part (vdc/control/controller.py): placing, protecting, spares, the end of a deletion.

It acts on its own host's mirror; each change compares with the version that it looked at. Where to is decided by
the real `placement`. Its back-off is left out: it only delays what is done here.
"""

from __future__ import annotations

from functools import lru_cache

from tests.simulation import store
from tests.simulation.network import store_answers
from tests.simulation.rules import kept
from tests.simulation.world import HOSTS, NOBODY, ON, Body, Rec, Store, Wish, World
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import RefusedError
from vdc.model.host import Accelerator, Host, QemuVersion
from vdc.protection.arbitration import new_pair
from vdc.protection.invariants import check_transition
from vdc.protection.placement import Occupancy, choose_primary, choose_secondary, choose_spares

_EMPTY = Occupancy({}, {}, frozenset())
_RECORDS = tuple(
    Host(
        name=name, api_url="", management_address="10.0.0.1", replication_address="10.1.0.1",
        overlay_address="10.2.0.1",
        heartbeat_port=1, agent_version="0", incarnation=1, cpus=2, memory_bytes=8 << 30,
        accelerator=Accelerator(name="tcg"), qemu=QemuVersion(version="11.1.3", lockstep=True),
    )
    for name in HOSTS
)  # fmt: skip


def _records(hosts: tuple[int, ...], drained: int) -> list[Host]:
    return [_RECORDS[h].with_(schedulable=h != drained) for h in hosts]


def alive(world: World) -> tuple[int, ...]:
    """Hosts whose agent renews its lease."""
    return tuple(
        h
        for h, host in enumerate(world.hosts)
        if host.power == ON and host.agent and not host.agent.slow and store_answers(world, h)
    )


@lru_cache(10_000)
def _primary(wish: Wish, hosts: tuple[int, ...], drained: int) -> int:
    try:
        return HOSTS.index(choose_primary(store.endophyte_of(wish), _records(hosts, drained), _EMPTY))
    except RefusedError:
        return NOBODY


@lru_cache(10_000)
def _secondary(wish: Wish, body: Body, hosts: tuple[int, ...], drained: int) -> int:
    records = _records(hosts, drained)
    try:
        name = choose_secondary(store.endophyte_of(wish), store.pair_of(body), records, _EMPTY)
    except RefusedError:
        return NOBODY
    return HOSTS.index(name)


@lru_cache(10_000)
def _spares(wish: Wish, body: Body, hosts: tuple[int, ...], drained: int) -> tuple[int, ...]:
    records = _records(hosts, drained)
    names = choose_spares(store.endophyte_of(wish), store.pair_of(body), records, _EMPTY)
    return tuple(HOSTS.index(name) for name in names)


@lru_cache(1_000)
def _first(uid: int, primary: int) -> Body:
    pair = new_pair("web", store.uid_of(uid), HOSTS[primary], (), 0, request_id="r", now="")
    check_transition(None, pair)
    return store.body_of(pair)


def step(world: World) -> tuple[str, World] | None:
    """What the leader would do now; None where there is nothing to do, or no leader."""
    living = alive(world)
    if not living:
        return None
    leader = living[0]
    view = world.hosts[leader].agent.mirror
    if view.wish is None:
        return None
    found = _change(view, living)
    if found is None:
        return None
    text, rec_after, wish_after = found
    if view.rec != world.store.rec or view.wish != world.store.wish:
        return None  # the compare fails: nothing is changed
    if isinstance(rec_after, Body):
        rev = view.rec.rev + 1 if view.rec else 1_000 * rec_after.uid
        return text, store.put(world, Rec(rev, f"leader/{rev}", rec_after))
    world = store.put(world, None, wish=wish_after)
    told = (None,) * len(HOSTS)
    return text, world._replace(store=world.store._replace(told=told))


def _change(view: Store, living: tuple[int, ...]) -> tuple[str, Body | None, Wish | None] | None:
    wish, rec = view.wish, view.rec
    if wish.deleting:
        return ("the leader: nothing is left, the records go", None, None) if _is_gone(view, living) else None
    endophyte = store.endophyte_of(wish)
    if rec is None:
        primary = _primary(wish, living, view.drained)
        if primary == NOBODY:
            return None
        body = _first(wish.uid, primary)
        spares = _spares(wish, body, living, view.drained)
        return f"the leader: places the VM on {HOSTS[primary]}", body._replace(spares=spares), wish
    body = rec.body
    if body.primary not in living and not kept("no cold start elsewhere"):
        target = _primary(wish, living, view.drained)
        moved = body._replace(epoch=body.epoch + 1, primary=target, secondary=NOBODY, sync="none", spares=())
        return f"the leader: moves the VM to {HOSTS[target]}", moved, wish
    if not endophyte.wants_protection or body.uid != wish.uid:
        return None
    if body.secondary == NOBODY:
        told = view.told[body.primary]
        runs = (
            told is not None and told.uid == wish.uid and told.role is CopyRole.PRIMARY
            and told.stage is CopyStage.RUNNING and told.epoch == body.epoch and told.restarts >= wish.restarts
        )  # fmt: skip
        host = _secondary(wish, body, living, view.drained) if runs else NOBODY
        if host == NOBODY:
            return None
        return f"the leader: protects on {HOSTS[host]}", store.protected_on(body, host), wish
    if body.secondary == view.drained and body.primary in living:
        return f"the leader: withdraws the replica on {HOSTS[body.secondary]}", store.withdrawn(body), wish
    spares = _spares(wish, body, living, view.drained)
    if set(spares) != set(body.spares):
        return "the leader: other spares", body._replace(spares=spares), wish
    return None


def _is_gone(view: Store, living: tuple[int, ...]) -> bool:
    """Controller._finish_deletion."""
    if not kept("a deletion waits for its copies"):
        return True
    wish = view.wish
    told = [one if one is not None and one.uid == wish.uid else None for one in view.told]
    if view.rec is not None:
        primary = told[view.rec.body.primary]
        if primary is None or primary.stage is not CopyStage.ABSENT or primary.error:
            return False
    return not any(
        one is not None and one.stage is not CopyStage.ABSENT and h in living for h, one in enumerate(told)
    )
