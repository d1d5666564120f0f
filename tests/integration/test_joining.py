"""`hostagent join` against real TLS servers: the cluster's own agent, and those who pretend to be it."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from identity_world import Agent, World, admin, world

from hostagent.agent.joining import join
from hostagent.config import AgentConfig
from vdc.api.identities import TokenRequest
from vdc.model.errors import VdcError
from vdc.model.identity import Role
from vdc.security import cluster
from vdc.security.folder import AUTHORITY_KEY, HostCredentials, load_credentials, pki_folder, write_private
from vdc.security.tls import server_context
from vdc.security.tokens import Token, parse_token

__all__ = ["world"]
LOOPBACK = "127.0.0.1"


class Heard(list[str]):
    """What arrived at a server, whatever it answered."""

    @web.middleware
    async def note(self, request: web.Request, handler):
        self.append(f"{request.method} {request.path}")
        return await handler(request)


@asynccontextmanager
async def serving(app: web.Application, credentials: HostCredentials) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    listening = socket.create_server((LOOPBACK, 0))
    await web.SockSite(runner, listening, ssl_context=server_context(credentials)).start()
    try:
        yield f"https://{LOOPBACK}:{listening.getsockname()[1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def today(world: World) -> World:
    world.clock.now = datetime.now(UTC)  # OpenSSL reads the machine's clock
    await world.found("h1", "h2")
    return world


async def token_of(world: World, endpoint: str, role: Role = Role.HOST) -> Token:
    made = await (await world.ask("h1", admin())).create_token(TokenRequest(role=role))
    return replace(parse_token(made.token), endpoint=endpoint)


def newcomer(world: World, name: str = "h7", *, witness: bool = False) -> AgentConfig:
    return Agent(world, name, 7, Role.WITNESS if witness else Role.HOST).config


async def code_of(work) -> str:
    with pytest.raises(VdcError) as caught:
        await work
    return caught.value.code


@pytest.mark.parametrize("witness", [False, True])
async def test_a_host_joins_and_has_everything_that_it_needs(today: World, witness: bool) -> None:
    agent, config = today.agents["h1"], newcomer(today, witness=witness)
    async with serving(agent.app(None), agent.keyring.credentials) as endpoint:
        token = await token_of(today, endpoint, Role.WITNESS if witness else Role.HOST)
        identity = await join(config, token.text)
        again = newcomer(today, "h8", witness=witness)
        assert await code_of(join(again, token.text)) == "token-used"
        assert await code_of(join(config, token.text)) == "already-a-member"
    assert (identity.name, identity.role) == ("h7", Role.WITNESS if witness else Role.HOST)
    found = load_credentials(pki_folder(config.state_dir))
    assert found.certificate.addresses == ("10.0.0.7", "10.1.0.7", LOOPBACK)
    assert found.held == ()
    assert not (pki_folder(again.state_dir) / "host.crt").exists()


async def test_a_member_joins_anew_with_its_own_key_and_without_the_clusters(today: World) -> None:
    agent, config = today.agents["h1"], newcomer(today)
    folder = pki_folder(config.state_dir)
    async with serving(agent.app(None), agent.keyring.credentials) as endpoint:
        await join(config, (await token_of(today, endpoint, Role.HOST)).text)
        first = load_credentials(folder)
        write_private(folder / AUTHORITY_KEY, "what somebody may have read")
        await join(config, (await token_of(today, endpoint, Role.HOST)).text, anew=True)
    second = load_credentials(folder)
    assert second.key_pem == first.key_pem
    assert second.certificate.serial != first.certificate.serial
    assert second.held == ()


async def test_whoever_is_in_between_gets_nothing(today: World, tmp_path: Path) -> None:
    """Another cluster's agent answers at the address: it is asked for its authority, and that is all."""
    evil = cluster.init(tmp_path, host="h1", addresses=[LOOPBACK], now=today.clock.now)
    heard = Heard()
    app = web.Application(middlewares=[heard.note])

    async def own_bundle(_: web.Request) -> web.Response:
        return web.json_response({"cluster": evil.cluster, "bundle": evil.authority.pem})

    app.router.add_get("/v1/authority", own_bundle)
    async with serving(app, evil.host) as endpoint:
        token = await token_of(today, endpoint)
        assert await code_of(join(newcomer(today), token.text)) == "authority-mismatch"
    assert heard == ["GET /v1/authority"]


async def test_whoever_shows_the_right_authority_without_its_key_gets_nothing(
    today: World, tmp_path: Path
) -> None:
    """The bundle is public: showing it proves nothing, and the token is not sent."""
    evil = cluster.init(tmp_path, host="h1", addresses=[LOOPBACK], now=today.clock.now)
    heard = Heard()
    app = web.Application(middlewares=[heard.note])

    async def true_bundle(_: web.Request) -> web.Response:
        both = evil.authority.pem + today.authority.pem
        return web.json_response({"cluster": evil.cluster, "bundle": both})

    app.router.add_get("/v1/authority", true_bundle)
    async with serving(app, evil.host) as endpoint:
        token = await token_of(today, endpoint)
        assert await code_of(join(newcomer(today), token.text)) == "authority-mismatch"
    assert heard == ["GET /v1/authority"]
    await (await today.ask("h1", admin())).revoke_token(token.id)  # it is as good as before


