"""Whom the packet filter lets in: by the records, by what it remembers, and never by what is no address."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hostagent.agent import packetfilter
from hostagent.agent.doctor import _packet_filter
from hostagent.agent.packetfilter import FILE, FORGET_S, PacketFilter
from hostagent.config import AgentConfig
from hostagent.drivers.net import nft
from tests.unit.protection_world import host


class Clock:
    now_s = 1000.0

    def boottime_s(self) -> float:
        return self.now_s

    def wall(self) -> str:
        return ""


class World:
    """A witness's filter (it has no overlay), and what nft was told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scripts: list[str] = []
        self.clock = Clock()
        self.folder = folder
        self.config = AgentConfig.model_validate(
            {
                "host": "w1",
                "state_dir": "/var/lib/vdc",
                "management": {"address": "192.0.2.9", "interface": "eth0"},
                "replication": {"address": "198.51.100.9", "interface": "eth1"},
                "witness": True,
                "network": {"external_vteps": ["192.0.2.200", "gateway.example"]},
                "etcd": {"embedded": {"members": {"w1": "192.0.2.9", "h1": "192.0.2.1"}}},
            }
        ).model_copy(update={"state_dir": folder})
        monkeypatch.setattr(nft, "_run", self._nft)
        self.filter = PacketFilter(self.config, self.clock)

    def _nft(self, arguments: list[str], script: str = "") -> str:
        if script:
            self.scripts.append(script)
        return "table inet vdc_underlay\n" if self.scripts else ""

    async def hears(self, *numbers: int, **changes: str) -> str:
        """The rules after these hosts' records were seen."""
        self.filter._hear(
            host(f"h{n}").with_(
                management_address=f"192.0.2.{n}", replication_address=f"198.51.100.{n}", **changes
            )
            for n in numbers
        )
        await self.filter._put_right()
        return self.scripts[-1]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


async def test_without_records_and_memory_nobody_is_cut_off(world: World) -> None:
    await world.filter.begin()
    assert world.scripts == []


async def test_the_same_hosts_are_set_once_and_remembered(world: World) -> None:
    rules = await world.hears(1, 2)
    await world.hears(1, 2)
    assert len(world.scripts) == 1
    assert "replication { type ipv4_addr; elements = { 198.51.100.1, 198.51.100.2, 198.51.100.9 }; }" in rules
    remembered = json.loads((world.folder / FILE).read_text())
    assert remembered == [
        ["192.0.2.1", "198.51.100.1"], ["192.0.2.2", "198.51.100.2"], ["192.0.2.9", "198.51.100.9"],
    ]  # fmt: skip
    again = PacketFilter(world.config, world.clock)
    await again.begin()
    assert world.scripts[-1] == rules


async def test_who_is_gone_is_let_in_for_a_while(world: World) -> None:
    await world.hears(1, 2)
    world.clock.now_s += FORGET_S - 1
    assert "198.51.100.2" in await world.hears(1)
    world.clock.now_s += 2
    assert "198.51.100.2" not in await world.hears(1)


async def test_members_of_etcd_by_configuration_are_no_endpoints_of_the_overlay(world: World) -> None:
    rules = await world.hears()
    assert "set hosts { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.9, 198.51.100.9 }; }" in rules
    assert "set endpoints { type ipv4_addr; elements = { 192.0.2.9, 192.0.2.200 }; }" in rules


@pytest.mark.parametrize("text", ["", "10.0.0.0/8", "10.0.0.1 }; flush ruleset", "fe80::1"])
async def test_a_record_without_an_address_lets_nobody_in(world: World, text: str) -> None:
    world.filter._hear(
        [host("h1").model_copy(update={"management_address": text, "replication_address": text})]
    )
    await world.filter._put_right()
    assert "set replication { type ipv4_addr; elements = { 198.51.100.9 }; }" in world.scripts[-1]
    assert not text or text not in world.scripts[-1]


@pytest.mark.parametrize("text", ["", "{}x", "[1]", '[["a"]]', "null"])
async def test_a_memory_that_cannot_be_read_is_none(world: World, text: str) -> None:
    (world.folder / FILE).write_text(text)
    await world.filter.begin()
    assert world.scripts == []


async def test_a_full_disk_does_not_open_the_network(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packetfilter, "write_atomically", refuse)
    assert "198.51.100.2" in await world.hears(1, 2)
    assert world.filter.trouble == ""


async def test_trouble_is_said_until_it_is_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(arguments: list[str], script: str = "") -> str:
        raise nft.NftError("nft was not found")

    with monkeypatch.context() as patch:
        patch.setattr(nft, "_run", missing)
        await world.filter.begin()
        check = _packet_filter(world.filter.trouble)
        assert (check.level, check.sentence) == (
            "error",
            "the packet filter cannot be set: nft was not found",
        )
        assert "install nftables" in check.hint
    await world.filter._put_right()
    assert _packet_filter(world.filter.trouble).level == "ok"
