"""Whom records and events name as the one who asked: the caller, whatever the request says of itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from server_support import Served, served

from vdc.api import models as wire
from vdc.model.endophyte import Endophyte
from vdc.model.maintenance import Maintenance
from vdc.store import keys


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Served]:
    """Asked through the socket of the host's administrator."""
    async with served(tmp_path) as found:
        yield found


async def ask(api: Served, path: str, body: dict[str, object]) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(api.url + path, json=body) as answer:
        return answer.status, await answer.json()


async def stored(api: Served, key: str) -> str:
    item = await api.context.host.store.get(key)
    assert item is not None
    return item.value


async def test_a_drain_and_a_move(api: Served) -> None:
    assert (await ask(api, "/v1/nodes/h3/drain", {"reason": "new memory"}))[0] == 200
    assert Maintenance.from_json(await stored(api, keys.maintenance("h3"))).by == "root"
    assert (await ask(api, "/v1/endophytes/web/move", {"to": "h2"}))[0] == 200
    move = Endophyte.from_json(await stored(api, keys.endophyte("web"))).move
    assert move is not None and move.by == "root"


async def test_a_forced_promotion(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []

    async def promote(name: str, body: wire.PromoteRequest, by: str) -> wire.PromoteResult:
        named.append(by)
        return wire.PromoteResult(name=name, epoch=1, primary="h1", previous="h2", total_ms=1.0, sentence="")

    monkeypatch.setattr(api.context.override, "promote", promote)
    body = {"to": "h1", "force": True, "confirm": "web"}
    assert (await ask(api, "/v1/endophytes/web/promote", body))[0] == 200
    assert named == ["root"]


@pytest.mark.parametrize("path", ["nodes/h3/drain", "endophytes/web/move", "endophytes/web/promote"])
async def test_nobody_says_who_it_is(api: Served, path: str) -> None:
    status, problem = await ask(api, f"/v1/{path}", {"to": "h2", "by": "somebody else"})
    assert (status, problem["code"]) == (400, "body-invalid")
