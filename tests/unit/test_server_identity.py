"""Every route has a role, and over the agent's real application nobody gets further than that role."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from gate_support import ADDRESS, MONTH, Agent, build, path_of, serial_of, serving_agent, session_of, shown
from pki_support import CLUSTER, authority_now

from hostagent.server.identity import revoked_by
from vdc.api.openapi import build_openapi
from vdc.api.routes import BY_NAME, ROUTES, Route
from vdc.api.transport import ACTING_FOR
from vdc.model.identity import USER_ROLES, Identity, Role
from vdc.security.authority import Authority
from vdc.security.folder import AUTHORITY_KEY, BUNDLE, CERTIFICATE, REVOKED, SEEN, write_private

NAMES = {Role.HOST: "h2", Role.WITNESS: "w1"}
SHOWN = [Role.NOBODY, *USER_ROLES, Role.WITNESS, Role.HOST]


@pytest.fixture
async def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agent]:
    async with serving_agent(tmp_path, monkeypatch) as made:
        yield made


def session_as(role: Role) -> aiohttp.ClientSession:
    return session_of() if role is Role.NOBODY else session_of(*shown(role, NAMES.get(role, role)))


async def ask(
    agent: Agent, session: aiohttp.ClientSession, route: Route | str, **headers: str
) -> tuple[int, Any]:
    found = BY_NAME[route] if isinstance(route, str) else route
    url = agent.url(path_of(found))
    async with session.request(found.method, url, data=b"{}", headers=headers) as answer:
        body = await answer.read()
        return answer.status, (await answer.json() if body else {})


def test_what_may_be_done_without_a_certificate_and_by_machines_is_what_was_meant() -> None:
    assert {route.name for route in ROUTES if route.role is Role.NOBODY} == {"authority", "join"}
    assert {route.name for route in ROUTES if route.by_hosts} == {
        "health", "promote_endophyte", "read_blob", "read_chunks", "renew"
    }  # fmt: skip
    assert {route.name for route in ROUTES if route.from_newcomers} == {"health", "peer_revoked"}
    assert all(route.is_peer == route.path.startswith("/v1/peer/") for route in ROUTES)
    looks = {route.name for route in ROUTES if route.role is Role.VIEWER} - {"renew"}
    assert all(BY_NAME[name].method == "GET" for name in looks)
    assert BY_NAME["promote_endophyte"].forced_role is Role.ADMIN


def test_the_contract_tells_the_role() -> None:
    for path, operations in build_openapi()["paths"].items():
        for operation in operations.values():
            assert operation["x-role"] == BY_NAME[operation["operationId"]].role, path


async def test_a_handler_without_a_row_in_the_table_is_never_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that aiohttp adds by itself (HEAD for a GET) would else be open to every role."""
    with socket.create_server((ADDRESS, 0)) as free:
        port = free.getsockname()[1]
    made = Agent(tmp_path, port)
    app = build(made, monkeypatch)

    async def forgotten(_: web.Request) -> web.Response:
        return web.Response(text="reached")

    app.router.add_get("/v1/forgotten", forgotten)
    async with made.serving(app), session_as(Role.ADMIN) as session:
        for method in ("GET", "HEAD"):
            async with session.request(method, made.url("/v1/forgotten")) as answer:
                assert answer.status == 500
                assert "reached" not in await answer.text()


@pytest.mark.parametrize("role", SHOWN)
async def test_every_route_refuses_every_lesser_role(agent: Agent, role: Role) -> None:
    name = NAMES.get(role, role)
    async with session_as(role) as session:
        for route in ROUTES:
            status, answer = await ask(agent, session, route)
            if role is Role.NOBODY and route.role is not Role.NOBODY:
                assert status == 401, route.name
                assert route.method == "HEAD" or answer["code"] == "certificate-missing", route.name
            elif route.admits(role):
                assert status == 200, (route.name, answer)
            else:
                assert status == 403, route.name
                if route.method != "HEAD":
                    assert answer["code"] == "role-missing", route.name
                    assert answer["message"] == f"this needs the role {route.role}; {name} is {role}"


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://elsewhere.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
async def test_a_page_does_not_act_with_the_certificate_of_who_looks_at_it(
    agent: Agent, headers: dict[str, str]
) -> None:
    async with session_as(Role.ADMIN) as session:
        status, problem = await ask(agent, session, "rotate_authority", **headers)
        assert (status, problem["code"]) == (403, "cross-site")
        assert (await ask(agent, session, "health", **{"Sec-Fetch-Site": "none"}))[0] == 200


async def test_what_is_no_route_is_not_told_to_nobody(agent: Agent) -> None:
    async with session_of() as nobody, session_as(Role.VIEWER) as viewer:
        for session, status in ((nobody, 401), (viewer, 404)):
            async with session.get(agent.url("/v1/nowhere")) as answer:
                assert answer.status == status


