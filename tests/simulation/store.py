"""The arbitration record in the store: real transitions, compare-and-swap, and requests whose answer is lost."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from tests.simulation.rules import kept, remembers
from tests.simulation.world import HOSTS, NOBODY, Body, Rec, Swap, Wish, World
from vdc.model.endophyte import Endophyte, Nic, RunState
from vdc.model.errors import ConflictError, RefusedError
from vdc.model.manifest import EndophyteManifest
from vdc.model.pair import Pair, SyncState
from vdc.protection import arbitration
from vdc.protection.invariants import check_transition


def uid_of(uid: int) -> str:
    """The uid of the n-th VM of that name."""
    return f"uid-{uid}" if uid else ""


@lru_cache(100_000)
def pair_of(body: Body, request: str = "") -> Pair:
    """The real record."""
    return Pair(
        name="web", uid=uid_of(body.uid), epoch=body.epoch, primary=HOSTS[body.primary],
        secondary=None if body.secondary == NOBODY else HOSTS[body.secondary], sync=SyncState(body.sync),
        spares=tuple(HOSTS[n] for n in body.spares), slot=0, request_id=request,
    )  # fmt: skip


def body_of(pair: Pair) -> Body:
    """What of it matters here."""
    return Body(
        int(pair.uid.removeprefix("uid-")), pair.epoch, HOSTS.index(pair.primary),
        HOSTS.index(pair.secondary) if pair.secondary else NOBODY, pair.sync.value,
        tuple(HOSTS.index(name) for name in pair.spares),
    )  # fmt: skip


@lru_cache(1_000)
def endophyte_of(wish: Wish) -> Endophyte:
    """The real desired state."""
    manifest = EndophyteManifest.model_validate(
        {
            "apiVersion": "v1", "kind": "Endophyte", "metadata": {"name": "web"},
            "spec": {
                "image": "mycelium/mini", "virtualComputer": {"dedicatedNodes": 3, "memorySync": "continuous"},
                "resources": {"memory": "256MiB"},
            },
        }
    )  # fmt: skip
    return Endophyte(
        manifest=manifest, uid=uid_of(wish.uid), run=RunState(wish.run), protect=wish.protect,
        deleting=wish.deleting, restarts=wish.restarts, image_digest="sha256:" + "0" * 64,
        nics=(Nic(network="default", mac="52:54:00:00:00:01", address="10.77.0.10"),), created_at="",
    )  # fmt: skip


_KINDS: dict[str, Callable[..., Pair]] = {
    "alone": lambda p, **k: arbitration.go_alone(p, reason="", **k),
    "promote": lambda p, **k: arbitration.promote_secondary(p, reason="", **k),
    "mark": lambda p, **k: arbitration.mark_in_sync(p, **k),  # noqa: PLW0108 - looked up late, for mutants
}


@lru_cache(100_000)
def following(kind: str, body: Body) -> Body | None:
    """The next version by the real transition; None where it is refused."""
    before = pair_of(body)
    try:
        after = _KINDS[kind](before, request_id="r", now="")
    except (ConflictError, RefusedError):
        return None
    check_transition(before, after)
    return body_of(after)


@lru_cache(10_000)
def protected_on(body: Body, host: int) -> Body:
    """The next version where the controller adds a secondary."""
    before = pair_of(body)
    after = arbitration.add_secondary(before, HOSTS[host], request_id="r", now="")
    check_transition(before, after)
    return body_of(after)


@lru_cache(10_000)
def withdrawn(body: Body) -> Body:
    """The next version where the leader takes the secondary off a drained host, and wishes its disks kept."""
    before = pair_of(body)
    after = arbitration.go_alone(before, reason="", request_id="r", now="", keep_copy=True)
    check_transition(before, after)
    return body_of(after)


for _cache in (following, protected_on, withdrawn):
    remembers(_cache.cache_clear)


def put(world: World, rec: Rec | None, *, wish: Wish | str | None = "same") -> World:
    """Write the record (and the wish)."""
    store = world.store._replace(rec=rec)
    if not isinstance(wish, str):
        store = store._replace(wish=wish)
    return world._replace(store=store)


def swap(world: World, base: Rec, body: Body, request: str) -> tuple[World, Rec | None]:
    """The compare-and-swap as the store decides it: the new version, or None where the compare fails."""
    present = world.store.rec
    if present is None or present.rev != base.rev:
        return world, None
    rec = Rec(present.rev + 1, request, body)
    return put(world, rec), rec


def leave_in_flight(world: World, h: int, base: Rec, body: Body, request: str) -> World:
    """Nobody waits for this request any more."""
    flight = Swap(h, base.rev, Rec(0, request, body))
    return world if flight in world.flights else world._replace(flights=(*world.flights, flight))


def arrive(world: World, flight: Swap) -> World:
    """A forgotten request is applied after all."""
    world = world._replace(flights=tuple(other for other in world.flights if other != flight))
    assert world.store.rec is not None
    return put(world, flight.after._replace(rev=world.store.rec.rev + 1))


def is_possible(world: World, flight: Swap) -> bool:
    """Whether it can still take effect."""
    rec = world.store.rec
    return rec is not None and (rec.rev == flight.base or (not kept("compare") and rec != flight.after))
