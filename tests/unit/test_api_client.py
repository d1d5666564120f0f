"""The client against real servers: which agent is asked, what is repeated, how errors arrive."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web
from api_support import QUICK, Agent, hang, nodes, problem

from vdc.api.client import ApiClient
from vdc.api.transport import DONE_ELSEWHERE
from vdc.model.endophyte import RunState
from vdc.model.errors import (
    BugError,
    ConflictError,
    InvalidError,
    NotFoundError,
    Problem,
    UnavailableError,
)
from vdc.model.manifest import EndophyteManifest


def manifest(name: str = "a") -> EndophyteManifest:
    return EndophyteManifest.model_validate({"metadata": {"name": name}, "spec": {"image": "mycelium/mini"}})


async def test_a_refused_endpoint_is_passed_over_and_the_good_one_remembered(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "h2")
    agent.on("GET", "/v1/nodes", nodes)
    async with (
        agent.running(),
        ApiClient([f"unix://{tmp_path}/absent", agent.endpoint], deadlines=QUICK) as api,
    ):
        assert (await api.list_nodes()).items == ()
        await api.list_nodes()
    assert agent.asked == ["GET /v1/health", "GET /v1/nodes", "GET /v1/nodes"]


async def test_a_silent_agent_loses_the_race(tmp_path: Path) -> None:
    silent, agent = Agent(tmp_path, "h1"), Agent(tmp_path, "h2")
    silent.on("GET", "/v1/health", hang)
    async with (
        silent.running(health=False),
        agent.running(),
        ApiClient([silent.endpoint, agent.endpoint], deadlines=QUICK) as api,
    ):
        assert (await api.health()).sentence == "h2"


async def test_an_agent_that_is_unwell_is_taken_only_when_no_other_answers(tmp_path: Path) -> None:
    unwell, agent = Agent(tmp_path, "h1"), Agent(tmp_path, "h2")
    unwell.on("GET", "/v1/health", lambda _: problem(UnavailableError("no store", code="store-unavailable")))
    unwell.on("GET", "/v1/nodes", nodes)
    agent.on("GET", "/v1/nodes", nodes)
    async with unwell.running(health=False):
        async with agent.running(), ApiClient([unwell.endpoint, agent.endpoint], deadlines=QUICK) as api:
            await api.list_nodes()
            assert agent.asked[-1] == "GET /v1/nodes"
        async with ApiClient([unwell.endpoint, agent.endpoint], deadlines=QUICK) as api:
            await api.list_nodes()
            assert unwell.asked[-1] == "GET /v1/nodes"


async def test_a_read_goes_on_elsewhere_when_its_agent_falls_silent_or_answers_503(tmp_path: Path) -> None:
    first, second, third = (Agent(tmp_path, f"h{n}") for n in (1, 2, 3))
    first.on("GET", "/v1/nodes", hang)
    second.on("GET", "/v1/nodes", lambda _: problem(UnavailableError("no store")))
    third.on("GET", "/v1/nodes", nodes)
    async with first.running(), second.running(), third.running():
        endpoints = [first.endpoint, second.endpoint, third.endpoint]
        async with ApiClient(endpoints, deadlines=QUICK) as api:
            assert (await api.list_nodes()).items == ()
        assert "GET /v1/nodes" in third.asked


async def test_the_503_of_the_last_agent_is_the_answer(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "h1")
    agent.on(
        "GET", "/v1/nodes", lambda _: problem(UnavailableError("etcd is down", code="store-unavailable"))
    )
    async with agent.running(), ApiClient([f"unix://{tmp_path}/no", agent.endpoint], deadlines=QUICK) as api:
        with pytest.raises(UnavailableError, match="etcd is down") as caught:
            await api.list_nodes()
    assert caught.value.code == "store-unavailable"


async def test_a_post_that_was_sent_is_never_repeated(tmp_path: Path) -> None:
    first, second = Agent(tmp_path, "h1"), Agent(tmp_path, "h2")
    for agent in (first, second):
        agent.on("POST", "/v1/endophytes", hang)
    async with (
        first.running(),
        second.running(),
        ApiClient([first.endpoint, second.endpoint], deadlines=QUICK) as api,
    ):
        with pytest.raises(UnavailableError) as caught:
            await api.create_endophyte(manifest())
    assert caught.value.code == "outcome-unknown"
    assert (first.asked + second.asked).count("POST /v1/endophytes") == 1


async def test_a_post_that_could_not_be_sent_goes_to_the_next_agent(tmp_path: Path) -> None:
    first, second = Agent(tmp_path, "h1"), Agent(tmp_path, "h2")
    second.on("POST", "/v1/endophytes", lambda _: problem(ConflictError("taken", code="name-taken")))
    async with second.running(), ApiClient([first.endpoint, second.endpoint], deadlines=QUICK) as api:
        async with first.running():
            await api.health()  # h1 is remembered, and gone when it is asked to create
        with pytest.raises(ConflictError) as caught:
            await api.create_endophyte(manifest())
    assert caught.value.code == "name-taken"


async def test_nobody_answers(tmp_path: Path) -> None:
    async with ApiClient([f"unix://{tmp_path}/a", f"unix://{tmp_path}/b"], deadlines=QUICK) as api:
        with pytest.raises(UnavailableError) as caught:
            await api.list_nodes()
    assert caught.value.code == "agent-unreachable"
    assert "vdc lab up" in caught.value.problem.hint


async def test_a_socket_path_that_is_too_long_is_an_agent_that_does_not_answer(tmp_path: Path) -> None:
    async with ApiClient([f"unix://{tmp_path}/{'a' * 200}"], deadlines=QUICK) as api:
        with pytest.raises(UnavailableError):
            await api.list_nodes()


async def test_errors_arrive_as_they_were_raised(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "h1")
    gone = NotFoundError("no endophyte x", hint="look with vdc get", code="endophyte-not-found")
    agent.on("GET", "/v1/endophytes/x", lambda _: problem(gone))
    async with agent.running(), ApiClient([agent.endpoint], deadlines=QUICK) as api:
        with pytest.raises(NotFoundError) as caught:
            await api.get_endophyte("x")
    assert caught.value.problem == Problem(
        code="endophyte-not-found", message="no endophyte x", hint="look with vdc get"
    )


@pytest.mark.parametrize("body", ["<html>", "[]", '{"items": 1}', ""])
async def test_an_answer_that_is_none_is_a_bug_not_a_traceback(tmp_path: Path, body: str) -> None:
    agent = Agent(tmp_path, "h1")
    agent.on("GET", "/v1/nodes", lambda _: web.Response(text=body))
    async with agent.running(), ApiClient([agent.endpoint], deadlines=QUICK) as api:
        with pytest.raises(BugError) as caught:
            await api.list_nodes()
    assert caught.value.code == "bad-answer"


async def test_an_error_without_a_problem_names_the_request(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "h1")
    async with agent.running(), ApiClient([agent.endpoint], deadlines=QUICK) as api:
        with pytest.raises(BugError, match="GET /v1/nodes with 404"):
            await api.list_nodes()


async def test_names_are_escaped_and_cannot_climb(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "h1")
    seen: list[str] = []

    def run(request: web.Request) -> web.Response:
        seen.append(request.match_info["name"])
        return problem(NotFoundError("no"))

    agent.on("POST", "/v1/endophytes/{name}/run", run)
    async with agent.running(), ApiClient([agent.endpoint], deadlines=QUICK) as api:
        with pytest.raises(NotFoundError):
            await api.run_endophyte("a/b?c", RunState.RUNNING)
        with pytest.raises(InvalidError):
            await api.run_endophyte("..", RunState.RUNNING)
    assert seen == ["a/b?c"]


async def test_what_a_witness_does_not_do_another_agent_is_asked_for(tmp_path: Path) -> None:
    witness, host = Agent(tmp_path, "witness"), Agent(tmp_path, "host")
    said = UnavailableError("w1 is a witness and hands nothing on", code=DONE_ELSEWHERE)
    path = "/v1/endophytes/web/promote"
    witness.on("POST", path, lambda _: problem(said))
    host.on("POST", path, lambda _: problem(ConflictError("no replica", code="no-secondary")))
    async with (
        witness.running(),
        host.running(),
        ApiClient([witness.endpoint, host.endpoint], deadlines=QUICK) as api,
    ):
        api.transport._good = api.transport.endpoints[0]
        with pytest.raises(ConflictError):
            await api.promote_endophyte("web")