async def test_root_at_the_unix_socket_is_the_administrator(agent: Agent) -> None:
    connector = aiohttp.UnixConnector(str(agent.socket))
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.delete("http://x/v1/nodes/h2") as answer:
            assert (await answer.json())["as"] == f"vdc://{CLUSTER}/admin/root"
        async with session.post("http://x/v1/peer/endophytes/web/quiesce") as answer:
            assert (answer.status, (await answer.json())["code"]) == (403, "role-missing")
    assert agent.socket.stat().st_mode & 0o777 == 0o600


# ---- certificates that do not count


async def test_a_certificate_that_ran_out_says_so(agent: Agent) -> None:
    old = shown(Role.ADMIN, "old", issued_ago=MONTH + timedelta(days=1))
    async with session_of(*old) as session:
        status, answer = await ask(agent, session, "list_nodes")
    assert (status, answer["code"]) == (401, "certificate-expired")


async def test_another_authoritys_certificate_gets_no_answer(agent: Agent) -> None:
    foreign = Authority.create(CLUSTER, authority_now().certificate.not_valid_before_utc)
    async with session_of(*shown(Role.ADMIN, "eve", authority=foreign)) as session:
        with pytest.raises(aiohttp.ClientError):
            await ask(agent, session, "list_nodes")


async def test_a_revoked_certificate_ends_with_the_next_request_and_its_streams_at_once(agent: Agent) -> None:
    alice = shown(Role.VIEWER, "alice")
    async with session_of(*alice) as session:
        assert (await ask(agent, session, "list_nodes"))[0] == 200
        agent.revoked.add(serial_of(alice[0]))
        status, answer = await ask(agent, session, "list_nodes")
        assert (status, answer["code"]) == (401, "certificate-revoked")
    reader, writer = await asyncio.open_connection(ADDRESS, agent.port, ssl=session_context(alice))
    writer.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"401" in await reader.readline()
    agent.gate.drop_ended()
    await asyncio.wait_for(reader.read(), 30)
    assert reader.at_eof()
    writer.close()


async def test_a_stream_ends_with_the_certificate_it_was_opened_by(agent: Agent) -> None:
    at = datetime.now(UTC)
    agent.gate._now = lambda: at
    reader, writer = await asyncio.open_connection(
        ADDRESS, agent.port, ssl=session_context(shown(Role.VIEWER, "alice"))
    )
    writer.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200" in await reader.readline()
    agent.gate.drop_ended()
    at += MONTH + timedelta(seconds=1)
    writer.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
    while b"401" not in await asyncio.wait_for(reader.readline(), 30):
        pass
    agent.gate.drop_ended()
    await asyncio.wait_for(reader.read(), 30)
    assert reader.at_eof()
    writer.close()


async def test_a_connection_of_a_retired_authority_ends_with_it(agent: Agent) -> None:
    """A key that was stolen is why it was retired: its thief would else stay for as long as a connection does."""
    folder, new = agent.trust.folder, Authority.create(CLUSTER, datetime.now(UTC))
    carol = shown(Role.ADMIN, "carol")
    reader, writer = await asyncio.open_connection(ADDRESS, agent.port, ssl=session_context(carol))
    writer.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200" in await reader.readline()
    early, waiting = await asyncio.open_connection(ADDRESS, agent.port, ssl=session_context(carol))

    renewed = new.renew((folder / CERTIFICATE).read_text(), datetime.now(UTC))
    write_private(folder / BUNDLE, new.pem)
    write_private(folder / CERTIFICATE, renewed)
    (folder / AUTHORITY_KEY).unlink()
    agent.trust._keyring.reload()

    await asyncio.wait_for(reader.read(), 30)
    assert reader.at_eof()
    waiting.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await asyncio.wait_for(early.readuntil(b"}"), 30)
    assert b"401" in answer and b"certificate-foreign" in answer
    for each in (writer, waiting):
        each.close()


async def test_before_the_records_are_read_the_last_list_counts_and_nothing_is_changed(agent: Agent) -> None:
    alice, eve = shown(Role.ADMIN, "alice"), shown(Role.ADMIN, "eve")
    keyring = agent.trust._keyring
    assert keyring.credentials.authority is not None
    now = datetime.now(UTC)
    text = keyring.credentials.authority.revocation_list([(serial_of(eve[0]), now)], now)
    write_private(keyring.folder / REVOKED, text)
    mirror: Any = SimpleNamespace(revoked=set(), synced=agent.synced)
    agent.gate._is_revoked = revoked_by(mirror, keyring)
    agent.synced.is_set = lambda: False
    async with session_of(*alice) as session, session_of(*eve) as revoked:
        assert (await ask(agent, session, "create_token"))[0] == 200  # the cluster is only being founded
        write_private(keyring.folder / SEEN, "{}")
        for route in ("create_token", "add_user", "revoke", "promote_endophyte"):
            status, answer = await ask(agent, session, route)
            assert (status, answer["code"]) == (503, "not-synced")
        assert (await ask(agent, session, "list_nodes"))[0] == 200
        assert (await ask(agent, revoked, "list_nodes"))[1]["code"] == "certificate-revoked"
        agent.synced.is_set = lambda: True
        assert (await ask(agent, revoked, "list_nodes"))[0] == 200  # the records say that it was taken back
        assert (await ask(agent, session, "create_token"))[0] == 200


