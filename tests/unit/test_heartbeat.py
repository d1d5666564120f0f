"""Heartbeats: what counts as suspicious silence, and what peers tell."""

from __future__ import annotations

import json

import pytest
from heartbeat_support import beats_with_peer, datagram, hear, pass_time

from hostagent.heartbeat.link import Link

UID = "11111111-2222-3333-4444-555555555555"
BOTH = ("management", "replication")


def regular_link(interval_s=0.05, beats=100):
    link = Link(0.0, interval_s)
    for number in range(beats):
        link.hear(number * interval_s, number)
    return link, (beats - 1) * interval_s


def test_a_regular_link_is_suspect_at_the_floor():
    link, _ = regular_link()
    assert link.suspect_ms(200) == 200


def test_jitter_widens_what_is_tolerated_but_not_without_end():
    link, now = regular_link()
    for number in range(100, 200):
        now += 0.01 if number % 2 else 0.15
        link.hear(now, number)
    assert 200 < link.suspect_ms(200) <= 600
    link.deviation_s = 10
    assert link.suspect_ms(200) == 600


def test_a_lost_datagram_is_counted_and_is_no_jitter():
    link, now = regular_link()
    link.hear(now + 0.1, 101)
    assert link.lost == 1
    assert link.suspect_ms(200) == 200


def test_an_echo_breaks_the_silence_of_the_host_not_of_its_agent():
    link, now = regular_link()
    link.echo(now + 1.0)
    assert link.silent_ms(now + 1.1) == pytest.approx(100)
    assert link.agent_silent_ms(now + 1.1) == pytest.approx(1100)


@pytest.fixture
def beats():
    return beats_with_peer()


def test_a_host_that_answers_neither_way_is_suspected_in_time(beats):
    hear(beats, 1)
    pass_time(beats, 190)
    assert not beats.is_suspected("h2", "management")
    pass_time(beats, 20)
    assert beats.is_suspected("h2", "management") and beats.is_suspected("h2", "replication")
    assert beats.changes == ["h2"]


def test_a_host_whose_agent_is_gone_but_answers_echoes_is_not_suspected(beats):
    hear(beats, 1)
    pass_time(beats, 3_000, answering=BOTH)
    assert not beats.is_suspected("h2", "management")


def test_a_starved_agent_asks_before_it_suspects(beats):
    """All agents of an overloaded machine fall silent together; the kernels still answer."""
    hear(beats, 1)
    beats._clock.now += 1.0
    beats._judge(beats._clock.now)
    assert not beats.is_suspected("h2", "management")
    assert beats._echoes["management"].asked == ["10.0.0.2"]
    asked_at_s = beats._clock.now
    beats._clock.now += 0.05  # the answers wait: it starves again
    beats._hear_echo("management", "10.0.0.2", asked_at_s)
    beats._hear_echo("replication", "10.1.0.2", asked_at_s)
    pass_time(beats, 100)
    assert not beats.is_suspected("h2", "management")


def test_an_agent_that_starves_while_a_peers_agent_restarts_asks_anew_before_it_suspects(beats):
    """The last answer is as old as the starvation; that says nothing of the peer."""
    hear(beats, 1)
    pass_time(beats, 1_000, answering=BOTH)
    beats._clock.now += 0.5
    beats._judge(beats._clock.now)
    assert not beats.is_suspected("h2", "management")
    pass_time(beats, 200, answering=BOTH)
    assert not beats.is_suspected("h2", "management")
    pass_time(beats, 230)  # and where no answer comes, it is suspected as soon as ever
    assert beats.is_suspected("h2", "management")


def test_one_silent_network_is_one_silent_network(beats):
    hear(beats, 1)
    for number in range(2, 30):
        pass_time(beats, 50)
        hear(beats, number, networks=("management",))
    assert not beats.is_suspected("h2", "management")
    assert beats.is_suspected("h2", "replication")


def test_being_heard_again_is_news(beats):
    hear(beats, 1)
    pass_time(beats, 300)
    beats.changes.clear()
    hear(beats, 2)
    assert not beats.is_suspected("h2", "management")
    assert beats.changes == ["h2", "h2"]


def test_a_death_is_told_once_and_believed_for_its_epoch_alone(beats):
    hear(beats, 1, dead=((UID, 4),))
    assert beats.says_dead("h2", UID, 4)
    assert not beats.says_dead("h2", UID, 5)
    assert beats.changes == ["h2"]


def test_a_datagram_from_a_strangers_address_is_ignored(beats):
    beats._hear("management", datagram(1, dead=((UID, 4),)), "10.0.0.99")
    assert not beats.says_dead("h2", UID, 4)


def hear_for(beats, ms, first, **how):
    for number in range(first, first + ms // 50):
        pass_time(beats, 50)
        hear(beats, number, **how)
    return first + ms // 50


def test_a_replication_network_that_was_broken_has_to_settle(beats):
    hear(beats, 1)
    assert beats.unsettled() == ()
    following = hear_for(beats, 400, 2, networks=("management",))
    assert (beats.unsettled(), beats.settling()) == (("h2",), ())
    following = hear_for(beats, 2_900, following)
    assert not beats.is_suspected("h2", "replication")
    assert (beats.unsettled(), beats.settling()) == (("h2",), ("h2",)), "it may go again"
    beats.changes.clear()
    hear_for(beats, 200, following)
    assert (beats.unsettled(), beats.settling()) == ((), ())
    assert beats.changes == ["h2"], "that it has settled is news"


def test_a_link_that_flaps_once_a_second_never_settles(beats):
    hear(beats, 1)
    following, settled = 2, 0
    for _ in range(10):
        following = hear_for(beats, 500, following, networks=("management",))
        following = hear_for(beats, 500, following)
        settled += beats.unsettled() == ()
    assert settled == 0


def test_the_management_network_has_no_part_in_it(beats):
    hear(beats, 1)
    hear_for(beats, 400, 2, networks=("replication",))
    assert beats.is_suspected("h2", "management")
    assert beats.unsettled() == ()


def test_a_peer_that_does_not_hear_us_is_told_of(beats):
    """A cut in one direction: its heartbeats arrive, ours do not."""
    hear(beats, 1)
    following = hear_for(beats, 300, 2, deaf_to=("h1",))
    assert (beats.unsettled(), beats.settling()) == (("h2",), ())
    following = hear_for(beats, 300, following, deaf_to=("h3",))
    assert beats.unsettled() == ("h2",)
    hear_for(beats, 3_000, following, deaf_to=("h3",))
    assert beats.unsettled() == ()


def test_our_own_deafness_is_said(beats):
    hear(beats, 1)
    hear_for(beats, 400, 2, networks=("management",))
    assert json.loads(beats._body)["r"] == ["h2"]
    hear(beats, 90)
    assert "r" not in json.loads(beats._body)


def test_deafness_counts_when_it_lasts_and_no_longer(beats):
    hear(beats, 1)
    hear(beats, 2, deaf_to=("h1",))
    assert not beats.is_deaf("h2")
    pass_time(beats, 50)
    hear(beats, 3)
    pass_time(beats, 100)
    assert not beats.is_deaf("h2"), "it heard us again"
    hear(beats, 4, deaf_to=("h1",))
    beats.changes.clear()
    pass_time(beats, 50)
    hear(beats, 5, deaf_to=("h1",))
    pass_time(beats, 60)
    assert beats.is_deaf("h2")
    assert beats.changes == ["h2"]
    hear(beats, 6)
    assert not beats.is_deaf("h2")
