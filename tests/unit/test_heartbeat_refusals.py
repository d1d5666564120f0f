"""What outsiders can send: each has no effect at all, and the right one sent in its place has."""

from __future__ import annotations

from dataclasses import replace

import pytest
from heartbeat_support import (
    KEY,
    OWN,
    OWN_ADDRESSES,
    PEER,
    PEER_ADDRESSES,
    beats_with_peer,
    datagram,
    hear,
    make_beats,
    pass_time,
)

from hostagent.heartbeat.message import MAX_BYTES, Heading
from hostagent.heartbeat.order import Order, Refusal
from hostagent.heartbeat.peer import Introduction

UID = "11111111-2222-3333-4444-555555555555"
DEATH = ((UID, 4),)
NEWS = {"dead": DEATH, "deaf_to": ("h1",), "lineage": 9}


@pytest.fixture
def beats():
    """It has heard the peer's heartbeat 10 on both networks, and nothing for long enough to suspect it."""
    made = beats_with_peer()
    hear(made, 10)
    pass_time(made, 400)
    assert made.is_silent("h2")
    made.changes.clear()
    return made


def state_of(beats):
    peer = beats._peers["h2"]
    links = {network: replace(link) for network, link in peer.links.items()}
    order = (peer.order.incarnation, dict(peer.order.sequences), peer.order.told)
    kept = (order, peer.heard, peer.dead, peer.lineage, dict(peer.suspected), peer.is_deaf)
    return links, kept, beats.newest_lineage(), beats.is_silent("h2"), beats.says_dead("h2", UID, 4)


def is_ignored(beats, data, *, network="management", source=None):
    before = state_of(beats)
    beats._hear(network, data, source or PEER_ADDRESSES[network])
    return state_of(beats) == before and beats.changes == []


def test_the_right_heartbeat_has_an_effect(beats):
    assert not is_ignored(beats, datagram(11, **NEWS))
    assert beats.says_dead("h2", UID, 4) and beats.newest_lineage() == (9, ("h2",))
    assert not beats.is_silent("h2")


def test_one_that_is_not_sealed(beats):
    assert is_ignored(beats, b'11\n{"v":2,"h":"h2","i":"5000","d":[["%s",4]],"l":9}' % UID.encode())
    assert is_ignored(beats, datagram(11, **NEWS)[:-16])
    assert is_ignored(beats, datagram(11, **NEWS)[:-16] + bytes(16))
    assert is_ignored(beats, b"")
    assert beats.refused("h2") == {Refusal.FORGED: 4}


def test_one_that_is_sealed_by_somebody_who_has_another_key(beats):
    assert is_ignored(beats, datagram(11, key=b"x" * 32, **NEWS))


def test_one_that_was_cut_short_or_made_longer(beats):
    data = datagram(11, **NEWS)
    assert all(is_ignored(beats, data[:length]) for length in range(len(data)))
    assert is_ignored(beats, data + b" ")
    assert is_ignored(beats, data + bytes(MAX_BYTES))


def test_one_that_was_heard_before(beats):
    assert is_ignored(beats, datagram(10, **NEWS))
    assert is_ignored(beats, datagram(9, **NEWS))
    assert beats.refused("h2") == {Refusal.REPEATED: 2}


def test_one_of_an_older_start_of_the_peers_agent(beats):
    assert is_ignored(beats, datagram(99, incarnation=PEER - 1, **NEWS))
    assert beats.refused("h2") == {Refusal.OLDER_AGENT: 1}


def test_one_of_an_agent_that_was_started_again_since_as_its_host_record_says(beats):
    beats.set_peers({"h2": Introduction(PEER_ADDRESSES, KEY, PEER + 1)})
    assert is_ignored(beats, datagram(11, **NEWS))
    assert not is_ignored(beats, datagram(1, incarnation=PEER + 1, **NEWS))


def test_a_host_record_of_an_older_start_changes_nothing(beats):
    beats.set_peers({"h2": Introduction(PEER_ADDRESSES, KEY, PEER - 1)})
    assert is_ignored(beats, datagram(99, incarnation=PEER - 1, **NEWS))


def test_one_that_was_recorded_before_this_agent_was_started(beats):
    assert is_ignored(beats, datagram(11, receiver=OWN - 1, **NEWS))
    assert is_ignored(beats, datagram(11, receiver=OWN + 1, **NEWS))
    assert is_ignored(beats, datagram(11, receiver=0, **NEWS))
    assert beats.refused("h2") == {Refusal.NOT_FOR_US: 3}


def test_our_own_sent_back_to_us():
    """The same key, and both agents of the same age."""
    beats = make_beats(incarnation=PEER)
    beats.set_peers({"h2": Introduction(PEER_ADDRESSES, KEY, PEER)})
    beats.tell_dead(UID, 4)
    (own, _), *_ = beats._transports["management"].sent
    assert is_ignored(beats, own)
    assert beats.refused("h2") == {Refusal.FORGED: 1}


