"""Heartbeats without sockets: what goes out is kept, what comes in is handed over, time is owned by the test."""

from __future__ import annotations

from hostagent.heartbeat.heartbeats import Heartbeats
from hostagent.heartbeat.message import Content, Heading, encode
from hostagent.heartbeat.peer import Introduction
from hostagent.heartbeat.seal import Seal

KEY = b"k" * 32
OWN, PEER = 7_000, 5_000  # incarnations
OWN_ADDRESSES = {"management": "10.0.0.1", "replication": "10.1.0.1"}
PEER_ADDRESSES = {"management": "10.0.0.2", "replication": "10.1.0.2"}


class FakeClock:
    def __init__(self):
        self.now = 100.0

    def boottime_s(self):
        return self.now

    def wall(self):
        return ""


class FakeEcho:
    def __init__(self):
        self.asked = []

    def ask(self, address):
        self.asked.append(address)


class Wire:
    """What a socket was given: (datagram, (address, port))."""

    def __init__(self):
        self.sent = []

    def sendto(self, data, to):
        self.sent.append((data, to))


def make_beats(name="h1", incarnation=OWN, addresses=OWN_ADDRESSES, clock=None):
    changes = []
    made = Heartbeats(
        name, incarnation, addresses, 1,
        heartbeat_ms=50, suspect_ms=200, clock=clock or FakeClock(), on_change=changes.append,
    )  # fmt: skip
    made._echoes = {network: FakeEcho() for network in addresses}
    made._transports = {network: Wire() for network in addresses}
    made.changes = changes
    return made


def beats_with_peer():
    made = make_beats()
    made.set_peers({"h2": Introduction(PEER_ADDRESSES, KEY, PEER)})
    return made


def datagram(
    sequence,
    *,
    network="management",
    incarnation=PEER,
    receiver=OWN,
    key=KEY,
    sender="h2",
    to="h1",
    **content,
):
    seal = Seal(key, sender, to, network)
    return encode(Heading(incarnation, sequence, receiver), Content(**content).encode(), seal)


def hear(beats, sequence, *, networks=("management", "replication"), **how):
    for network in networks:
        beats._hear(network, datagram(sequence, network=network, **how), PEER_ADDRESSES[network])


def pass_time(beats, ms, *, step_ms=10, answering=()):
    """`answering`: networks on which the kernel of h2 answers echoes."""
    for _ in range(int(ms / step_ms)):
        beats._clock.now += step_ms / 1000
        beats._judge(beats._clock.now)
        for network in answering:
            if beats._echoes[network].asked:
                beats._echoes[network].asked.clear()
                beats._hear_echo(network, PEER_ADDRESSES[network], beats._clock.now)
