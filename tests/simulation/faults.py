"""What may go wrong at any moment, what operators may ask for, and how each of it ends again."""

from __future__ import annotations

from collections.abc import Iterator

from tests.simulation import store
from tests.simulation.network import MANAGEMENT, NETWORKS, REPLICATION
from tests.simulation.qemu import killed
from tests.simulation.world import FROZEN, GONE, HOSTS, NOBODY, OFF, ON, PRIMARY, Job, World
from vdc.protection.table import Action

Change = tuple[str, World]
MOST_COMMANDS = 4


def faults(world: World, *, cuts: bool = True) -> Iterator[Change]:
    """Everything that may break in this world."""
    for h, host in enumerate(world.hosts):
        name = HOSTS[h]
        if host.power != ON:
            continue
        yield f"{name} loses its power", world.host(h, power=OFF, agent=None, qemu=None)
        yield f"{name} is frozen", world.host(h, power=FROZEN)
        agent, process = host.agent, host.qemu
        if process is not None:
            yield f"{name}: QEMU is killed", _told(killed(world, h), h, process.uid)
            if not process.hung:
                yield f"{name}: QEMU stands still", world.qemu(h, hung=True)
        if agent is None:
            continue
        if agent.mem.uid or agent.job:
            yield f"{name}: the agent is killed", world.host(h, agent=None)
        if not agent.slow:
            yield f"{name}: the agent stands still", world.agent(h, slow=True)
        if not agent.deaf:
            yield f"{name}: the watch delivers nothing", world.agent(h, deaf=True)
        if not agent.mute and agent.mem.uid:
            yield f"{name}: what the agent publishes does not arrive", world.agent(h, mute=True)
        yield from _guest_events(world, h)
    if cuts:
        yield from _cuts(world)


def _told(world: World, h: int, uid: int) -> World:
    """Copy._watch_process: an agent that lives tells at once that its copy has ended."""
    agent = world.hosts[h].agent
    if agent is None or not agent.mem.uid:
        return world
    return world.agent(h, dead=agent.dead | {(agent.mem.uid, agent.mem.epoch)})


def _guest_events(world: World, h: int) -> Iterator[Change]:
    host = world.hosts[h]
    process, agent = host.qemu, host.agent
    if process is None or process.hung or not process.running or process.mode not in ("alone", "primary"):
        return
    if not agent.reset and process.mode == PRIMARY:
        yield f"{HOSTS[h]}: the guest is reset", world.agent(h, reset=True)
    if not agent.off:
        changed = world.qemu(h, running=False, off=True).agent(h, off=True, reset=True)
        yield f"{HOSTS[h]}: the guest powers itself off", changed


def _cuts(world: World) -> Iterator[Change]:
    """One direction, both directions, one or both networks, between two hosts or around one."""
    for network in NETWORKS:
        for a in range(len(HOSTS)):
            for b in range(len(HOSTS)):
                if a != b and (a, b, network) not in world.cuts:
                    yield (
                        f"no packet from {HOSTS[a]} reaches {HOSTS[b]} ({network})",
                        _cut(world, {(a, b, network)}),
                    )
    for h in range(len(HOSTS)):
        around = {(a, b) for a in range(len(HOSTS)) for b in range(len(HOSTS)) if a != b and h in (a, b)}
        for networks in ((MANAGEMENT,), (REPLICATION,), NETWORKS):
            cut = {(a, b, network) for a, b in around for network in networks}
            if not cut <= world.cuts:
                yield f"{HOSTS[h]} is cut off ({' and '.join(networks)})", _cut(world, cut)


def _cut(world: World, more: set[tuple[int, int, str]]) -> World:
    return world._replace(cuts=world.cuts | more)


