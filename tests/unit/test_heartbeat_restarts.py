"""Two agents that hear each other, one or both of which are started again: who is heard after how long."""

from __future__ import annotations

import pytest
from heartbeat_support import KEY, OWN_ADDRESSES, PEER_ADDRESSES, FakeClock, make_beats

from hostagent.heartbeat.peer import Introduction

ADDRESSES = {"h1": OWN_ADDRESSES, "h2": PEER_ADDRESSES}
OTHER = {"h1": "h2", "h2": "h1"}
INTERVAL_MS = 50


class Pair:
    """h1 and h2, without a store: what each knows of the other by a record is what it was given at its start."""

    def __init__(self):
        self.clock = FakeClock()
        self.agents = {}
        self.next_at = {}
        self.cut = set()  # (from, network) that does not arrive
        self.heard = {"h1": [], "h2": []}  # times at which it heard the other

    def start(self, name, incarnation, *, known, phase_ms=0):
        """`known`: incarnation of the other in its host record."""
        agent = make_beats(name, incarnation, ADDRESSES[name], self.clock)
        agent.set_peers({OTHER[name]: Introduction(ADDRESSES[OTHER[name]], KEY, known)})
        self.agents[name] = agent
        self.next_at[name] = self.clock.now + phase_ms / 1000
        self.heard[name].clear()

    def run(self, ms):
        for _ in range(ms):
            self.clock.now += 0.001
            for name, agent in list(self.agents.items()):
                if self.clock.now >= self.next_at[name]:
                    self.next_at[name] += INTERVAL_MS / 1000
                    agent._send_all()
                    self._deliver(name, agent)
                agent._judge(self.clock.now)

    def _deliver(self, sender, agent):
        receiver = self.agents.get(OTHER[sender])
        for network, wire in agent._transports.items():
            for data, _ in wire.sent:
                if receiver is None or (sender, network) in self.cut:
                    continue
                before = sum(receiver.refused(sender).values())
                receiver._hear(network, data, ADDRESSES[sender][network])
                if sum(receiver.refused(sender).values()) == before:
                    self.heard[OTHER[sender]].append(self.clock.now)
            wire.sent.clear()

    def first_heard_ms(self, name, since):
        return min((at - since) * 1000 for at in self.heard[name])


@pytest.fixture
def pair():
    made = Pair()
    made.start("h1", 100, known=200)
    made.start("h2", 200, known=100, phase_ms=20)
    made.run(300)
    assert not made.agents["h1"].is_silent("h2") and not made.agents["h2"].is_silent("h1")
    return made


@pytest.mark.parametrize("phase_ms", [0, 1, 25, 49])
@pytest.mark.parametrize("away_ms", [10, 500])
def test_a_restarted_agent_is_heard_again_within_two_intervals_and_hears(pair, phase_ms, away_ms):
    del pair.agents["h2"]
    pair.run(away_ms)
    now = pair.clock.now
    pair.start("h2", 201, known=100, phase_ms=phase_ms)
    pair.heard["h1"].clear()
    pair.run(120)
    assert pair.first_heard_ms("h1", now) <= INTERVAL_MS + 2
    assert pair.first_heard_ms("h2", now) <= 2 * INTERVAL_MS + 2
    assert not pair.agents["h1"].is_silent("h2") and not pair.agents["h2"].is_silent("h1")


@pytest.mark.parametrize("phase_ms", [0, 30])
def test_both_restarted_at_once_with_records_that_are_out_of_date(pair, phase_ms):
    """Each names a start of the other that is over; each learns the present one from that very heartbeat."""
    now = pair.clock.now
    pair.agents.clear()
    pair.start("h1", 101, known=200, phase_ms=10)
    pair.start("h2", 201, known=100, phase_ms=phase_ms)
    pair.run(110)
    assert pair.first_heard_ms("h1", now) <= 2 * INTERVAL_MS + 2
    assert pair.first_heard_ms("h2", now) <= 2 * INTERVAL_MS + 2


def test_a_cut_in_one_direction_of_one_network_is_no_hindrance(pair):
    """What it learns on one network it names on both."""
    pair.cut.add(("h2", "replication"))
    del pair.agents["h2"]
    pair.start("h2", 201, known=100)
    pair.run(400)
    assert pair.agents["h1"].is_suspected("h2", "replication")
    assert not pair.agents["h1"].is_suspected("h2", "management")
    assert not pair.agents["h2"].is_suspected("h1", "replication")
    assert pair.agents["h2"].unsettled() == ("h1",), "h1 says that it is deaf"


def test_a_restart_behind_a_cut_of_one_direction_is_learnt_from_the_host_record(pair):
    """Nothing of h2 arrives on either network: only its record can tell h1 whom to name."""
    pair.cut |= {("h2", "management"), ("h2", "replication")}
    del pair.agents["h2"]
    pair.start("h2", 201, known=100)
    pair.run(200)
    assert pair.heard["h2"] == []
    pair.agents["h1"].set_peers({"h2": Introduction(PEER_ADDRESSES, KEY, 201)})
    now = pair.clock.now
    pair.run(60)
    assert pair.first_heard_ms("h2", now) <= INTERVAL_MS + 2


def test_nothing_recorded_before_a_restart_counts_after_it(pair):
    recorded = []
    wires = pair.agents["h2"]._transports
    pair.agents["h2"].tell_dead("u", 3)
    recorded += [(network, data) for network, wire in wires.items() for data, _ in wire.sent]
    pair.agents.clear()
    pair.start("h1", 101, known=200)
    for network, data in recorded:
        pair.agents["h1"]._hear(network, data, PEER_ADDRESSES[network])
    assert not pair.agents["h1"].says_dead("h2", "u", 3)


def test_a_sequence_starts_anew_with_each_start():
    pair = Pair()
    pair.start("h1", 100, known=200)
    pair.start("h2", 200, known=100)
    pair.agents["h2"]._sequence = 10**6
    pair.run(100)
    pair.start("h2", 201, known=100)
    pair.run(60)
    pair.agents["h2"].tell_dead("u", 3)
    pair.run(60)
    assert pair.agents["h1"].says_dead("h2", "u", 3)
    assert pair.agents["h1"]._peers["h2"].heard == 201
    assert pair.agents["h1"]._peers["h2"].order.sequences["management"] < 10
