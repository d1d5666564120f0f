"""A cluster that is a dictionary behind the real API, and the command line run against it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from vdc.api import models as wire
from vdc.api.context import put_context
from vdc.cli.main import run
from vdc.model.endophyte import CheckpointFigures, CopyStatus, EndophyteStatus, Phase, Protection
from vdc.model.errors import ConflictError, InvalidError, NotFoundError, RefusedError, VdcError
from vdc.model.event import Event
from vdc.model.host import Host, NodeStatus
from vdc.model.image import Image, ImageKind
from vdc.model.manifest import EndophyteManifest
from vdc.model.network import Network

LOCKSTEP: dict[str, Any] = {
    "phase": Phase.RUNNING,
    "protection": Protection.LOCKSTEP,
    "epoch": 3,
    "primary": CopyStatus(host="h1", pid=4242, qemu="running"),
    "secondary": CopyStatus(host="h2", pid=4243, qemu="running"),
    "spares": ("h3",),
    "sentence": "primary on h1 in lockstep with h2; spare h3",
}
ALONE: dict[str, Any] = {
    "phase": Phase.RUNNING,
    "protection": Protection.NONE,
    "secondary": None,
    "spares": (),
}
PENDING: dict[str, Any] = {
    **ALONE,
    "phase": Phase.PENDING,
    "primary": None,
    "sentence": "no host has 4GiB left",
}


def view_of(manifest: EndophyteManifest, **status: Any) -> wire.EndophyteView:
    values: dict[str, Any] = {
        "addresses": ("10.77.0.10",),
        "mac": "52:54:00:00:00:01",
        "checkpoints": CheckpointFigures(
            count=120, pause_ms_p50=4.1, pause_ms_p99=11.0, last="2030-01-01T00:00:00Z"
        ),
    }
    return wire.EndophyteView(
        metadata=wire.ViewMetadata(name=manifest.metadata.name, uid=f"uid-{manifest.metadata.name}"),
        spec=manifest.spec.model_dump(mode="json", by_alias=True),
        status=EndophyteStatus(**{**values, **LOCKSTEP, **status}),
    )


def manifest_of(name: str, **spec: Any) -> EndophyteManifest:
    return EndophyteManifest.model_validate(
        {"metadata": {"name": name}, "spec": {"image": "x:latest", **spec}}
    )


class Cluster:
    """The state behind the API, and what was asked of it."""

    def __init__(self) -> None:
        self.views: dict[str, wire.EndophyteView] = {}
        self.images: dict[str, wire.ImageView] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[tuple[str, Any]] = []
        self.status_of_new: dict[str, Any] = LOCKSTEP
        self.refusal: VdcError | None = None
        self.containers: set[str] = set()  # images of that kind
        self.output = ""  # of containers
        self.audit: list[dict[str, Any]] = []
        self.verdict = wire.AuditVerdict(is_intact=True, first=0, last=0)

    def add(self, name: str, manifest: EndophyteManifest | None = None, **status: Any) -> None:
        self.views[name] = view_of(manifest or manifest_of(name), **status)

    def find(self, request: web.Request) -> wire.EndophyteView:
        name = request.match_info["name"]
        if name not in self.views:
            raise NotFoundError(
                f"there is no endophyte {name}", hint="vdc get endophytes", code="endophyte-not-found"
            )
        return self.views[name]

    # One method per route; each returns a record, a text or nothing.

    async def health(self, _: web.Request) -> Any:
        return wire.Acknowledged()

    async def list_endophytes(self, _: web.Request) -> Any:
        return wire.EndophyteList(items=tuple(self.views.values()))

    async def get_endophyte(self, request: web.Request) -> Any:
        return self.find(request)

    async def create_endophyte(self, request: web.Request) -> Any:
        manifest = EndophyteManifest.from_json(await request.text())
        name = manifest.metadata.name
        self.asked.append(("create", manifest))
        if self.refusal:
            raise self.refusal
        is_container = manifest.spec.virtual_computer.type == "container"
        if (manifest.spec.image in self.containers) is not is_container:
            raise InvalidError("another kind of image", code="type-mismatch")
        if name in self.views:
            raise ConflictError(f"endophyte {name} exists", code="name-taken")
        self.add(name, manifest, **self.status_of_new)
        return self.views[name]

    async def apply_endophyte(self, request: web.Request) -> Any:
        manifest = EndophyteManifest.from_json(await request.text())
        dry_run = request.query.get("dry_run") == "true"
        name = manifest.metadata.name
        self.asked.append(("apply", (name, dry_run)))
        if name == "bad":
            raise RefusedError("no host fits", code="no-capacity")
        action = "configured" if name in self.views else "created"
        view = view_of(manifest, **self.status_of_new)
        if not dry_run:
            self.views[name] = view
        return wire.ApplyResult(action=action, dry_run=dry_run, endophyte=view)  # type: ignore[arg-type]

    async def delete_endophyte(self, request: web.Request) -> Any:
        del self.views[self.find(request).metadata.name]
        return wire.Acknowledged()

    async def describe_endophyte(self, request: web.Request) -> Any:
        view = self.find(request)
        limits = ("UEFI variables written now are lost at a failover",)
        return wire.EndophyteDescription(view=view, pair=None, copies=(), events=(EVENT,), limits=limits)

    async def run_endophyte(self, request: web.Request) -> Any:
        self.asked.append(("run", json.loads(await request.text())))
        return self.find(request)

    async def restart_endophyte(self, request: web.Request) -> Any:
        self.asked.append(("restart", json.loads(await request.text())))
        return self.find(request)

    async def protect_endophyte(self, request: web.Request) -> Any:
        self.asked.append(("protect", json.loads(await request.text())))
        return self.find(request)

    async def promote_endophyte(self, request: web.Request) -> Any:
        view, body = self.find(request), json.loads(await request.text())
        self.asked.append(("promote", (view.metadata.name, body)))
        return wire.PromoteResult(
            name=view.metadata.name, epoch=4, primary="h2", previous="h1", total_ms=41.7, sentence="done"
        )

    async def endophyte_log(self, request: web.Request) -> Any:
        self.find(request)
        if self.output and "console" not in request.query:
            return wire.LogText(
                name="a", host="h1", text=self.output, form="cri", end_offset=len(self.output)
            )
        return wire.LogText(name="a", host="h1", text="login: \x1b[31m\n", end_offset=7)

    async def list_events(self, _: web.Request) -> Any:
        return wire.EventList(items=(EVENT,))

    async def list_audit(self, request: web.Request) -> Any:
        self.asked.append(("audit", dict(request.query)))
        since, limit = (
            int(request.query.get(key, default)) for key, default in (("since", 1), ("limit", 100))
        )
        items = self.audit[since - 1 : since - 1 + limit]
        return wire.AuditPage(items=tuple(items), next=since + len(items))

    async def verify_audit(self, _: web.Request) -> Any:
        return self.verdict

    async def list_nodes(self, _: web.Request) -> Any:
        return wire.NodeList(items=(NODE,))

    async def list_networks(self, _: web.Request) -> Any:
        return wire.NetworkList(items=(Network(),))

    async def list_images(self, _: web.Request) -> Any:
        programs = (
            wire.ImageView(
                digest="sha256:" + "c" * 64,
                image=Image(kind=ImageKind.CONTAINER),
                names=(name,),
                size_bytes=0,
            )
            for name in sorted(self.containers)
        )
        return wire.ImageList(items=(*self.images.values(), *programs))

    async def register_image(self, request: web.Request) -> Any:
        body = wire.ImageRegistration.from_json(await request.text())
        assert all(blob.digest in self.blobs for blob in body.image.blobs)
        self.images[body.name] = wire.ImageView(
            digest="sha256:" + "d" * 64, image=body.image, names=(body.name,), source=body.source,
            size_bytes=body.image.size_bytes,
        )  # fmt: skip
        return wire.Acknowledged()

    async def remove_image(self, request: web.Request) -> Any:
        if self.images.pop(request.query["name"], None) is None:
            raise NotFoundError("there is no such image", code="image-not-found")
        return wire.Acknowledged()

    async def read_blob(self, request: web.Request) -> Any:
        if request.match_info["digest"] not in self.blobs:
            raise NotFoundError("no blob")
        return wire.Acknowledged()

    async def write_blob(self, request: web.Request) -> Any:
        body = await request.read()
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        assert digest == request.match_info["digest"]
        self.blobs[digest] = body
        return wire.BlobReceipt(digest=digest, size_bytes=len(body))

    async def doctor(self, _: web.Request) -> Any:
        return wire.DoctorReport(
            host="h1", checks=(wire.Check(name="kvm", level="warning", sentence="no KVM"),)
        )

    async def cluster(self, _: web.Request) -> Any:
        return wire.ClusterStatus(version="9.9", host="h1", leader="h1", store="ok")

    async def watch_endophytes(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for view in self.views.values():
            if request.query.get("name") in (None, view.metadata.name):
                await response.write(view.to_json().encode() + b"\n")
        await asyncio.sleep(30)
        return response


EVENT = Event(
    id="1",
    at="2030-01-01T12:00:00.123456+00:00",
    host="h2",
    name="a",
    epoch=3,
    code="promoted",
    sentence="h2 took over",
    figures={"detect_ms": 12.5},
)
NODE = NodeStatus(
    host=Host(
        name="h1",
        api_url="http://10.0.0.1:1",
        management_address="10.0.0.1",
        replication_address="10.1.0.1",
        overlay_address="10.77.0.1",
        heartbeat_port=1,
        agent_version="1",
        incarnation=1,
        cpus=4,
        memory_bytes=2**33,
    ),
    alive=True,
    is_leader=True,
    etcd="leader",
    endophytes=("a",),
    memory_reserved_bytes=2**30,
)


def answering(handler: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            record = await handler(request)
        except VdcError as error:
            return web.Response(status=error.http_status, text=error.problem.to_json())
        return record if isinstance(record, web.StreamResponse) else web.Response(text=record.to_json())

    return answer


def serve(cluster: Cluster, path: Path, started: threading.Event, stop: asyncio.Event) -> Callable[[], Any]:
    from vdc.api.routes import ROUTES

    async def main() -> None:
        app = web.Application(client_max_size=2**24)
        for route in ROUTES:
            handler = getattr(cluster, "read_blob" if route.name == "has_blob" else route.name, None)
            if handler:
                app.router.add_route(route.method, route.path, answering(handler))
        runner = web.AppRunner(app, shutdown_timeout=0.01)
        await runner.setup()
        await web.UnixSite(runner, str(path)).start()
        started.set()
        await stop.wait()
        await runner.cleanup()

    return main


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("VDC_CONFIG", str(tmp_path / "etc" / "config.yaml"))
    monkeypatch.delenv("VDC_CONTEXT", raising=False)
    put_context("test", [f"unix://{tmp_path}/api.sock"])
    state, started, loop = Cluster(), threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()
    main = serve(state, tmp_path / "api.sock", started, stop)
    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    assert started.wait(10)
    yield state
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


Capture = pytest.CaptureFixture[str]


def vdc(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err
