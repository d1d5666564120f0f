"""Commands against a cluster that is a dictionary behind the real API: what is sent, printed, returned."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from vdc.api import models as wire
from vdc.api.context import put_context
from vdc.cli.commands.get import follow
from vdc.cli.kinds import ENDOPHYTE
from vdc.cli.main import run
from vdc.model.endophyte import CheckpointFigures, CopyStatus, EndophyteStatus, Phase, Protection
from vdc.model.errors import ConflictError, NotFoundError, RefusedError, VdcError
from vdc.model.event import Event
from vdc.model.host import Host, NodeStatus
from vdc.model.image import ImageEntry
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
        self.images: dict[str, ImageEntry] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[tuple[str, Any]] = []
        self.status_of_new: dict[str, Any] = LOCKSTEP
        self.refusal: VdcError | None = None

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
        return wire.LogText(name="a", host="h1", text="login: \x1b[31m\n", end_offset=7)

    async def list_events(self, _: web.Request) -> Any:
        return wire.EventList(items=(EVENT,))

    async def list_nodes(self, _: web.Request) -> Any:
        return wire.NodeList(items=(NODE,))

    async def list_networks(self, _: web.Request) -> Any:
        return wire.NetworkList(items=(Network(),))

    async def list_images(self, _: web.Request) -> Any:
        return wire.ImageList(items=tuple(self.images.values()))

    async def register_image(self, request: web.Request) -> Any:
        body = wire.ImageRegistration.from_json(await request.text())
        assert all(blob.digest in self.blobs for blob in body.image.blobs)
        self.images[body.name] = ImageEntry(digest="sha256:" + "d" * 64, image=body.image, names=(body.name,))
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
        incarnation="i",
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


def vdc(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


Capture = pytest.CaptureFixture[str]


def test_create_sends_what_was_asked_for(cluster: Cluster, capsys: Capture) -> None:
    options = ["--image", "me/x", "--cpus", "2", "--memory", "1GiB", "--disk", "5GiB", "--nodes", "2"]
    code, out, err = vdc(capsys, "create", "web", *options, "--address", "10.77.0.50")
    assert (code, out, err) == (0, "endophyte/web created\n", "")
    spec = cluster.asked[0][1].spec
    assert (spec.image, spec.resources.cpus, spec.resources.memory) == ("me/x:latest", 2, 2**30)
    assert (spec.disks[0].size, spec.virtual_computer.dedicated_nodes) == (5 * 2**30, 2)
    assert str(spec.networks[0].address) == "10.77.0.50"
    assert spec.wants_protection


def test_create_without_protection_by_the_name_of_a_template(cluster: Cluster, capsys: Capture) -> None:
    assert vdc(capsys, "create", "windows-desktop", "--no-protect", "--image", "mycelium/mini")[0] == 0
    spec = cluster.asked[0][1].spec
    assert (spec.tpm, spec.firmware.value, spec.resources.cpus) == (True, "uefi", 2)
    assert not spec.wants_protection and spec.image == "mycelium/mini:latest"


def test_a_missing_image_says_which_and_how_to_get_one(cluster: Cluster, capsys: Capture) -> None:
    cluster.refusal = NotFoundError("no image", code="image-not-found")
    code, _, err = vdc(capsys, "create", "windows-desktop")
    first, hint = err.splitlines()
    assert code == 1 and first.endswith("(image-not-found)")
    assert "mycelium/windows-11:latest" in first and "template windows-desktop" in first
    assert "vdc image import" in first and "--image" in hint


def test_dry_run_prints_a_manifest_that_apply_takes(
    cluster: Cluster, capsys: Capture, tmp_path: Path
) -> None:
    code, out, _ = vdc(capsys, "create", "db", "--dry-run", "-o", "yaml")
    assert code == 0 and cluster.asked == []
    assert yaml.safe_load(out)["metadata"]["name"] == "db"
    (tmp_path / "db.yaml").write_text(out)
    assert vdc(capsys, "apply", "-f", str(tmp_path / "db.yaml"))[1] == "endophyte/db created\n"


def test_create_wait_returns_when_it_is_in_lockstep(cluster: Cluster, capsys: Capture) -> None:
    code, out, _ = vdc(capsys, "create", "web", "--wait", "--timeout", "5")
    assert code == 0
    assert out.splitlines()[1] == f"endophyte/web is running in lockstep: {LOCKSTEP['sentence']}"
    code, out, _ = vdc(capsys, "create", "other", "--wait", "-o", "json")
    assert json.loads(out)["status"]["protection"] == "lockstep"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (PENDING, "wait-timeout"),
        (ALONE, "wait-timeout"),
        ({**PENDING, "phase": Phase.FAILED}, "endophyte-failed"),
    ],
)
def test_create_wait_says_what_is_missing(
    cluster: Cluster, capsys: Capture, status: dict[str, Any], code: str
) -> None:
    cluster.status_of_new = status
    exit_code, out, err = vdc(capsys, "create", "web", "--wait", "--timeout", "0.3")
    assert (exit_code, out) == (1, "endophyte/web created\n")
    assert f"({code})" in err and (status.get("sentence") or LOCKSTEP["sentence"]) in err


def test_without_protection_running_is_enough(cluster: Cluster, capsys: Capture) -> None:
    cluster.status_of_new = ALONE
    assert vdc(capsys, "create", "web", "--no-protect", "--wait", "--timeout", "5")[0] == 0


def test_a_taken_name_is_an_error_and_a_stuck_create_can_be_repeated(
    cluster: Cluster, capsys: Capture
) -> None:
    assert vdc(capsys, "create", "web")[0] == 0
    code, _, err = vdc(capsys, "create", "web")
    assert code == 1 and "(name-taken)" in err
    cluster.status_of_new = PENDING
    assert vdc(capsys, "create", "stuck")[0] == 0
    assert vdc(capsys, "create", "stuck")[:2] == (0, "endophyte/stuck created\n")
    assert vdc(capsys, "create", "stuck", "--cpus", "3")[0] == 1


def test_apply_gives_one_result_per_object_and_hides_none(
    cluster: Cluster, capsys: Capture, tmp_path: Path
) -> None:
    texts = [
        manifest_of("good").to_json(),
        manifest_of("bad").to_json(),
        '{"kind": "Service", "metadata": {"name": "s"}}',
        manifest_of("later").to_json(),
        manifest_of("good").to_json(),
    ]
    (tmp_path / "all.yaml").write_text("\n---\n".join(texts))
    code, out, err = vdc(capsys, "apply", "-f", str(tmp_path / "all.yaml"))
    assert code == 1
    assert out == "endophyte/good created\nendophyte/later created\n"
    codes = [line.rsplit("(", 1)[1] for line in err.splitlines() if line.startswith("error:")]
    assert codes == ["no-capacity)", "kind-unsupported)", "manifest-duplicate)"]


def test_apply_of_broken_manifests_alone_is_exit_code_2(
    cluster: Cluster, capsys: Capture, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text("kind: Service\nmetadata: {name: s}")
    code, out, err = vdc(capsys, "apply", "-f", str(tmp_path))
    assert (code, out) == (2, "") and "(kind-unsupported)" in err
    assert cluster.asked == []


def test_apply_dry_run_and_wait(cluster: Cluster, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(manifest_of("a").to_json())
    assert vdc(capsys, "apply", "-f", str(tmp_path), "--dry-run")[1] == "endophyte/a created (dry run)\n"
    assert cluster.asked == [("apply", ("a", True))]
    code, out, _ = vdc(capsys, "apply", "-f", str(tmp_path), "--wait", "--timeout", "5")
    assert code == 0 and "is running in lockstep" in out
    cluster.status_of_new = ALONE
    code, _, err = vdc(capsys, "apply", "-f", str(tmp_path), "--wait", "--timeout", "0.3")
    assert code == 1 and "(wait-timeout)" in err


@pytest.mark.parametrize("kind", ["endophyte", "endophytes", "endo", "ep", "Endophyte"])
def test_one_object_is_printed_alone_and_many_as_items(cluster: Cluster, capsys: Capture, kind: str) -> None:
    cluster.add("a")
    one = json.loads(vdc(capsys, "get", kind, "a", "-o", "json")[1])
    assert one["kind"] == "Endophyte" and one["status"]["primary"] == {
        **one["status"]["primary"],
        "host": "h1",
    }
    many = json.loads(vdc(capsys, "get", kind, "-o", "json")[1])
    assert many == {"items": [one]}
    assert yaml.safe_load(vdc(capsys, "get", kind, "a", "-o", "yaml")[1]) == one
    assert vdc(capsys, "get", kind, "-o", "name")[1] == "endophyte/a\n"


def test_the_json_that_scripts_rely_on(cluster: Cluster, capsys: Capture) -> None:
    cluster.add("a", secondary=None)
    value = json.loads(vdc(capsys, "get", "endophyte", "a", "-o", "json")[1])
    assert value["apiVersion"] == "mycelium.network/v1"
    assert {"name", "uid"} <= value["metadata"].keys()
    assert value["status"].keys() == {
        "phase",
        "protection",
        "epoch",
        "primary",
        "secondary",
        "spares",
        "addresses",
        "mac",
        "checkpoints",
        "sentence",
        "moving_to",
        "move_problem",
        "unprotectedSince",
    }
    assert value["status"]["secondary"] is None
    assert value["status"]["checkpoints"] == {
        "count": 120,
        "pause_ms_p50": 4.1,
        "pause_ms_p99": 11.0,
        "last": "2030-01-01T00:00:00Z",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("get", "nodes"), ("h1", "Ready", "leader", "1GiB/8GiB")),
        (("get", "node", "h1"), ("h1",)),
        (("node", "ls"), ("h1",)),
        (("node", "describe", "h1"), ("10.1.0.1", "Schedulable")),
        (("get", "networks"), ("default", "10.77.0.0/24")),
        (("get", "net", "default", "-o", "json"), ('"vni": 100',)),
        (("get", "events"), ("12:00:00.123", "promoted", "h2 took over")),
        (("events", "-o", "wide"), ("detect_ms=12.5",)),
        (("get", "ev", "-o", "json"), ('"items"',)),
        (("describe", "ep", "a"), ("in lockstep", "UEFI variables", "promoted", "h1 (pid 4242, running)")),
        (("describe", "ep", "a", "-o", "json"), ('"limits"',)),
        (("describe", "template", "server"), ("mycelium/mini",)),
        (("logs", "a"), ("login: ",)),
        (("version",), ("9.9",)),
    ],
)
def test_what_is_printed(
    cluster: Cluster, capsys: Capture, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    cluster.add("a")
    code, out, err = vdc(capsys, *arguments)
    assert (code, err) == (0, "")
    assert all(word in out for word in words), out


@pytest.mark.parametrize("kind", ["endophyte", "node", "network", "image", "template"])
def test_what_does_not_exist_is_said(cluster: Cluster, capsys: Capture, kind: str) -> None:
    code, out, err = vdc(capsys, "get", kind, "nope")
    assert (code, out) == (1, "") and f"({kind}-not-found)" in err and "hint:" in err


def test_an_empty_table_is_a_sentence_on_stderr(cluster: Cluster, capsys: Capture) -> None:
    assert vdc(capsys, "get", "endophytes") == (0, "", "there are no endophytes\n")
    assert json.loads(vdc(capsys, "get", "endophytes", "-o", "json")[1]) == {"items": []}


def test_delete_waits_until_it_is_gone_and_can_ignore_what_is_not_there(
    cluster: Cluster, capsys: Capture
) -> None:
    cluster.add("a")
    cluster.add("b")
    assert vdc(capsys, "delete", "ep", "a", "b")[:2] == (0, "endophyte/a deleted\nendophyte/b deleted\n")
    code, _, err = vdc(capsys, "delete", "ep", "a")
    assert code == 1 and "(endophyte-not-found)" in err
    assert vdc(capsys, "delete", "ep", "a", "--ignore-not-found") == (0, "", "")


def test_delete_by_manifest(cluster: Cluster, capsys: Capture, tmp_path: Path) -> None:
    cluster.add("a")
    (tmp_path / "a.json").write_text(manifest_of("a").to_json())
    assert vdc(capsys, "delete", "-f", str(tmp_path))[1] == "endophyte/a deleted\n"


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (("start", "a"), ("run", {"state": "running", "force": False})),
        (("stop", "a", "--force"), ("run", {"state": "stopped", "force": True})),
        (("pause", "a"), ("run", {"state": "paused", "force": False})),
        (("restart", "a"), ("restart", {"force": False})),
        (("protect", "a", "--wait"), ("protect", {"enabled": True})),
        (("unprotect", "a"), ("protect", {"enabled": False})),
        (
            ("promote", "replica"),
            ("promote", ("a", {"to": None, "force": False, "confirm": "", "by": ""})),
        ),
        (
            ("promote", "replica", "a", "--to", "h2"),
            ("promote", ("a", {"to": "h2", "force": False, "confirm": "", "by": ""})),
        ),
    ],
)
def test_verbs_send_what_they_say(
    cluster: Cluster, capsys: Capture, arguments: tuple[str, ...], asked: Any
) -> None:
    cluster.add("a")
    code, out, _ = vdc(capsys, *arguments)
    assert code == 0 and out.startswith("endophyte/a")
    assert cluster.asked == [asked]


def test_promote_needs_a_name_where_several_could_be_meant(cluster: Cluster, capsys: Capture) -> None:
    code, _, err = vdc(capsys, "promote", "replica")
    assert code == 1 and "(nothing-protected)" in err
    cluster.add("a")
    cluster.add("b")
    cluster.add("alone", **ALONE)
    code, _, err = vdc(capsys, "promote", "replica")
    assert code == 2 and "(name-needed)" in err
    assert "a (lockstep), b (lockstep)" in err and "alone" not in err
    assert cluster.asked == []


def test_an_image_is_sent_once_named_listed_and_removed(
    cluster: Cluster, capsys: Capture, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes((b"\xeb".ljust(510, b"\0") + b"\x55\xaa") * 4096)
    code, out, _ = vdc(capsys, "image", "import", str(disk), "--name", "me/disk")
    assert (code, out) == (0, "image/me/disk:latest imported (1 of 1 files sent)\n")
    assert vdc(capsys, "image", "import", str(disk), "--name", "me/disk:2")[1].endswith(
        "(0 of 1 files sent)\n"
    )
    assert "me/disk:latest" in vdc(capsys, "image", "ls")[1]
    assert "2MiB for the guest" in vdc(capsys, "image", "describe", "me/disk")[1]
    assert vdc(capsys, "image", "rm", "me/disk")[1] == "image/me/disk:latest removed\n"
    assert vdc(capsys, "delete", "image", "me/disk:2")[1] == "image/me/disk:2 deleted\n"
    assert vdc(capsys, "image", "rm", "me/disk")[0] == 1


def test_doctor_asks_every_agent_and_counts_what_is_missing(
    cluster: Cluster, capsys: Capture, tmp_path: Path
) -> None:
    out = vdc(capsys, "doctor")[1]
    assert "no KVM" in out and "(here)" in out
    put_context("test", [f"unix://{tmp_path}/api.sock", f"unix://{tmp_path}/absent.sock"])
    code, out, _ = vdc(capsys, "doctor", "-o", "json")
    assert code == 1
    hosts = [item["host"] for item in json.loads(out)["items"]]
    assert hosts == ["(here)", "h1", "?"]


async def test_a_watch_prints_a_row_only_where_it_shows_something_new(capsys: Capture) -> None:
    manifest = manifest_of("a")
    states = [
        view_of(manifest),
        view_of(manifest, checkpoints=CheckpointFigures(count=121)),
        view_of(manifest, epoch=4, secondary=None, protection=Protection.DEGRADED),
    ]

    class Api:
        async def list_endophytes(self) -> wire.EndophyteList:
            return wire.EndophyteList(items=(states[0],))

        async def watch_endophytes(self, _name: str | None) -> AsyncIterator[wire.EndophyteView]:
            for state in states:
                yield state
            raise asyncio.CancelledError

    for output, expected in (("table", 2), ("json", 3)):
        with pytest.raises(asyncio.CancelledError):
            await follow(Api(), ENDOPHYTE, None, output)  # type: ignore[arg-type]
        lines = capsys.readouterr().out.splitlines()
        rows = lines[1:] if output == "table" else lines
        assert len(rows) == expected
        assert "degraded" in rows[-1]


def test_an_agent_that_is_down_is_one_line(cluster: Cluster, capsys: Capture, tmp_path: Path) -> None:
    put_context("other", [f"unix://{tmp_path}/absent.sock"])
    for arguments in (
        ("get", "ep"),
        ("create", "a"),
        ("delete", "ep", "a"),
        ("promote", "replica"),
    ):
        code, out, err = vdc(capsys, *arguments)
        assert (code, out) == (1, "")
        assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]
        assert "(agent-unreachable)" in err
    assert vdc(capsys, "--context", "test", "get", "ep")[0] == 0
    assert vdc(capsys, "get", "ep", "--context", "test")[0] == 0