async def test_a_host_of_the_cluster_does_not_answer_for_an_address_that_is_not_its_own(
    today: World, tmp_path: Path
) -> None:
    user = cluster.issue_user(today.authority, name="eve", role=Role.ADMIN, now=today.clock.now)
    (tmp_path / "eve.pem").write_text(user.certificate_pem + user.key_pem)
    agent, heard = today.agents["h1"], Heard()
    app = agent.app(None)
    app.middlewares.append(heard.note)
    context = server_context(agent.keyring.credentials)
    context.load_cert_chain(tmp_path / "eve.pem")  # a person's certificate serves nowhere
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    listening = socket.create_server((LOOPBACK, 0))
    await web.SockSite(runner, listening, ssl_context=context).start()
    try:
        token = await token_of(today, f"https://{LOOPBACK}:{listening.getsockname()[1]}")
        assert await code_of(join(newcomer(today), token.text)) == "authority-mismatch"
    finally:
        await runner.cleanup()
    assert heard == ["GET /v1/authority"]


async def test_a_witness_in_a_hosts_place_does_not_get_the_token(today: World, tmp_path: Path) -> None:
    """Whoever can write to etcd can make itself the addressee of any address, and a witness can."""
    bad = cluster.issue_host_folder(
        today.authority, tmp_path, name="w9", addresses=[LOOPBACK], now=today.clock.now, role=Role.WITNESS
    )
    app, heard = today.agents["h1"].app(None), Heard()
    app.middlewares.append(heard.note)
    async with serving(app, bad) as endpoint:
        token = await token_of(today, endpoint)
        assert await code_of(join(newcomer(today), token.text)) == "authority-mismatch"
    assert heard == ["GET /v1/authority"]

    heard.clear()
    real = today.agents["h1"]
    async with serving(real.app(None), real.keyring.credentials) as host, serving(app, bad) as witness:
        ways = iter([witness, host, witness])  # the second, which looks who answers, is let through

        async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = urlsplit(next(ways))
            far_reader, far_writer = await asyncio.open_connection(there.hostname, there.port)
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

        async with await asyncio.start_server(lead, LOOPBACK, 0) as between:
            token = await token_of(today, f"https://{LOOPBACK}:{between.sockets[0].getsockname()[1]}")
            assert await code_of(join(newcomer(today), token.text)) == "wrong-host"
    assert heard == ["GET /v1/authority"]


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()


async def test_tokens_that_are_no_good_are_refused_one_by_one(today: World) -> None:
    agent, config = today.agents["h1"], newcomer(today)
    async with serving(agent.app(None), agent.keyring.credentials) as endpoint:
        token = await token_of(today, endpoint)
        assert await code_of(join(config, "nonsense")) == "token-invalid"
        forged = replace(token, secret=bytes(32))
        assert await code_of(join(config, forged.text)) == "token-invalid"
        in_clear = replace(token, endpoint=endpoint.replace("https", "http"))
        assert await code_of(join(config, in_clear.text)) == "token-invalid"
        today.pass_time(timedelta(hours=1))
        assert await code_of(join(config, token.text)) == "token-expired"
    assert await code_of(join(config, token.text)) == "agent-unreachable"


async def test_a_lost_answer_needs_another_token_and_the_same_key(today: World) -> None:
    agent, config = today.agents["h1"], newcomer(today)
    app = agent.app(None)

    @web.middleware
    async def lose(request: web.Request, handler):
        answer = await handler(request)
        if request.path == "/v1/join":
            assert request.transport is not None
            request.transport.abort()
        return answer

    app.middlewares.insert(0, lose)
    async with serving(app, agent.keyring.credentials) as endpoint:
        first = await token_of(today, endpoint)
        assert await code_of(join(config, first.text)) == "outcome-unknown"
    async with serving(agent.app(None), agent.keyring.credentials) as endpoint:
        second = await token_of(today, endpoint)
        assert (await join(config, second.text)).name == "h7"


async def test_the_first_hosts_join_before_the_cluster_has_records(world: World) -> None:
    """Three members of etcd need two before anything can be stored; the first agent lets those in that it expects."""
    world.clock.now = datetime.now(UTC)
    await world.found()
    first = Agent(world, "h1", 1, Role.HOST)
    cluster.init(first.folder, host="h1", addresses=["10.0.0.1"], now=world.clock.now)
    await first.start()
    members = {"h1": "10.0.0.1", "h7": "10.0.0.7"}
    expected = first.config.etcd.model_copy(
        update={"embedded": type("Embedded", (), {"members": members})(), "endpoints": ()}
    )
    first.host.config = first.config.model_copy(update={"etcd": expected})
    endpoint_app = first.app(None, reads_records=False)
    async with serving(endpoint_app, first.keyring.credentials) as endpoint:
        tokens = [await token_of(world, endpoint) for _ in range(4)]
        world.store.cut_off()
        identity = await join(newcomer(world), tokens[0].text)
        assert identity.name == "h7"
        assert await code_of(join(newcomer(world, "h9"), tokens[1].text)) == "store-unavailable"
        other = newcomer(world).model_copy(update={"state_dir": world.folder / "other"})
        assert await code_of(join(other, tokens[2].text)) == "host-known"
        world.store.cut_off(is_unavailable=False)
        await world.settle()
        assert {found.value.identity.name for found in first.mirror.certificates.values()} == {
            "h1",
            "h7",
            "admin",
        }
        world.store.cut_off()
        assert await code_of(join(other, tokens[3].text)) == "store-unavailable"
    await asyncio.sleep(0)
