"""One target per parser: a function of bytes that returns, or raises what the parser promises to raise.

Anything else that it raises is a defect. `seeds` are valid inputs, which a fuzzer changes.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hostagent.config import parse_config
from hostagent.drivers.disk.copy import CopyRecord
from hostagent.drivers.disk.images import DiskToolError
from hostagent.drivers.disk.images import _parse as parse_image_info
from hostagent.drivers.etcd.mark import Mark
from hostagent.drivers.etcd.member import last_complaint
from hostagent.drivers.etcd.wal import _fields
from hostagent.drivers.process.pidfile import PidRecord
from hostagent.drivers.process.spawn import parse_child_pid
from hostagent.drivers.qemu import replies
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.inspect import inspect
from hostagent.drivers.qemu.memory import parse_ram_blocks
from hostagent.server.http import number
from hostagent.server.undecided import pairs_in
from hostagent.supervisor.journal import Entry
from hostagent.supervisor.state import CopyState
from tests.fuzz import backups, container_guests, containers, disks, guests, identities, interchange
from vdc.api import models as wire
from vdc.api.answers import parse_json as parse_answer
from vdc.api.context import parse_contexts
from vdc.api.endpoints import parse_endpoint
from vdc.api.routes import ROUTES
from vdc.images.inspect import inspect_disk
from vdc.images.reference import check_digest, normalise_reference
from vdc.images.sources.recipe import Recipe
from vdc.kubernetes.routing import route
from vdc.model.audit import AuditAnchor, AuditEntry, AuditHead, RememberedHead
from vdc.model.base import Record
from vdc.model.credentials import Authorities, IssuedCertificate, Revocation, Trust, User
from vdc.model.endophyte import Endophyte, Observed
from vdc.model.errors import BugError, InvalidError, Problem, VdcError
from vdc.model.event import Event
from vdc.model.host import Host
from vdc.model.ids import check_dns_label
from vdc.model.image import Image, ImageEntry, ImageKind
from vdc.model.lineage import Lineage
from vdc.model.maintenance import Maintenance
from vdc.model.manifest_file import load_text
from vdc.model.network import Network
from vdc.model.pair import Pair
from vdc.model.strict_yaml import StrictError, dump, parse_documents, parse_json
from vdc.model.units import format_size, parse_duration, parse_size
from vdc.security.tokens import KnownToken
from vdc.store import etcd_codec as codec
from vdc.store.etcd_admin import parse_member, parse_status
from vdc.store.etcd_errors import error_of

RECORDS: tuple[type[Record], ...] = (
    CopyRecord, CopyState, Mark, PidRecord, Entry, Endophyte, Observed, Event, Host, Image, ImageEntry, Lineage,
    Maintenance, Network, Pair, Problem, Recipe, Authorities, IssuedCertificate, KnownToken, Revocation, Trust, User,
    AuditAnchor, AuditEntry, AuditHead, RememberedHead,
)  # fmt: skip
REQUESTS = tuple(route.request for route in ROUTES if route.request is not None)
ANSWERS = tuple({route.response for route in ROUTES if route.response is not None} - {wire.Acknowledged})
PLACE = Path("/etc/vdc/agent.yaml")

MANIFEST = b"""apiVersion: mycelium.network/v1
kind: Endophyte
metadata: {name: web, labels: {a: b}}
spec:
  image: mycelium/mini
  resources: {cpus: 2, memory: 512MiB}
  disks: &d [{name: data, size: 1GiB}]
  networks: [{network: default, address: 10.77.0.50, mac: "52:54:00:12:34:56"}]
  protection: {checkpointMs: 300, verifyEvery: 24h}