def test_one_of_the_other_network(beats):
    """Else whoever cut the replication network could make it look well."""
    assert is_ignored(beats, datagram(11, network="management", **NEWS), network="replication")


def test_one_of_another_peer_from_this_peers_address(beats):
    beats.set_peers(
        {
            "h2": Introduction(PEER_ADDRESSES, KEY, PEER),
            "h3": Introduction({"management": "10.0.0.3"}, b"3" * 32, PEER),
        }
    )
    beats.changes.clear()
    assert is_ignored(beats, datagram(11, sender="h3", key=b"3" * 32, **NEWS))
    assert is_ignored(beats, datagram(11, sender="h3", **NEWS)), "nor may h2 speak for h3"


def test_one_from_another_address(beats):
    assert is_ignored(beats, datagram(11, **NEWS), source="10.0.0.99")
    assert is_ignored(beats, datagram(11, **NEWS), source=PEER_ADDRESSES["replication"])


def test_a_peer_without_a_key_is_neither_heard_nor_told_anything():
    beats = make_beats()
    beats.set_peers({"h2": Introduction(PEER_ADDRESSES, b"", PEER, "its host record has no certificate")})
    beats.tell_dead(UID, 4)
    assert not any(wire.sent for wire in beats._transports.values())
    beats._hear("management", datagram(1, key=b"", **NEWS), PEER_ADDRESSES["management"])
    assert not beats.says_dead("h2", UID, 4)
    assert beats.unheard_because("h2") == "its host record has no certificate"
    pass_time(beats, 400)
    assert beats.is_silent("h2")


def test_content_that_was_held_back_on_one_network_does_not_undo_what_came_on_the_other(beats):
    """It still says that the network works."""
    hear(beats, 11, networks=("management",))
    hear(beats, 13, networks=("management",), **NEWS)
    hear(beats, 12, networks=("replication",))
    assert beats.says_dead("h2", UID, 4)
    assert not beats.is_suspected("h2", "replication")


def test_a_host_that_joined_anew_is_known_by_its_new_key(beats):
    """Whatever its clock shows now: of the new key nothing older was ever heard."""
    beats.set_peers({"h2": Introduction(PEER_ADDRESSES, b"n" * 32, PEER - 1)})
    beats.changes.clear()
    assert is_ignored(beats, datagram(11, **NEWS))
    assert not is_ignored(beats, datagram(1, key=b"n" * 32, incarnation=PEER - 1, **NEWS))


@pytest.mark.parametrize("changed", ["away", "moved", "without a key"])
def test_a_peer_that_comes_back_is_not_heard_twice(beats, changed):
    moved = {"management": "10.0.0.2", "replication": "10.1.0.22"}
    known = Introduction(PEER_ADDRESSES, KEY, PEER)
    others = {
        "away": {},
        "moved": {"h2": replace(known, addresses=moved)},
        "without a key": {"h2": replace(known, key=b"")},
    }
    beats.set_peers(others[changed])
    beats.set_peers({"h2": known})
    beats.changes.clear()
    assert is_ignored(beats, datagram(10, **NEWS))
    assert not is_ignored(beats, datagram(11, **NEWS))


def test_two_records_with_one_address_do_not_hide_each_other(beats):
    """One that was not removed when its host was given another name."""
    beats.set_peers(
        {
            "old": Introduction(PEER_ADDRESSES, b"o" * 32, PEER + 50),
            "h2": Introduction(PEER_ADDRESSES, KEY, PEER),
        }
    )
    assert not is_ignored(beats, datagram(11, **NEWS))


def test_a_newer_start_is_learnt_from_what_does_not_count_and_an_older_one_is_not():
    order = Order()
    assert order.refuse(Heading(5, 1, OWN - 1), "management", OWN, 0) is Refusal.NOT_FOR_US
    assert order.refuse(Heading(4, 2, OWN), "management", OWN, 0) is Refusal.OLDER_AGENT
    assert order.incarnation == 5


def test_a_wrong_host_record_does_harm_only_for_as_long_as_it_is_there(beats):
    beats.set_peers({"h2": Introduction(PEER_ADDRESSES, KEY, 2**63 - 1)})
    assert is_ignored(beats, datagram(11, **NEWS))
    beats.set_peers({"h2": Introduction(PEER_ADDRESSES, KEY, PEER)})
    assert is_ignored(beats, datagram(10, **NEWS))
    assert not is_ignored(beats, datagram(11, **NEWS))


def test_the_shared_key_is_not_shown():
    assert "kkkk" not in repr(beats_with_peer()._peers["h2"])


def test_everything_is_sent_to_the_address_on_record():
    beats = beats_with_peer()
    beats._send_all()
    sent = {network: wire.sent for network, wire in beats._transports.items()}
    assert {network: to for network, ((_, to),) in sent.items()} == {
        network: (address, 1) for network, address in PEER_ADDRESSES.items()
    }
    assert sent["management"][0][0] != sent["replication"][0][0]
    assert set(OWN_ADDRESSES) == set(sent)
