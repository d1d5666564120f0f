"""The world between two steps: what follows from one by itself, before the next."""

from __future__ import annotations

from tests.simulation import network, qemu
from tests.simulation.store import is_possible
from tests.simulation.view import is_stalled, known_body, peer_of, published
from tests.simulation.world import NOBODY, ON, Agent, Store, World


def settle(world: World) -> World:
    """What follows from a step by itself: news arrive, silence ends, copies age, dead requests are dropped."""
    world = qemu.age_disks(world)
    if world.flights:
        alive = tuple(f for f in world.flights if is_possible(world, f))
        if alive != world.flights:
            world = world._replace(flights=alive)
    world = _publish(world)
    answers_to = network.links(world).answers
    for h, host in enumerate(world.hosts):
        agent = host.agent
        if agent is None or host.power != ON or agent.slow:
            continue
        changes = {}
        answers = answers_to[h]
        if answers and not agent.deaf and agent.mirror != world.store:
            changes["mirror"] = world.store
        if answers and agent.store_silent:
            changes["store_silent"] = 0
        if agent.stall and not is_stalled(world, h):
            changes["stall"] = 0
        peer = peer_of(known_body(agent), h)
        if agent.silence != (NOBODY, 0, 0):
            silence = _silence(world, h, agent, peer)
            if silence != agent.silence:
                changes["silence"] = silence
        heard = _heard(world, h, agent)
        if heard != agent.heard:
            changes["heard"] = heard
        if changes:
            world = world.agent(h, **changes)
    return world


def _publish(world: World) -> World:
    store: Store = world.store
    for h, host in enumerate(world.hosts):
        agent = host.agent
        if agent is None or agent.slow or agent.mute or host.power != ON or world.store.wish is None:
            continue
        told = published(world, h)
        if told is not None and told != store.told[h] and network.store_answers(world, h):
            store = store._replace(told=(*store.told[:h], told, *store.told[h + 1 :]))
    return world if store is world.store else world._replace(store=store)


def _silence(world: World, h: int, agent: Agent, peer: int) -> tuple[int, int, int]:
    of, management, replication = agent.silence
    if of != peer or peer == NOBODY:
        return (NOBODY, 0, 0)
    management = management if not network.serves(world, h, peer, network.MANAGEMENT) else 0
    replication = replication if not network.serves(world, h, peer, network.REPLICATION) else 0
    return (peer, management, replication) if management or replication else (NOBODY, 0, 0)


def _heard(world: World, h: int, agent: Agent) -> frozenset[tuple[int, int, int]]:
    heard = agent.heard
    for other, host in enumerate(world.hosts):
        if (
            other != h
            and host.agent is not None
            and (host.agent.dead or heard)
            and network.heartbeat(world, h, other)
        ):
            kept_ones = {claim for claim in heard if claim[0] != other}
            heard = frozenset(kept_ones | {(other, *claim) for claim in host.agent.dead})
    return heard