"""
CONTAINER = b"""kind: Endophyte
metadata: {name: db}
spec:
  image: redis
  virtualComputer: {type: container}
  disks: [{name: root}, {name: data, size: 1GiB, mountPath: /data}]
  process:
    args: [$(A), $$]
    env: [{name: A, value: b, secret: true}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    emptyDirs: [{path: /tmp, medium: Memory, sizeLimit: 16Mi}]
    files: [{path: /a, content: b, mode: 0600}, {path: /c, contentBase64: AP8=}]
    livenessProbe: {httpGet: {port: 80, path: /}}
    securityContext: {fsGroup: 5, capabilities: {drop: [ALL]}}
"""
WORKLOAD = b"""apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, annotations: {mycelium.network/service-type: endophyte}}
spec:
  template:
    metadata: {labels: {app: db}}
    spec:
      containers:
        - image: redis
          env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]
          resources: {limits: {cpu: 250m, memory: 1.5Gi}}
          livenessProbe: {tcpSocket: {port: 6379}}
          volumeMounts: [{name: data, mountPath: /data}, {name: f, mountPath: /f/a, subPath: k}]
      volumes: [{name: f, secret: {secretName: s, defaultMode: 0400}}]
  volumeClaimTemplates: [{metadata: {name: data}, spec: {resources: {requests: {storage: 1Gi}}}}]
