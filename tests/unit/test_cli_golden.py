"""Tables and descriptions, compared with files; set UPDATE_GOLDEN=1 to write them anew."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cli_support import LOCKSTEP

from vdc.api import models as wire
from vdc.cli import tables
from vdc.cli.describing import endophyte_text
from vdc.cli.text import Column, Table
from vdc.model.endophyte import (
    CheckpointFigures,
    CopyRole,
    CopyStage,
    EndophyteStatus,
    Observed,
    Phase,
    Protection,
)
from vdc.model.event import Event, Severity
from vdc.model.guest import AgentStatus, GuestInterface
from vdc.model.host import Accelerator, Host, NodeStatus, QemuVersion
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.manifest import EndophyteManifest
from vdc.model.network import Network
from vdc.model.pair import Pair, SyncState

FOLDER = Path(__file__).parent / "golden" / "cli"
CREATED = "2030-01-01T00:00:00+00:00"


class FixedClock(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> FixedClock:
        return cls(2030, 1, 1, 0, 7, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def fixed_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "datetime", FixedClock)


def check(name: str, text: str) -> None:
    path = FOLDER / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text + "\n")
    assert text + "\n" == path.read_text()


AGENT = AgentStatus(
    is_answering=True,
    interfaces=(
        GuestInterface(name="eth0", addresses=(IPv4Address("10.77.0.10"), IPv4Address("10.77.0.250"))),
        GuestInterface(name="docker0", addresses=(IPv4Address("172.17.0.1"),)),
        GuestInterface(name="eth1"),
    ),
)


def view(name: str, **status: Any) -> wire.EndophyteView:
    manifest = EndophyteManifest.model_validate(
        {
            "metadata": {"name": name},
            "spec": {
                "image": "mycelium/mini:latest",
                "resources": {"memory": "256MiB"},
                "networks": [{"allowedAddresses": ["192.0.2.0/24", "10.77.0.250"]}]
                if name == "web"
                else [{}],
            },
        }
    )
    values: dict[str, Any] = {
        **LOCKSTEP,
        "addresses": ("10.77.0.10",),
        "mac": "52:54:00:12:34:56",
        "firmware": "bios",
        "agent": AGENT if name == "web" else None,
        "checkpoints": CheckpointFigures(count=120, pause_ms_p50=4.1, pause_ms_p99=11.0, last=CREATED),
    }
    return wire.EndophyteView(
        metadata=wire.ViewMetadata(name=name, uid=f"uid-{name}", createdAt=CREATED),
        spec=manifest.spec.model_dump(mode="json", by_alias=True),
        status=EndophyteStatus(**{**values, **status}),
    )


VIEWS = [
    view("web"),
    view(
        "windows-desktop",
        phase=Phase.PENDING,
        protection=Protection.DEGRADED,
        epoch=0,
        primary=None,
        secondary=None,
        spares=(),
        addresses=(),
        mac="",
        checkpoints=CheckpointFigures(),
        sentence="no host has 4GiB left\x1b[2J",
    ),
]
EVENTS = [
    Event(
        id="1",
        at="2030-01-01T00:01:02.345678+00:00",
        host="h2",
        name="web",
        epoch=2,
        code="promoted",
        severity=Severity.WARNING,
        sentence="h1 does not answer; h2 goes on",
        figures={"detect_ms": 151.25},
    ),
    Event(
        id="2",
        at="2030-01-01T00:01:09.000001+00:00",
        host="h2",
        name="web",
        epoch=2,
        code="protected",
        sentence="in lockstep with h3",
    ),
]


def host(name: str, **changes: Any) -> Host:
    values: dict[str, Any] = {
        "name": name,
        "api_url": "http://10.0.0.1:7777",
        "management_address": "10.0.0.1",
        "replication_address": "10.1.0.1",
        "overlay_address": "10.77.0.1",
        "heartbeat_port": 7001,
        "agent_version": "0.1.0",
        "incarnation": 1,
        "cpus": 4,
        "memory_bytes": 8 * 2**30,
        "accelerator": Accelerator(),
        "qemu": QemuVersion(version="11.1.3", lockstep=True),
        "started_at": CREATED,
    }
    return Host(**{**values, **changes})


NODES = [
    NodeStatus(
        host=host("h1"),
        alive=True,
        is_leader=True,
        etcd="leader",
        endophytes=("web", "db"),
        memory_reserved_bytes=3 * 2**29,
    ),
    NodeStatus(
        host=host("h2", schedulable=False, qemu=QemuVersion()),
        alive=True,
        is_leader=False,
        etcd="member",
        endophytes=(),
        memory_reserved_bytes=0,
    ),
    NodeStatus(
        host=host("h3"),
        alive=False,
        is_leader=False,
        etcd="unreachable",
        endophytes=(),
        memory_reserved_bytes=0,
    ),
]
IMAGES = [
    wire.ImageView(
        digest="sha256:" + "ab" * 32,
        image=Image(
            kind=ImageKind.KERNEL,
            kernel=Blob(digest="sha256:" + "0" * 64, size_bytes=9 * 2**20),
            disk_virtual_bytes=2**26,
        ),
        names=("mycelium/mini:latest",),
        hosts=("h1", "h2"),
        source="/srv/mini",
        size_bytes=9 * 2**20,
        used_by=("web",),
        created_at=CREATED,
    )
]


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("name", "columns", "records"),
    [
        ("endophytes", tables.endophyte_columns(), VIEWS),
        ("nodes", tables.node_columns(), NODES),
        ("images", tables.image_columns(), IMAGES),
        ("networks", tables.network_columns(), [Network()]),
        ("events", tables.event_columns(), EVENTS),
    ],
)
def test_tables(name: str, columns: list[Column[Any]], records: list[Any], wide: bool) -> None:
    check(f"{name}-wide" if wide else name, Table(columns, wide=wide).render(records))


def test_the_description_of_an_endophyte() -> None:
    copies = tuple(
        Observed(
            name="web",
            host=name,
            uid="u",
            epoch=3,
            role=role,
            stage=CopyStage.LOCKSTEP,
            pid=pid,
            qemu="running",
            sentence="in lockstep",
        )
        for name, role, pid in (("h1", CopyRole.PRIMARY, 4242), ("h2", CopyRole.SECONDARY, 4243))
    )
    pair = Pair(
        name="web",
        uid="u",
        epoch=3,
        primary="h1",
        secondary="h2",
        sync=SyncState.IN_SYNC,
        spares=("h3",),
        slot=1,
        reason="three checkpoints completed",
        changed_at=CREATED,
    )
    description = wire.EndophyteDescription(
        view=VIEWS[0], pair=pair, copies=copies, events=tuple(EVENTS), limits=("IPv6 is not compared",)
    )
    check("describe-endophyte", "\n".join(endophyte_text(description)))


def test_the_description_of_one_that_has_not_begun() -> None:
    description = wire.EndophyteDescription(view=VIEWS[1], pair=None, copies=(), events=())
    check("describe-endophyte-pending", "\n".join(endophyte_text(description)))
