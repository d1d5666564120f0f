"""Whatever the contract allows or forbids, the API answers as the contract says and never with a defect.

`VDC_FUZZ=deep` asks more (docs/development.md).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fuzzing import examples
from hypothesis import HealthCheck, Phase, settings
from server_support import served

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: make venv")

from schemathesis import checks  # noqa: E402

from hostagent.server import promotion  # noqa: E402
from vdc.api.openapi import build_openapi  # noqa: E402
from vdc.api.routes import ROUTES, Body  # noqa: E402

NEVER_END = {route.name for route in ROUTES if route.body in (Body.LINES, Body.WEBSOCKET)}
CHECKS = (  # 500 is in no contract; 503 is: another host is asked, and there is none here
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
)
TIMEOUT_S = 20.0
pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")
contract: Any = schemathesis.openapi.from_dict(build_openapi())


@contract.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Every other question is about something that is there, else nearly all answers would be 404."""
    name = str((path_parameters or {}).get("name", "x"))
    if path_parameters and "name" in path_parameters and sum(name.encode(errors="replace")) % 2:
        is_node = "nodes" in context.operation.path
        return {**path_parameters, "name": "h2" if is_node else "web"}
    return path_parameters


@pytest.fixture
def url(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The API, served by a thread of its own; anew for each route, as some of them remove things."""
    monkeypatch.setattr(promotion, "MOVE_DEADLINE_S", 0.2)
    found: list[str] = []
    started, loop, ended = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with served(tmp_path_factory.mktemp("api")) as api:
            found.append(api.url)
            started.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(10)
    yield found[0]
    loop.call_soon_threadsafe(ended.set)
    thread.join(10)
    loop.close()


def test_every_route_that_ends_is_asked() -> None:
    asked = {operation.ok().definition.raw["operationId"] for operation in contract.get_all_operations()}
    assert asked == {route.name for route in ROUTES}


@contract.exclude(operation_id=sorted(NEVER_END)).parametrize()
@settings(
    max_examples=examples(5, 75), deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
)  # fmt: skip
def test_answers_are_those_of_the_contract(case: Any, url: str) -> None:
    response = case.call(base_url=url, timeout=TIMEOUT_S)
    case.validate_response(response, checks=CHECKS)
