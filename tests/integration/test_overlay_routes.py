"""The agent's own routes on real kernel networking: quick acknowledgements, the underlay's state."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from hostagent.drivers.net import ReplicationRoutes
from tests.integration.netns_support import Lab, wait_until

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


def test_the_underlay_is_checked(lab: Lab) -> None:
    host = lab.hosts[0]
    assert host.do(host.net.check_underlay()) == ""
    host.ip("link", "set", "u0", "mtu", "1400")
    assert "needs 1450" in host.do(host.net.check_underlay())
    host.ip("link", "set", "u0", "down")
    assert "is down" in host.do(host.net.check_underlay())