def recoveries(world: World) -> Iterator[Change]:
    """Everything that may be well again."""
    if world.cuts:
        yield "the networks are well again", world._replace(cuts=frozenset())
    for h, host in enumerate(world.hosts):
        name, agent, process = HOSTS[h], host.agent, host.qemu
        if host.power == OFF:
            yield f"{name} has power again", world.host(h, power=ON)
        elif host.power == FROZEN:
            yield f"{name} goes on", world.host(h, power=ON)
        else:
            if process is not None and process.hung:
                yield f"{name}: QEMU goes on", world.qemu(h, hung=False)
            if agent is not None and agent.slow:
                yield f"{name}: the agent goes on", world.agent(h, slow=False)
            if agent is not None and agent.deaf:
                yield f"{name}: the watch delivers again", world.agent(h, deaf=False)
            if agent is not None and agent.mute:
                yield f"{name}: the agent publishes again", world.agent(h, mute=False)
    for flight in world.flights:
        if store.is_possible(world, flight):
            text = f"the forgotten commit of {HOSTS[flight.host]} (epoch {flight.after.body.epoch}) arrives"
            yield text, store.arrive(world, flight)


def commands(world: World) -> Iterator[Change]:
    """What an operator may do."""
    wish, rec = world.store.wish, world.store.rec
    if world.commands >= MOST_COMMANDS:
        return
    if wish is None:
        if world.commands:
            yield "operator: creates a VM of the same name", _command(world, uid=world.commands + 1)
        return
    if wish.deleting:
        return
    if wish.run != "stopped":
        yield "operator: stops the VM", _command(world, run="stopped")
        yield "operator: restarts the VM", _command(world, restarts=wish.restarts + 1)
    else:
        yield "operator: starts the VM", _command(world, run="running")
    if wish.run == "running":
        yield "operator: pauses the VM", _command(world, run="paused")
    elif wish.run == "paused":
        yield "operator: resumes the VM", _command(world, run="running")
    yield (
        ("operator: unprotects the VM" if wish.protect else "operator: protects the VM"),
        _command(world, protect=not wish.protect),
    )
    yield "operator: deletes the VM", _command(world, deleting=True)
    if rec is not None and rec.body.secondary != NOBODY and world.store.drained == NOBODY:
        drained = world._replace(
            store=world.store._replace(drained=rec.body.secondary), commands=world.commands + 1
        )
        yield f"operator: drains {HOSTS[rec.body.secondary]}", drained
    yield from _promotions(world, rec)


def _command(world: World, **changes: object) -> World:
    from tests.simulation.world import Wish

    present = world.store.wish
    wish = Wish(**changes) if present is None else present._replace(**changes)
    changed = store.put(world, world.store.rec, wish=wish)
    return changed._replace(commands=world.commands + 1)


def _promotions(world: World, rec: store.Rec | None) -> Iterator[Change]:
    """Supervisor.promote_planned on the secondary's host, which acts on what its mirror shows."""
    for h, host in enumerate(world.hosts):
        agent = host.agent
        if (
            agent is None
            or host.power != ON
            or agent.slow
            or agent.job is not None
            or agent.mirror.rec is None
        ):
            continue
        body = agent.mirror.rec.body
        if body.secondary != h or body.sync != "in_sync" or agent.mem.uid != body.uid:
            continue
        for planned, word in ((True, "promotes"), (False, "promotes by force")):
            action = (
                Action.HOLD if planned else Action.PROMOTE
            )  # until its commit any decision takes its place
            job = Job(action, 0, agent.mirror.rec, planned=planned)
            changed = world.agent(h, job=job)._replace(commands=world.commands + 1)
            yield f"operator: {word} the replica on {HOSTS[h]}", changed


def heal(world: World) -> World:
    """Every fault ends: power, networks, processes, agents, watches; forgotten requests never arrive."""
    world = world._replace(cuts=frozenset(), flights=())
    for h, host in enumerate(world.hosts):
        if host.power != GONE:
            world = world.host(h, power=ON)
        if host.qemu is not None:
            world = world.qemu(h, hung=False)
        if host.agent is not None:
            world = world.agent(h, slow=False, deaf=False, mute=False)
    return world
