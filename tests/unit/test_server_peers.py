"""On no peer route does one agent speak for another, and each is only for the host that has the part."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gate_support import ADDRESS, Agent, session_of, shown
from protection_world import pair

from hostagent.drivers.audit.spool import Spool
from hostagent.server import app as app_module
from hostagent.server.app import build_app
from hostagent.server.audit import Audit
from hostagent.server.drill import DrillHandlers
from hostagent.server.endophytes import EndophyteHandlers
from hostagent.server.verification import VerificationHandlers
from vdc.api.models import DrillFault
from vdc.api.routes import ROUTES
from vdc.model.errors import UnavailableError
from vdc.model.identity import Role
from vdc.model.pair import Pair, SyncState

ABOUT_A_VM = sorted(route.name for route in ROUTES if route.is_peer and "{name}" in route.path)
ROUTE = {route.name: route for route in ROUTES}
EPOCH = 7
# Which host may ask, when h2 is the primary and h3 the secondary under EPOCH.
MAY = {
    "peer_quiesce": "h3", "peer_fail": "h3", "peer_follow": "h2",
    "peer_freeze": "h2", "peer_digests": "h2", "peer_thaw": "h2", "peer_credentials": "h3",
    "peer_output": "h3",
}  # fmt: skip
OTHER = {"h2": "h3", "h3": "h2"}
THIRD = "h4"  # a host of the cluster that has no part in the VM


class Supervisors:
    """Notes that somebody got through."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    def find(self, name: str) -> Any:
        self.reached.append(name)
        raise UnavailableError("reached", code="reached")

    async def follow(self, name: str, epoch: int) -> None:
        self.find(name)


class World:
    def __init__(self, agent: Agent) -> None:
        self.agent, self.supervisors = agent, Supervisors()
        self.known: Pair | None = pair(epoch=EPOCH, primary="h2", secondary="h3", sync=SyncState.IN_SYNC)
        self.stored: Pair | None = self.known
        self.refreshed = 0
        agent.known |= {"h3": ADDRESS, THIRD: ADDRESS}
        mirror = agent.host.mirror
        mirror.pair, mirror.refresh = lambda name: self.known, self.refresh

    async def refresh(self, key: str) -> None:
        self.refreshed += 1
        self.known = self.stored

    async def ask(self, route: str, caller: str, claimed: str, epoch: int = EPOCH) -> tuple[int, str]:
        body: dict[str, object] = {"epoch": epoch, "from_host": claimed}
        if route == "peer_fail":
            body["fault"] = DrillFault.KILL
        if route == "peer_credentials":
            body["request"] = "a certificate request"
        found = ROUTE[route]
        async with (
            session_of(*shown(Role.HOST, caller)) as session,
            session.request(
                found.method, self.agent.url(found.path.replace("{name}", "web")), json=body
            ) as answer,
        ):
            return answer.status, (await answer.json())["code"]


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    with socket.create_server((ADDRESS, 0)) as free:
        port = free.getsockname()[1]
    agent = Agent(tmp_path, port)
    made = World(agent)
    groups = (EndophyteHandlers, DrillHandlers, VerificationHandlers)
    for name in (
        "ClusterHandlers",
        "ImageHandlers",
        "BlobHandlers",
        "GuestHandlers",
        "MaintenanceHandlers",
        "ConsoleHandler",
        "MetricsHandler",
        "IdentityHandlers",
        "SnapshotHandlers",
        "AuditHandlers",
    ):
        monkeypatch.setattr(app_module, name, _Unused)
    audit = Audit(Spool(tmp_path / "audit", "h1"), agent.host)
    context: Any = SimpleNamespace(host=agent.host, supervisors=made.supervisors, audit=audit)
    assert all(any(hasattr(group, name) for group in groups) for name in ABOUT_A_VM)
    async with agent.serving(build_app(context, agent.gate)):
        yield made


class _Unused:
    def __init__(self, _: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name in MAY:
            raise AttributeError(name)

        async def unused(request: object) -> object:
            raise AssertionError(name)

        return unused


def test_every_peer_route_about_a_vm_is_here() -> None:
    assert sorted(MAY) == ABOUT_A_VM


@pytest.mark.parametrize("route", ABOUT_A_VM)
async def test_a_host_speaks_for_itself_alone(world: World, route: str) -> None:
    partner = MAY[route]
    assert await world.ask(route, partner, partner) == (503, "reached")
    world.supervisors.reached.clear()
    for caller, claimed in ((OTHER[partner], partner), (partner, OTHER[partner]), (partner, "h1")):
        assert await world.ask(route, caller, claimed) == (403, "wrong-host")
    assert await world.ask(route, OTHER[partner], OTHER[partner]) == (403, "not-partner")
    assert await world.ask(route, THIRD, THIRD) == (403, "not-partner")
    world.known = world.stored = None
    assert await world.ask(route, partner, partner) == (403, "not-partner")
    assert not world.supervisors.reached


@pytest.mark.parametrize("route", ABOUT_A_VM)
async def test_a_record_that_has_not_been_heard_of_is_read(world: World, route: str) -> None:
    world.known = pair(epoch=EPOCH - 1, primary="h9", secondary="h8")
    assert await world.ask(route, MAY[route], MAY[route]) == (503, "reached")
    assert world.refreshed == 1


async def test_who_asks_for_an_epoch_may_have_it_followed_before_it_is_won(world: World) -> None:
    assert await world.ask("peer_follow", "h3", "h3", EPOCH + 1) == (503, "reached")
    assert await world.ask("peer_follow", "h2", "h2", EPOCH + 1) == (403, "not-partner")


async def test_no_host_reads_a_log_in_its_own_name(world: World) -> None:
    """What a program writes is for its secondary's host, over the peer route: a person reads the other one."""
    for caller in ("h2", "h3", THIRD):
        assert await world.ask("endophyte_log", caller, caller) == (403, "role-missing")
    assert not world.supervisors.reached
