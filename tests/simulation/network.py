"""Who reaches whom: two networks with cuts in one direction each, and hosts without power or frozen."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from tests.simulation.world import ON, World

MANAGEMENT, REPLICATION = "management", "replication"
NETWORKS = (MANAGEMENT, REPLICATION)
Matrix = tuple[tuple[bool, ...], ...]


class Links(NamedTuple):
    """What follows from cuts and power alone."""

    is_calm: bool  # nothing is cut, every host is on
    flows: dict[str, Matrix]  # [network][sender][receiver]: packets of one kernel reach the other
    connected: dict[str, Matrix]  # [network][a][b]: a TCP connection works
    answers: tuple[bool, ...]  # [host]: some member of the store that it reaches is in touch with a majority


@lru_cache(10_000)
def _links(cuts: frozenset[tuple[int, int, str]], powers: tuple[str, ...]) -> Links:
    every = range(len(powers))
    flows = {
        network: tuple(
            tuple(powers[a] == ON and powers[b] == ON and (a, b, network) not in cuts for b in every)
            for a in every
        )
        for network in NETWORKS
    }
    both = {
        n: tuple(tuple(flows[n][a][b] and flows[n][b][a] for b in every) for a in every) for n in NETWORKS
    }
    near = both[MANAGEMENT]
    leads = [
        powers[m] == ON and 2 * (1 + sum(near[m][o] for o in every if o != m)) > len(powers) for m in every
    ]
    answers = tuple(
        powers[h] == ON and any(leads[m] and (m == h or near[h][m]) for m in every) for h in every
    )
    return Links(not cuts and all(power == ON for power in powers), flows, both, answers)


def links(world: World) -> Links:
    """The links of a world."""
    a, b, c = world.hosts
    return _links(world.cuts, (a.power, b.power, c.power))


def connected(world: World, a: int, b: int, network: str) -> bool:
    """Whether a TCP connection works."""
    return links(world).connected[network][a][b]


def hears(world: World, h: int, peer: int, network: str) -> bool:
    """Whether `h` has a sign of `peer`'s life: its agent's heartbeat, or its kernel's answer to an echo."""
    flows = links(world).flows[network]
    if not flows[peer][h]:
        return False
    agent = world.hosts[peer].agent
    return (agent is not None and not agent.slow) or flows[h][peer]


def serves(world: World, h: int, peer: int, network: str) -> bool:
    """Whether `h` counts the network as good: it hears `peer`, which does not say that it does not hear `h`."""
    if not hears(world, h, peer, network):
        return False
    return network != REPLICATION or not is_deaf(world, h, peer)


def is_deaf(world: World, h: int, peer: int) -> bool:
    """Whether `peer` tells `h` that it has heard nothing of it on the replication network (heartbeats.is_deaf)."""
    agent = world.hosts[peer].agent
    if agent is None or agent.silence[0] != h or not agent.silence[2]:
        return False
    return not hears(world, peer, h, REPLICATION) and heartbeat(world, h, peer)


def heartbeat(world: World, h: int, peer: int) -> bool:
    """Whether what `peer`'s agent tells reaches `h`."""
    agent = world.hosts[peer].agent
    flows = links(world).flows
    return agent is not None and not agent.slow and any(flows[n][peer][h] for n in NETWORKS)


def store_answers(world: World, h: int) -> bool:
    """Whether a commit by `h` is decided."""
    return links(world).answers[h]