def session_context(pair: tuple[str, str]) -> Any:
    from gate_support import context_of

    return context_of(*pair)


async def test_an_identity_of_another_cluster_is_foreign_whoever_signed_it(agent: Agent) -> None:
    agent.gate._cluster = "ffffffffffff"
    async with session_as(Role.ADMIN) as session:
        status, answer = await ask(agent, session, "list_nodes")
    assert (status, answer["code"]) == (401, "certificate-foreign")


# ---- hosts


async def test_a_hosts_certificate_counts_at_its_own_address_alone(agent: Agent) -> None:
    async with session_as(Role.HOST) as session:
        assert (await ask(agent, session, "peer_quiesce"))[0] == 200
        agent.known["h2"] = "192.0.2.2"
        for route in ("peer_quiesce", "read_blob", "health"):
            status, answer = await ask(agent, session, route)
            assert (status, answer["code"]) == (403, "wrong-host"), route


async def test_a_host_that_nobody_knows_may_ask_what_newcomers_need(agent: Agent) -> None:
    del agent.known["h2"]
    async with session_as(Role.HOST) as session:
        status, answer = await ask(agent, session, "peer_quiesce")
        assert (status, answer["code"]) == (403, "wrong-host")
        assert (await ask(agent, session, "health"))[0] == 200
        agent.synced.is_set = lambda: False
        status, answer = await ask(agent, session, "peer_quiesce")
        assert (status, answer["code"]) == (503, "not-synced")


async def test_a_host_hands_a_persons_request_on_and_the_persons_role_counts(agent: Agent) -> None:
    def named(role: Role, cluster: str = CLUSTER) -> str:
        return Identity(cluster=cluster, role=role, name="alice").uri

    async with (
        session_as(Role.HOST) as host,
        session_as(Role.WITNESS) as witness,
        session_as(Role.ADMIN) as admin,
    ):
        status, answer = await ask(agent, host, "describe_endophyte", **{ACTING_FOR: named(Role.VIEWER)})
        assert (status, answer["as"]) == (200, named(Role.VIEWER))
        status, answer = await ask(agent, host, "verify_endophyte", **{ACTING_FOR: named(Role.VIEWER)})
        assert (status, answer["code"]) == (403, "role-missing")
        assert (await ask(agent, host, "describe_endophyte"))[0] == 403
        for other, wrong in (
            (host, named(Role.HOST)), (host, named(Role.VIEWER, "ffffffffffff")),
            (witness, named(Role.VIEWER)), (admin, named(Role.VIEWER)),
        ):  # fmt: skip
            status, answer = await ask(agent, other, "describe_endophyte", **{ACTING_FOR: wrong})
            assert (status, answer["code"]) == (403, "acting-for")
        status, answer = await ask(agent, host, "describe_endophyte", **{ACTING_FOR: "root"})
        assert (status, answer["code"]) == (400, "identity-invalid")


# ---- the listener


async def test_a_new_certificate_is_shown_to_the_next_and_nobody_is_cut_off(agent: Agent) -> None:
    folder = agent.trust.folder
    async with session_as(Role.VIEWER) as session:
        assert (await ask(agent, session, "health"))[0] == 200
        before = await shown_by(agent)
        authority = agent.trust._keyring.credentials.authority
        assert authority is not None
        renewed = authority.renew((folder / CERTIFICATE).read_text(), datetime.now(UTC))
        write_private(folder / CERTIFICATE, renewed)
        agent.trust._keyring.reload()
        async with asyncio.timeout(30):
            while await shown_by(agent) == before:
                await asyncio.sleep(0.01)
        assert (await ask(agent, session, "health"))[0] == 200
        assert len(session.connector._conns) == 1  # type: ignore[union-attr]


async def shown_by(agent: Agent) -> bytes:
    context = session_context(shown(Role.VIEWER, "alice"))
    _, writer = await asyncio.open_connection(ADDRESS, agent.port, ssl=context)
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return found


async def test_what_is_not_tls_gets_nothing(agent: Agent) -> None:
    reader, writer = await asyncio.open_connection(ADDRESS, agent.port)
    writer.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"HTTP" not in await reader.read()
    writer.close()