---
{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {k: eA==}}
---
{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {selector: {app: db}, ports: [{port: 6379}]}}
"""
CONFIG = b"""host: h1
state_dir: /var/lib/vdc
management: {address: 10.0.0.1, interface: eth0}
replication: {address: 10.1.0.1, interface: eth1}
overlay_address: 10.77.0.1
etcd: {embedded: {members: {h1: 10.0.0.1}}}
memory: 2GiB
"""
RAM_BLOCKS = """Block Name    PSize              Offset               Used              Total                HVA  RO
    pc.ram    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000 0x00007f0000000000  rw
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A parser under test."""

    name: str
    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _value(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def disk(data: bytes) -> None:
    for wanted in (None, "qcow2", "raw"):
        with suppress(InvalidError):
            facts = inspect_disk(data[: 64 * 1024], max(len(data), 1 << 20), wanted)
            assert 0 < facts.virtual_bytes <= 64 * 1024**4 and facts.format in ("qcow2", "raw")


def manifest_yaml(data: bytes) -> None:
    _manifest(data, is_json=False)


def manifest_json(data: bytes) -> None:
    _manifest(data, is_json=True)


def _manifest(data: bytes, *, is_json: bool) -> None:
    for loaded in load_text(data, "a file", is_json=is_json):
        assert (loaded.manifest is None) != (loaded.error is None)
        if loaded.error is not None:
            loaded.error.problem.to_json()  # what is sent and shown can be
            assert len(str(loaded.error)) < 5_000
        else:
            assert loaded.manifest is not None
            text = loaded.manifest.to_json()
            assert type(loaded.manifest).from_json(text) == loaded.manifest


def kubernetes(data: bytes) -> None:
    """Each object has exactly one result, and Endophytes that can be stored."""
    loaded = load_text(data, "a file")
    made = route(loaded)
    assert len(made) == len(loaded)
    for item in made:
        assert [item.manifest is not None, item.error is not None, bool(item.part_of)].count(True) == 1
        if item.error is not None:
            assert len(str(item.error)) < 5_000
            item.error.problem.to_json()
        elif item.manifest is not None:
            assert type(item.manifest).from_json(item.manifest.to_json()) == item.manifest


def yaml_values(data: bytes) -> None:
    """What was read can be written, and is read again as it was."""
    with suppress(StrictError):
        for value in parse_documents(data):
            assert parse_documents(dump(value).encode()) == [value]


def request_body(data: bytes) -> None:
    with suppress(StrictError):
        value = parse_json(data)
        for model in REQUESTS:
            try:
                made = model.model_validate(value)
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                Problem(code="x", message=f"{first['loc']}: {first['msg']}").to_json()
                continue
            assert model.from_json(made.to_json()) == made


def names(data: bytes) -> None:
    text = _text(data)
    for check in (normalise_reference, check_digest, parse_endpoint):
        with suppress(InvalidError):
            check(text)
    with suppress(ValueError):
        name = check_dns_label(text)
        assert name.isascii() and "/" not in name and 0 < len(name) <= 63


def units(data: bytes) -> None:
    text = _text(data)
    with suppress(ValueError):
        assert parse_size(text) >= 0 and format_size(parse_size(text))
    with suppress(ValueError):
        assert parse_duration(text) > 0
    with suppress(InvalidError):
        assert 0 <= number(text, 0, 100_000) <= 100_000


def config(data: bytes) -> None:
    try:
        parse_config(data, PLACE)
    except InvalidError as error:
        assert "\n" not in str(error) and len(str(error)) < 2_000
        error.problem.to_json()


def contexts(data: bytes) -> None:
    with suppress(InvalidError):
        parse_contexts(data, PLACE)


def etcd_answer(data: bytes) -> None:
    try:
        answer = codec.parse_object(data)
    except ValueError:
        return
    for one in (answer, answer.get("result", {})):
        codec.revision_of(one)
        codec.key_values(one)
        codec.changes(one)
        parse_status("http://a", one, 0.0)
        for member in one.get("members", ()):
            parse_member(member)
        error_of("http://a", 200, one)


def etcd_lines(data: bytes) -> None:
    """However the stream was cut, the lines are the same."""
    cut = data[0] + 1 if data else 1
    splitter, found = codec.LineSplitter(), list[bytes]()
    for begin in range(0, len(data), cut):
        found += splitter.feed(data[begin : begin + cut])
    assert found == [line.strip() for line in data.split(b"\n")[:-1] if line.strip()]


def etcd_log(data: bytes) -> None:
    with suppress(ValueError):
        list(_fields(data))
    pairs_in(b'"/vdc/pairs/x"' + data)
    last_complaint(data.decode("utf-8", "replace"))


def records(data: bytes) -> None:
    for model in RECORDS:
        with suppress(ValidationError):
            model.from_json(data).to_json()


def answers(data: bytes) -> None:
    for model in ANSWERS:
        with suppress(ValidationError):
            model.from_json(data)
    with suppress(BugError):
        parse_answer(data)


def image_info(data: bytes) -> None:
    with suppress(DiskToolError):
        info = parse_image_info(data)
        assert isinstance(info.virtual_bytes, int)


def qmp_replies(data: bytes) -> None:
    """A QEMU that answers every command with the same value, if it passes for an answer at all."""
    value = _value(data)
    replies.event(value)

    class Session:
        async def execute(self, command: str, arguments: object = None, **_: object) -> object:
            if replies.misfit(command, value):
                raise DiskToolError("garbled")
            return value

    with suppress(VdcError, StopIteration):
        inspect(Session()).send(None)  # type: ignore[arg-type]  # it waits for nothing else
    for command in Command:
        replies.misfit(command, value)


def ram_blocks(data: bytes) -> None:
    with suppress(ValueError):
        assert sum(block.size_bytes for block in parse_ram_blocks(_text(data))) <= 2 * 1024**4


def sandbox_status(data: bytes) -> None:
    parse_child_pid(data)


def _json(record: Record) -> bytes:
    return record.to_json().encode()


def _qcow2() -> bytes:
    head = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, 16, 1 << 20, 0, 1, 3 << 16, 1 << 16, 1, 0, 0)
    return (head + struct.pack(">QQQII", 0, 0, 0, 4, 104)).ljust(512, b"\0")


_KV = {"key": base64.b64encode(b"/vdc/x").decode(), "value": "e30=", "mod_revision": "7", "lease": "1"}
_HEADER = {"header": {"revision": "7", "member_id": "1"}}
_BODIES: tuple[Record, ...] = (
    wire.PromoteRequest(to="h2"), wire.DrainRequest(reason="a"),
    wire.DigestRequest(epoch=1, from_host="h1", chunks={"a": (1,)}),
    wire.ImageRegistration(name="a/b", image=Image(kind=ImageKind.KERNEL)),
)  # fmt: skip

TARGETS: tuple[Target, ...] = (
    Target("disk", disk, (_qcow2(), b"# Disk DescriptorFile\nversion=1\n", b"\0" * 510 + b"\x55\xaa")),
    Target("manifest-yaml", manifest_yaml, (MANIFEST, CONTAINER, b"---\na: &a [1]\nb: *a\n<<: {c: 1}\n")),
    Target("manifest-json", manifest_json, (b'{"kind":"Endophyte","metadata":{"name":"a"},"spec":{"image":"m"}}',)),
    Target("kubernetes", kubernetes, (WORKLOAD,)),
    Target("yaml-values", yaml_values, (MANIFEST, CONFIG, b"- 0o7\n- 1e3\n- ~\n- 'x'\n- \"\\x85\"\n- |\n a\n")),
    Target("request-body", request_body, (b'{"state":"running"}', *(_json(one) for one in _BODIES))),
    Target("names", names, (b"web", b"localhost:5000/team/app:1.2", b"sha256:" + b"a" * 64, b"http://h:7400")),
    Target("units", units, (b"2GiB", b"1.5 MiB", b"24h", b"100")),
    Target("config", config, (CONFIG,)),
    Target("contexts", contexts, (b"contexts: {lab: {endpoints: ['unix:///a']}}\ncurrent-context: lab\n",)),
    Target("etcd-answer", etcd_answer, (
        json.dumps({**_HEADER, "kvs": [_KV]}).encode(), json.dumps({"error": {"message": "x", "code": 5}}).encode(),
        json.dumps({"result": {**_HEADER, "events": [{"type": "DELETE", "kv": _KV}]}}).encode(),
        json.dumps({**_HEADER, "leader": "1", "errors": ["x"], "members": [{"ID": "1", "peerURLs": ["a"]}]}).encode(),
    )),
    Target("etcd-lines", etcd_lines, (b'\x07{"a":1}\n\n{"b":2}\n{',)),
    Target("etcd-log", etcd_log, (b"\x08\x02\x10\x01\x1a\x04abcd", b'{"level":"fatal","msg":"x"}')),
    Target("records", records, (
        b'{"uid":"a","epoch":1,"state":"clean","heads":["disk0.qcow2"]}', b'{"name":"a","uid":"b","stage":"absent"}',
        b'{"at":"","epoch":1,"step":"promote.begun"}', b'{"token":"a","argv0":"b","boot_id":"c"}', _json(Network()),
    )),
    Target("answers", answers, (b'{"sentence":"x","lineage":0}', b'{"items":[],"notes":[]}')),
    Target("image-info", image_info, (
        b'{"format":"qcow2","virtual-size":1,"actual-size":2,"format-specific":{"data":{"data-file":"a"}}}',
    )),
    Target("qmp-replies", qmp_replies, (
        b'{"status":"running","mode":"none","UUID":"x","ram":{"total":1}}',
        b'[{"name":"a","label":"b","node-name":"c"}]',
        b'{"event":"STOP","data":{"reason":"x"},"timestamp":{}}',
        b'[{"device":"a","offset":1,"len":2,"ready":true,"status":"x"}]',
    )),
    Target("ram-blocks", ram_blocks, (RAM_BLOCKS.encode(),)),
    Target("sandbox-status", sandbox_status, (b'{"child-pid":1}\n{"exit-code":0}\n',)),
    *(Target(*about) for about in (
        *identities.TARGETS, *disks.TARGETS, *guests.TARGETS, *containers.TARGETS, *container_guests.TARGETS,
        *interchange.TARGETS, *backups.TARGETS,
    )),
)  # fmt: skip
BY_NAME = {target.name: target for target in TARGETS}
