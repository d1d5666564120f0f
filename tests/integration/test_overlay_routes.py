"""The agent's own routes on real kernel networking: quick acknowledgements, detours, the underlay's state."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.drivers.net import OverlayDetours, ReplicationRoutes
from tests.integration.netns_support import ADDRESS, ADDRESS_B, MAC, MAC_B, Lab, start_guest, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def test_quickack_routes_come_back_after_the_link(lab: Lab) -> None:
    host = lab.hosts[0]

    async def start() -> tuple[ReplicationRoutes, asyncio.Task[None]]:
        routes = ReplicationRoutes(interface="m0", address="10.8.0.1", netlink=host.netlink)
        return routes, asyncio.create_task(routes.keep(), name="quickack")

    def has_route() -> bool:
        return "quickack 1" in host.ip("route", "show", "10.8.0.2/32")

    routes, task = host.do(start())
    assert host.do(routes.set_quickack("10.8.0.2")) and has_route()
    host.ip("link", "set", "m0", "down")
    assert not has_route()
    assert not host.do(routes.set_quickack("10.8.0.2"))
    host.ip("link", "set", "m0", "up")
    wait_until(has_route, "the route is back after the link")
    host.ip("route", "del", "10.8.0.2/32")
    wait_until(has_route, "the route is back after it was deleted")
    host.do(routes.clear_quickack("10.8.0.2"))
    assert not has_route()

    async def stop() -> None:
        task.cancel()
        await asyncio.wait([task])

    host.do(stop())


def test_a_detour_carries_the_overlay_while_its_network_is_down(lab: Lab) -> None:
    h1, h2 = lab.hosts[:2]
    first = start_guest(lab, h1, "uid-a", MAC, ADDRESS)
    start_guest(lab, h2, "uid-b", MAC_B, ADDRESS_B)
    first.place.ping(ADDRESS_B)
    lab.switch.ip("link", "set", "u2", "down")
    wait_until(lambda: not first.place.reaches(ADDRESS_B), "the cut is felt")
    detours = [OverlayDetours(host.netlink) for host in (h1, h2)]
    for host, detour, peer in ((h1, detours[0], 2), (h2, detours[1], 1)):
        host.call(Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text, "2")
        host.do(detour.divert(f"10.9.0.{peer}", via=f"10.8.0.{peer}", interface="m0"))
        host.do(detour.divert(f"10.9.0.{peer}", via=f"10.8.0.{peer}", interface="m0"))
    first.place.ping(ADDRESS_B)
    assert h1.do(detours[0].active()) == {"10.9.0.2": "10.8.0.2"}
    assert "dev u0" in h1.ip("route", "get", "10.9.0.2")  # everything else keeps its path
    lab.switch.ip("link", "set", "u2", "up")
    for host, detour in ((h1, detours[0]), (h2, detours[1])):
        host.do(detour.remove())
        host.do(detour.remove())
    assert "7411" not in h1.ip("rule")
    first.place.ping(ADDRESS_B)


def test_the_underlay_is_checked(lab: Lab) -> None:
    host = lab.hosts[0]
    assert host.do(host.net.check_underlay()) == ""
    host.ip("link", "set", "u0", "mtu", "1400")
    assert "needs 1450" in host.do(host.net.check_underlay())
    host.ip("link", "set", "u0", "down")
    assert "is down" in host.do(host.net.check_underlay())
