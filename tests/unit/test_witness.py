"""A witness votes and is never given a guest; it needs less of a configuration than a host."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from heartbeat_support import KEY, datagram
from protection_world import endophyte, host, pair

from hostagent.agent.agent import Agent
from hostagent.agent.witness import WitnessAgent
from hostagent.config import load_config
from hostagent.heartbeat.heartbeats import Heartbeats
from hostagent.heartbeat.message import Content, parse
from hostagent.heartbeat.peer import Introduction
from vdc.control.clock import SystemClock
from vdc.model.errors import InvalidError, RefusedError
from vdc.model.host import Host, HostRole
from vdc.protection.majority import may_lose, needed, notes
from vdc.protection.placement import Occupancy, choose_primary, choose_secondary, choose_spares

NOBODY = Occupancy({}, {}, frozenset())
CONFIG = {
    "host": "w1",
    "state_dir": "/var/lib/vdc",
    "management": {"address": "192.0.2.13", "interface": "eth0"},
    "etcd": {"embedded": {"members": {"w1": "192.0.2.13", "h1": "192.0.2.11"}}},
}


def witness() -> Host:
    return host("w1").with_(role=HostRole.WITNESS)


def test_no_guest_is_placed_on_it() -> None:
    hosts = [host("h1"), witness()]
    assert choose_primary(endophyte(), hosts, NOBODY) == "h1"
    with pytest.raises(RefusedError, match="w1 is a witness"):
        choose_primary(endophyte(), [witness()], NOBODY)
    with pytest.raises(RefusedError, match="w1 is a witness"):
        choose_secondary(endophyte(), pair(secondary=None), hosts, NOBODY)
    assert choose_spares(endophyte(), pair(spares=()), [host("h1"), host("h2"), witness()], NOBODY) == ()


def test_a_record_of_an_older_agent_is_a_host() -> None:
    document = host("h1").model_dump(mode="json")
    del document["role"]
    assert not Host.model_validate(document).is_witness


def test_one_network_and_no_overlay_are_enough(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(yaml.safe_dump({**CONFIG, "witness": True}))
    config = load_config(file)
    assert config.witness and not config.has_replication
    file.write_text(yaml.safe_dump(CONFIG) + "witness: yes\n")  # a text in YAML 1.2, and as true to the field
    assert load_config(file) == config
    file.write_text(yaml.safe_dump(CONFIG))
    with pytest.raises(InvalidError):
        load_config(file)
    assert load_config(file, witness=True) == config
    assert issubclass(WitnessAgent, Agent)


def test_heartbeats_go_where_both_have_a_network() -> None:
    beats = Heartbeats(
        "h1", 7, {"management": "10.0.0.1", "replication": "10.1.0.1"}, 1,
        heartbeat_ms=50, suspect_ms=200, clock=SystemClock(), on_change=lambda _: None,
    )  # fmt: skip
    beats.set_peers({"w1": Introduction({"management": "10.0.0.9"}, KEY, 5)})
    assert not beats.is_suspected("w1", "replication")
    assert beats.silent_ms("w1", "replication") == 0.0
    assert not beats.is_silent("w1") and not beats.is_silent("nobody")
    beats._peers["w1"].suspected["management"] = True
    assert beats.is_silent("w1")
    beats._hear("management", datagram(1, sender="w1", incarnation=5, receiver=7, lineage=3), "10.0.0.9")
    assert beats.newest_lineage() == (3, ("w1",))


def test_the_lineage_travels_and_its_absence_is_none() -> None:
    assert parse(Content(lineage=2).encode()) == Content(lineage=2)
    assert parse(b'{"v":3,"d":[]}') == Content()


@pytest.mark.parametrize(("members", "majority"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_a_majority_is_more_than_half(members: int, majority: int) -> None:
    assert needed(members) == majority
    assert may_lose(members, members) == members - majority


def test_what_should_worry_somebody_is_said() -> None:
    assert notes(3, 3, ()) == ()
    assert "add a witness" in notes(2, 2, ())[0]
    lost, alone = notes(2, 1, ())
    assert "1 of 2 etcd members answer, 2 are needed" in lost and "add a witness" in alone
    (witness_lost,) = notes(3, 2, ("w1",))
    assert "witness w1 does not answer" in witness_lost and "next loss" in witness_lost
