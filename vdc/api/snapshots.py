"""What travels over the API about snapshots."""

from __future__ import annotations

from typing import Any

from vdc.model.base import Record, StrictRecord
from vdc.model.ids import DnsLabel
from vdc.model.snapshot import SnapshotDisk, SnapshotMemory, SnapshotState


class SnapshotRequest(StrictRecord):
    """Take a snapshot. `name`: else it is named after the moment; `quiesce`: freeze the guest's file systems for it;
    `memory`: of a paused VM's memory too.
    """

    name: DnsLabel | None = None
    quiesce: bool = False
    memory: bool = False


class SnapshotView(Record):
    """One snapshot as it is shown; `spec` is its VM's at that moment, without secrets."""

    name: str
    endophyte: str
    uid: str
    state: SnapshotState
    host: str
    epoch: int
    created_at: str
    is_quiesced: bool
    was_running: bool
    size_bytes: int
    disks: tuple[SnapshotDisk, ...]
    memory: SnapshotMemory | None = None
    spec: dict[str, Any]


class SnapshotList(Record):
    """Snapshots, the oldest first."""

    items: tuple[SnapshotView, ...]


class RestoreRequest(StrictRecord):
    """Make a VM of a snapshot. `as_name`: a new one of that name; else the VM itself, stopped, which `run` starts.

    Without `memory` it boots, also where the snapshot has the memory that the VM could go on with. `dry_run`: only say
    whether that memory fits.
    """

    as_name: DnsLabel | None = None
    run: bool = True
    memory: bool = True
    dry_run: bool = False
