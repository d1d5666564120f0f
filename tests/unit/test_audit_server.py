"""What the API writes to the audit log: over the real application, with a gate that believes a header."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from audit_support import ALICE, context_of, node
from protection_world import endophyte, manifest, pair

from hostagent.agent.audit import open_audit
from hostagent.server.app import build_app
from hostagent.server.audit_refusals import Refusals
from hostagent.server.console import ConsoleHandler
from hostagent.server.http import Handler
from hostagent.server.identity import CALLER, IDENTITY, Caller
from hostagent.server.pace import Pace
from vdc.api.routes import ROUTES
from vdc.api.transport import REQUEST_ID, request_id
from vdc.model.audit import AuditEntry
from vdc.model.errors import ForbiddenError, UnauthenticatedError
from vdc.model.identity import Identity
from vdc.store import keys
from vdc.store.memory import MemoryStore
from vdc.store.protocol import Put

HOST = "vdc://0123456789ab/host/h1"
BOB = "vdc://0123456789ab/viewer/bob"
SECRET = "Zm9vYmFyLXNlY3JldA"


@web.middleware
async def gate(request: web.Request, handler: Handler) -> object:
    """As the real one: `caller` is who is at the other end, `identity` for whom it is."""
    who, person = request.headers.get("Test-Who"), request.headers.get("Test-For")
    if who is None:
        raise UnauthenticatedError("this needs a certificate of the cluster")
    if who == "newcomer":
        return await handler(request)
    request[CALLER] = Caller(Identity.parse(who))
    request[IDENTITY] = Identity.parse(person or who)
    if who == BOB:
        raise ForbiddenError("this needs the role operator; bob is viewer")
    return await handler(request)


class Agent:
    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()
        self.host = node(folder, self.store)
        self.audit = open_audit(self.host)
        self.context = context_of(self.host, self.audit)
        self.spool_file = self.host.config.state_dir / "audit" / "spool.jsonl"

    async def serve(self) -> None:
        self.app = build_app(self.context, SimpleNamespace(middleware=gate))  # type: ignore[arg-type]
        self.server = TestServer(self.app)
        await self.server.start_server()
        self.session = ClientSession(self.server.make_url("/"))

    async def ask(
        self, method: str, path: str, who: str | None = ALICE, body: object = None, **headers: str
    ) -> tuple[int, str]:
        """(status, id of the request)."""
        named = {"Test-Who": who} if who else {}
        more = {key.replace("_", "-"): value for key, value in headers.items()}
        async with self.session.request(method, path, json=body, headers={**named, **more}) as response:
            await response.read()
            return response.status, response.headers[REQUEST_ID]

    @property
    def entries(self) -> list[AuditEntry]:
        return self.audit.spool.waiting(1000)

    async def close(self) -> None:
        await self.session.close()
        await self.server.close()
        await self.audit.close()


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    made = Agent(tmp_path)
    web_vm = endophyte("web", protect=False)
    await made.store.commit(
        [],
        [Put(keys.endophyte("web"), web_vm.to_json()), Put(keys.pair("web"), pair(epoch=7).to_json())],
    )
    mirroring = asyncio.create_task(made.host.mirror.run())
    await made.host.mirror.synced.wait()
    await made.serve()
    yield made
    await made.close()
    mirroring.cancel()


def brief(entry: AuditEntry) -> tuple[str, ...]:
    return entry.what, entry.object, entry.result


# ---- acts


async def test_who_from_where_what_on_which_with_which_result_and_epoch(agent: Agent) -> None:
    status, request = await agent.ask("DELETE", "/v1/endophytes/web")
    assert status == 200
    (entry,) = agent.entries
    assert entry == AuditEntry(
        id=request, at=entry.at, host="h2", spool=entry.spool, number=1, who=ALICE, address="127.0.0.1",
        what="delete_endophyte", object="web", result="ok", epoch=7,
    )  # fmt: skip
    assert entry.at.endswith("Z")


async def test_an_error_is_told_by_its_code(agent: Agent) -> None:
    await agent.ask("DELETE", "/v1/endophytes/none")
    await agent.ask("POST", "/v1/endophytes/web/run", body={"state": "dancing"})
    await agent.ask("POST", "/v1/endophytes/web/promote", body={})
    assert [brief(entry) for entry in agent.entries] == [
        ("delete_endophyte", "none", "endophyte-not-found"),
        ("run_endophyte", "web", "body-invalid"),
        ("promote_endophyte", "web", "no-copy"),
    ]


async def test_an_object_that_the_body_names(agent: Agent) -> None:
    body = json.loads(manifest("db").to_json())
    await agent.ask("POST", "/v1/endophytes", body=body)
    await agent.ask("POST", "/v1/images", body={"name": "me/x\n\"'{:1", "image": {}})
    await agent.ask("DELETE", "/v1/images?name=me/x")
    found = [(entry.what, entry.object) for entry in agent.entries]
    assert found == [
        ("create_endophyte", "db"), ("register_image", "me/x????:1"), ("remove_image", "me/x"),
    ]  # fmt: skip


async def test_reading_is_no_act(agent: Agent) -> None:
    for path in ("/v1/health", "/v1/endophytes", "/v1/endophytes/web", "/v1/audit", "/v1/audit/verdict"):
        assert (await agent.ask("GET", path))[0] == 200
    assert agent.entries == []


async def test_a_body_that_cannot_be_read(agent: Agent) -> None:
    async with agent.session.post("/v1/endophytes", data=b"{", headers={"Test-Who": ALICE}) as response:
        assert response.status == 400
    async with agent.session.post(
        "/v1/endophytes", data=io.BytesIO(b"x" * 2**21), headers={"Test-Who": ALICE}
    ) as response:
        assert response.status == 413
    assert [brief(entry) for entry in agent.entries] == [("create_endophyte", "", "body-invalid")]
    await agent.audit.close()  # the others are summed up
    assert brief(agent.entries[-1]) == ("create_endophyte", "", "body-too-large")


async def test_who_acts_without_pause_is_told_to_wait(agent: Agent) -> None:
    agent.audit._pace = Pace(at_once=2, per_s=0.001)
    answers = [await agent.ask("DELETE", f"/v1/endophytes/vm{number}") for number in range(4)]
    assert [status for status, _ in answers] == [404, 404, 429, 429]
    assert [entry.result for entry in agent.entries] == ["endophyte-not-found"] * 2 + ["too-many"]
    assert (await agent.ask("GET", "/v1/endophytes"))[0] == 200


async def test_a_defect_is_told_too(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(agent.context.desired, "delete", broken)
    assert (await agent.ask("DELETE", "/v1/endophytes/web"))[0] == 500
    assert agent.entries[0].result == "internal"


async def test_it_is_on_the_disk_before_it_is_done(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def look(*_: object) -> None:
        seen.append(agent.spool_file.read_text())
        raise ZeroDivisionError

    monkeypatch.setattr(agent.context.desired, "delete", look)
    _, request = await agent.ask("DELETE", "/v1/endophytes/web")
    begun = json.loads(seen[0])["begin"]
    assert (begun["id"], begun["who"], begun["object"], begun["result"]) == (request, ALICE, "web", "unknown")


async def test_a_client_that_leaves(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def slow(*_: object) -> None:
        begun.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(agent.context.desired, "delete", slow)
    request = asyncio.create_task(agent.ask("DELETE", "/v1/endophytes/web"))
    await begun.wait()
    request.cancel()
    async with asyncio.timeout(30):
        await agent.audit.spool.changed.wait()
    assert [brief(entry) for entry in agent.entries] == [("delete_endophyte", "web", "cancelled")]


async def test_a_console_is_told_of_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def opened(_: object, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        return socket

    monkeypatch.setattr(ConsoleHandler, "endophyte_console", opened)
    agent = Agent(tmp_path)
    await agent.serve()
    path = "/v1/endophytes/web/console"
    async with agent.session.ws_connect(path, headers={"Test-Who": ALICE}) as socket:
        async with asyncio.timeout(30):
            await agent.audit.spool.changed.wait()
        assert [brief(entry) for entry in agent.entries] == [("endophyte_console", "web", "ok")]
        await socket.close()
    await agent.close()
    assert len(agent.entries) == 1


# ---- dry runs


async def test_a_dry_run_is_no_act(agent: Agent) -> None:
    body = json.loads(manifest("web").to_json())
    await agent.ask("PUT", "/v1/endophytes/web?dry_run=true", body=body)
    await agent.ask("POST", "/v1/nodes/h2/drain", body={"dry_run": True})
    await agent.ask("POST", "/v1/endophytes/web/verify", body={"dry_run": True})
    assert agent.entries == []


async def test_dry_run_said_where_nobody_listens_hides_nothing(agent: Agent) -> None:
    await agent.ask("POST", "/v1/nodes/h9/drain?dry_run=1", body={"dry_run": False})
    await agent.ask("DELETE", "/v1/endophytes/web?dry_run=1", body={"dry_run": True})
    await agent.ask("PUT", "/v1/endophytes/web?dry_run=0&dry_run=1", body={"dry_run": True})
    await agent.ask("POST", "/v1/endophytes", body={"dry_run": True})
    assert [entry.what for entry in agent.entries] == [
        "drain_node", "delete_endophyte", "apply_endophyte", "create_endophyte",
    ]  # fmt: skip


# ---- refusals


async def test_a_refusal_is_told_with_who_and_what(agent: Agent) -> None:
    assert (await agent.ask("GET", "/v1/endophytes/web", who=BOB))[0] == 403
    (entry,) = agent.entries
    assert (entry.who, entry.address, *brief(entry)) == (
        BOB, "127.0.0.1", "get_endophyte", "web", "role-missing",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "what"),
    [("GET", "/v1/health", "health"), ("POST", "/v1/endophytes", "create_endophyte"), ("GET", "/x", "none")],
)
async def test_a_refusal_of_nobody(agent: Agent, method: str, path: str, what: str) -> None:
    assert (await agent.ask(method, path, who=None, body={}))[0] == 401
    (entry,) = agent.entries
    assert (entry.who, entry.what, entry.result) == ("nobody", what, "certificate-missing")


async def test_many_refusals_are_summed_up(agent: Agent) -> None:
    for _ in range(30):
        await agent.ask("DELETE", "/v1/endophytes/web", who=None)
    assert len(agent.entries) == 1
    await agent.audit.close()
    assert [entry.count for entry in agent.entries] == [1, 29]


async def test_who_has_no_identity_yet_cannot_fill_the_disk(agent: Agent) -> None:
    """As with a join: what is granted is an act, what fails is counted."""
    for _ in range(30):
        await agent.ask("DELETE", "/v1/endophytes/none", who="newcomer")
    assert len(agent.entries) == 1 and "begin" not in agent.spool_file.read_text()
    await agent.ask("DELETE", "/v1/endophytes/web", who="newcomer")
    assert [(entry.who, entry.result) for entry in agent.entries] == [
        ("nobody", "endophyte-not-found"), ("nobody", "ok"),
    ]  # fmt: skip


# ---- between agents


async def test_what_agents_ask_of_each_other_is_no_act_unless_refused(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"epoch": 7, "from_host": "h1"}
    await agent.ask("POST", "/v1/peer/endophytes/web/follow", who=HOST, body=body)
    assert agent.entries == []

    async def refuse(*_: object) -> None:
        raise ForbiddenError("h3 is not the secondary of web", code="wrong-host")

    monkeypatch.setattr(agent.context.supervisors, "follow", refuse)
    await agent.ask("POST", "/v1/peer/endophytes/web/follow", who=HOST, body=body)
    (entry,) = agent.entries
    assert (entry.who, *brief(entry)) == (HOST, "peer_follow", "web", "wrong-host")


async def test_a_request_that_was_handed_on_keeps_its_id_and_names_both(agent: Agent) -> None:
    handed_on = {"Test_For": ALICE, REQUEST_ID.replace("-", "_"): "0123456789abcdef"}
    _, request = await agent.ask("DELETE", "/v1/endophytes/web", HOST, **handed_on)
    (entry,) = agent.entries
    assert (entry.id, entry.who, entry.via) == ("0123456789abcdef", ALICE, "h1") and request == entry.id


async def test_people_do_not_choose_their_requests_ids(agent: Agent) -> None:
    await agent.ask("DELETE", "/v1/endophytes/web", **{REQUEST_ID.replace("-", "_"): "0123456789abcdef"})
    assert agent.entries[0].id != "0123456789abcdef"


async def test_what_a_handler_asks_on_carries_the_id(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def look(*_: object) -> None:
        seen.append(request_id.get())
        raise ZeroDivisionError

    monkeypatch.setattr(agent.context.desired, "delete", look)
    _, request = await agent.ask("DELETE", "/v1/endophytes/web")
    assert seen == [request]


# ---- every route


def test_which_routes_are_acts() -> None:
    acts = {route.name for route in ROUTES if route.is_act}
    assert "endophyte_console" in acts
    for route in ROUTES:
        is_persons_change = route.method not in ("GET", "HEAD") and not route.is_peer
        assert route.name in acts or not (is_persons_change or route.hands_out_keys), route.name
    assert {"peer_authority", "join", "renew", "create_token", "add_user", "revoke"} <= acts
    assert not {"list_audit", "verify_audit", "peer_audit_head", "read_blob", "peer_quiesce"} & acts


@pytest.mark.parametrize("who", [ALICE, BOB, None], ids=["operator", "viewer", "nobody"])
async def test_no_secret_is_written(agent: Agent, who: str | None) -> None:
    """Neither a body nor a header nor a query gets into the spool, the log in etcd or the agent's log."""
    secrets = dict.fromkeys(("key", "token", "secret", "csr", "password", "by", "reason", "ca"), SECRET)
    body = {**secrets, "metadata": secrets, "nested": [secrets], "dry_run": SECRET}
    query = "&".join(f"{key}={SECRET}" for key in secrets)
    logged: list[object] = []
    agent.host.log = SimpleNamespace(info=lambda *what, **more: logged.append((what, more)))  # type: ignore[assignment]
    for route in ROUTES:
        if who == ALICE and not route.is_act:
            continue  # streams
        path = (
            route.path.replace("{name}", "web")
            .replace("{snapshot}", "one")
            .replace("{backup}", "20260131-235959-0a1b")
            .replace("{disk}", "0")
            .replace("{digest}", "sha256:" + "0" * 64)
        )
        path = path.replace("{serial}", "5").replace("{id}", "7")  # not a token's secret
        assert "{" not in path, (
            f"give the placeholder of {path} a value here, and be sure that it is no secret"
        )
        before = len(agent.entries)
        agent.audit._refusals = Refusals()
        await agent.ask(
            route.method, f"{path}?{query}", who, body, Authorization=f"Bearer {SECRET}", Cookie=SECRET
        )
        assert [entry.what for entry in agent.entries[before:]] == [route.name]
    await agent.audit.close()
    written = agent.spool_file.read_text() + "".join(entry.text for entry in agent.entries) + str(logged)
    assert SECRET not in written and len(logged) == len(agent.entries) > 10
