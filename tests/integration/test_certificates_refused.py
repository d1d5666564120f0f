"""Whose certificate does not count is told so, over real TLS, by the exact code and before any handler."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from identity_world import World, world
from pki_support import CLUSTER, authority

from hostagent.drivers.trust import Trust
from hostagent.server.http import errors_as_problems
from hostagent.server.identity import Gate
from vdc.api.client import ApiClient
from vdc.api.identities import RenewRequest, TokenRequest
from vdc.api.routes import ROUTES
from vdc.model.errors import ForbiddenError, UnauthenticatedError, VdcError
from vdc.model.identity import Role
from vdc.security import cluster
from vdc.security.certificates import read_certificate
from vdc.security.credentials import UserCredentials
from vdc.security.keys import key_to_pem, make_request, new_key
from vdc.security.tls import server_context

__all__ = ["world"]
LOOPBACK = "127.0.0.1"
pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")


@pytest.fixture
async def endpoint(world: World) -> AsyncIterator[str]:
    world.clock.now = datetime.now(UTC)
    await world.found("h1", "h2", "w1")
    agent = world.agents["h1"]
    trust = Trust(agent.keyring)
    gate = Gate(agent.host, trust, lambda serial: serial in agent.mirror.revoked, lambda: world.clock.now)

    @web.middleware
    async def current(request: web.Request, handler):
        await agent.mirror.read_all()
        return await handler(request)

    app = web.Application(middlewares=[errors_as_problems, current, gate.middleware])  # type: ignore[list-item]
    for route in ROUTES:
        if (handler := getattr(agent.handlers, route.name, None)) is not None:
            app.router.add_route(route.method, route.path, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    listening = socket.create_server((LOOPBACK, 0))
    await web.SockSite(runner, listening, ssl_context=server_context(agent.keyring.credentials)).start()
    yield f"https://{LOOPBACK}:{listening.getsockname()[1]}"
    await runner.cleanup()


def user(world: World, role: Role = Role.ADMIN, *, at: timedelta = timedelta(), by=None) -> UserCredentials:
    made = cluster.issue_user(by or world.authority, name="eve", role=role, now=world.clock.now + at)
    return UserCredentials(world.authority.pem, made.certificate_pem, made.key_pem)


def machine(world: World, name: str) -> UserCredentials:
    found = world.agents[name].keyring.credentials
    return UserCredentials(found.bundle_pem, found.certificate_pem, found.key_pem)


async def refusal(endpoint: str, shown: UserCredentials | None, ask=lambda api: api.list_users()) -> VdcError:
    async with ApiClient([endpoint], credentials=shown) as api:
        with pytest.raises(VdcError) as caught:
            await ask(api.identities)
    return caught.value


async def test_a_certificate_of_the_cluster_opens_what_its_role_includes(world: World, endpoint: str) -> None:
    async with ApiClient([endpoint], credentials=user(world)) as api:
        assert [found.name for found in (await api.identities.list_users()).items] == ["admin"]


@pytest.mark.parametrize(
    ("days", "code"), [(-400, "certificate-expired"), (1, "certificate-early")], ids=["expired", "early"]
)
async def test_one_that_is_not_valid_now(world: World, endpoint: str, days: int, code: str) -> None:
    error = await refusal(endpoint, user(world, at=timedelta(days=days)))
    assert isinstance(error, UnauthenticatedError)
    assert error.code == code
    assert error.problem.hint


async def test_one_of_another_authority_that_says_the_same(world: World, endpoint: str) -> None:
    error = await refusal(endpoint, user(world, by=authority(number=1)))
    assert (type(error), error.code) == (UnauthenticatedError, "certificate-foreign")


async def test_a_revoked_one_on_a_connection_that_is_open(world: World, endpoint: str) -> None:
    shown = user(world)
    async with ApiClient([endpoint], credentials=shown) as api:
        await api.identities.list_users()
        await api.identities.revoke(read_certificate(shown.certificate_pem).serial)
        with pytest.raises(UnauthenticatedError) as caught:
            await api.identities.list_users()
    assert caught.value.code == "certificate-revoked"


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
async def test_one_of_a_lesser_role(world: World, endpoint: str, role: Role) -> None:
    error = await refusal(endpoint, user(world, role), lambda api: api.create_token(TokenRequest()))
    assert (type(error), error.code) == (ForbiddenError, "role-missing")
    assert str(error) == f"this needs the role admin; eve is {role}"


async def test_a_person_s_where_a_host_s_is_needed(world: World, endpoint: str) -> None:
    error = await refusal(endpoint, user(world), lambda api: api.peer_authority())
    assert (error.code, str(error)) == ("role-missing", "this needs the role host; eve is admin")


@pytest.mark.parametrize("name", ["h2", "w1"])
async def test_a_host_s_that_is_used_from_another_place(world: World, endpoint: str, name: str) -> None:
    for ask in (
        lambda api: api.peer_authority(),
        lambda api: api.renew(RenewRequest(request=make_request(new_key()))),
    ):
        error = await refusal(endpoint, machine(world, name), ask)
        assert (error.code, str(error)) == ("wrong-host", f"127.0.0.1 is no address of {name}")


async def test_none_at_all_but_where_none_is_needed(world: World, endpoint: str) -> None:
    nobody = UserCredentials(world.authority.pem, "", "")
    error = await refusal(endpoint, nobody)
    assert (type(error), error.code) == (UnauthenticatedError, "certificate-missing")
    async with ApiClient([endpoint], credentials=nobody) as api:
        assert (await api.identities.authority()).cluster == CLUSTER


async def test_a_key_that_is_not_the_certificate_s(world: World, endpoint: str) -> None:
    shown = UserCredentials(world.authority.pem, user(world).certificate_pem, key_to_pem(new_key()))
    with pytest.raises(VdcError) as caught:
        ApiClient([endpoint], credentials=shown)
    assert caught.value.code == "key-mismatch"
