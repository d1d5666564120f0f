"""Values of secrets leave the API nowhere: not in an answer, an event, the audit log, an error or the agent's log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from protection_world import endophyte
from pydantic import BaseModel
from server_support import Served, served

from hostagent.server.backups import view_of
from hostagent.supervisor.backups import HeldCopy
from vdc.api import models as wire
from vdc.api import snapshots
from vdc.api.routes import ROUTES, Body, Route
from vdc.model.endophyte import Endophyte
from vdc.model.image import Image, ImageKind
from vdc.model.manifest import EndophyteManifest
from vdc.model.manifest_file import record_in
from vdc.model.secrets import MASK
from vdc.model.snapshot import Snapshot
from vdc.store import keys
from vdc.store.protocol import Put

WORDS = ("hunter2", "hunter3", "aHVudGVyM")  # the values, and one of them in base64
PROCESS = {
    "env": [{"name": "PASSWORD", "value": "hunter2", "secret": True}, {"name": "HOST", "value": "db"}],
    "files": [{"path": "/run/key", "contentBase64": "aHVudGVyMw==", "secret": True}],
}
STORED = endophyte(virtualComputer={"type": "container"}, process=PROCESS)
SNAPSHOT = Snapshot(
    name="one", endophyte="web", uid=STORED.uid, host="h1", created_at="2026-01-01T00:00:00Z",
    manifest=STORED.manifest,
)  # fmt: skip
BODIES: dict[str, dict[str, object]] = {
    "create_endophyte": json.loads(STORED.manifest.to_json()),
    "run_endophyte": {"state": "running"},
    "protect_endophyte": {"enabled": True},
    "move_endophyte": {"to": "h2"},
}
LAST = ("move_endophyte", "remove_snapshot", "delete_endophyte")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Served]:
    (tmp_path / "audit").mkdir()
    async with served(tmp_path) as found:
        await found.context.host.store.commit([], [Put(keys.endophyte("web"), STORED.to_json())])
        async with asyncio.timeout(30):
            while found.context.host.mirror.endophyte("web") != STORED:
                await asyncio.sleep(0)
        yield found


async def keep_snapshot(api: Served) -> None:
    await api.context.host.store.commit([], [Put(keys.snapshot("web", "one"), SNAPSHOT.to_json())])
    async with asyncio.timeout(30):
        while not api.context.host.mirror.snapshots:
            await asyncio.sleep(0)


def carries_a_manifest(model: Any) -> bool:
    inner = [record_in(about.annotation) for about in model.model_fields.values()] if model else []
    return model in (wire.EndophyteView, snapshots.SnapshotView) or any(
        carries_a_manifest(one) for one in inner if one and one is not model
    )


async def ask(api: Served, method: str, path: str, body: object = None) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, api.url + path, json=body) as answer,
    ):
        return answer.status, await answer.text()


async def first_line(api: Served, path: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(api.url + path) as answer, asyncio.timeout(30):
        return (await answer.content.readline()).decode()


def body_of(route: Route) -> object:
    if route.name == "apply_endophyte":
        return shown(STORED.manifest)
    return BODIES.get(route.name, {}) if route.method != "GET" else None


def shown(manifest: EndophyteManifest, **process: Any) -> dict[str, Any]:
    """As `vdc get` prints it, and some of it changed."""
    values: dict[str, Any] = json.loads(manifest.to_json())
    values["spec"]["process"]["env"][0]["value"] = MASK
    values["spec"]["process"]["files"][0].update(content=MASK, contentBase64=None)
    values["spec"]["process"].update(process)
    return values


async def test_no_route_shows_one(api: Served) -> None:
    await keep_snapshot(api)
    asked: dict[str, str] = {}
    with structlog.testing.capture_logs() as logged:
        for route in sorted(ROUTES, key=lambda one: LAST.index(one.name) if one.name in LAST else -1):
            path = route.path.replace("{name}", "web").replace("{digest}", "sha256:" + "0" * 64)
            path = path.replace("{snapshot}", "one")
            if route.body is Body.LINES:
                asked[route.name] = await first_line(api, path) if "endophytes" in path else ""
            elif route.body is not Body.WEBSOCKET and "{" not in path:
                _, asked[route.name] = await ask(api, route.method, path, body_of(route))
    for name, text in asked.items():
        assert not any(word in text for word in WORDS), name
    assert not any(word in repr(logged) for word in WORDS)

    # every route whose answer has a manifest was asked, and answered with one
    carrying = {route.name for route in ROUTES if carries_a_manifest(route.response)} - {
        "create_endophyte", "create_snapshot",
    }  # fmt: skip
    assert {"list_endophytes", "describe_endophyte", "apply_endophyte", "watch_endophytes"} < carrying
    assert {name for name, text in asked.items() if MASK in text} == carrying


async def test_nothing_but_the_record_itself_holds_one(api: Served) -> None:
    await ask(api, "PUT", "/v1/endophytes/web", shown(STORED.manifest))
    await ask(api, "PUT", "/v1/endophytes/web", json.loads(STORED.manifest.to_json()))
    await ask(api, "DELETE", "/v1/endophytes/web")
    store = api.context.host.store
    holders = [
        item.key for item in (await store.list("/vdc/")).items if any(word in item.value for word in WORDS)
    ]
    assert holders == [keys.endophyte("web")]
    spool = api.context.host.config.state_dir / "audit" / "spool.jsonl"
    assert "apply_endophyte" in spool.read_text() and not any(word in spool.read_text() for word in WORDS)


async def test_what_was_shown_can_be_applied_and_keeps_them(api: Served) -> None:
    _, text = await ask(api, "GET", "/v1/endophytes/web")
    view = json.loads(text)
    manifest = {
        "metadata": {"name": "web", "labels": {"tier": "db"}}, "spec": {**view["spec"], "placement": {}},
    }  # fmt: skip
    for suffix in ("?dry_run=true", "", ""):
        status, text = await ask(api, "PUT", f"/v1/endophytes/web{suffix}", manifest)
        assert status == 200 and not any(word in text for word in WORDS)
    assert json.loads(text)["action"] == "unchanged"
    kept = await stored(api)
    assert kept.manifest.spec.process == STORED.manifest.spec.process
    assert kept.manifest.metadata.labels == {"tier": "db"} and kept.generation == 2


@pytest.mark.parametrize("suffix", ["", "?dry_run=true"])
async def test_a_mask_with_nothing_behind_it_is_refused(api: Served, suffix: str) -> None:
    wanted = shown(STORED.manifest, env=[{"name": "OTHER", "value": MASK, "secret": True}])
    status, text = await ask(api, "PUT", f"/v1/endophytes/web{suffix}", wanted)
    assert (status, json.loads(text)["code"]) == (400, "secret-missing")
    wanted["metadata"]["name"] = "new"
    for method, path in (("PUT", f"/v1/endophytes/new{suffix}"), ("POST", "/v1/endophytes")):
        status, text = await ask(api, method, path, wanted)
        assert (status, json.loads(text)["code"]) == (400, "secret-missing")
    assert await stored(api) == STORED


@pytest.mark.parametrize(
    "process",
    [
        {"env": [{"name": "A", "value": "hunter2\0", "secret": True}]},
        {"env": [{"name": "A", "value": ["hunter2"], "secret": True}]},
        {"files": [{"path": "/a", "contentBase64": "hunter2", "secret": True}]},
        {"files": [{"path": "/a", "content": "hunter2", "contentBase64": "", "secret": True}]},
        {"env": [{"name": "A", "value": "hunter2", "secret": "yes please"}]},
    ],
)
async def test_an_error_repeats_none(api: Served, process: dict[str, Any]) -> None:
    with structlog.testing.capture_logs() as logged:
        status, text = await ask(api, "PUT", "/v1/endophytes/web", shown(STORED.manifest, **process))
    assert status == 400 and "hunter2" not in text and "hunter2" not in repr(logged)


async def test_another_namespaces_workload_does_not_take_its_place(api: Served) -> None:
    wanted = shown(STORED.manifest)
    wanted["metadata"]["annotations"] = {"mycelium.network/namespace": "other"}
    status, text = await ask(api, "PUT", "/v1/endophytes/web", wanted)
    assert (status, json.loads(text)["code"]) == (409, "name-taken")
    assert "web is that of namespace default, not of other" in text


async def stored(api: Served) -> Endophyte:
    item = await api.context.host.store.get(keys.endophyte("web"))
    assert item is not None
    return Endophyte.from_json(item.value)


def test_no_model_of_the_api_holds_a_manifest_beside_the_view() -> None:
    """What is made of a manifest elsewhere would not be masked."""
    for route in ROUTES:
        if route.response is not None:
            held = [one for one in (EndophyteManifest, Endophyte) if contains(route.response, one)]
            assert held == [], route.name


def test_the_view_of_a_backup_is_masked_too() -> None:
    held = HeldCopy("20260131-235959-0a1b", SNAPSHOT, Image(kind=ImageKind.CONTAINER), [])
    text = view_of(held).to_json()
    assert MASK in text and not any(word in text for word in WORDS)
    assert EndophyteManifest.model_validate(view_of(held).manifest).metadata.name == "web"


def contains(model: type[BaseModel], wanted: type[BaseModel]) -> bool:
    inner = [record_in(about.annotation) for about in model.model_fields.values()]
    return model is wanted or any(contains(one, wanted) for one in inner if one and one is not model)
