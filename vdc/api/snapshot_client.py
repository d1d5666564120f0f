"""The part of the client that is about snapshots: `ApiClient.snapshots`."""

from __future__ import annotations

from typing import Any, Final

from vdc.api import models as wire
from vdc.api import snapshots
from vdc.api.call import make_call
from vdc.api.identity_client import Send

PATIENCE_S: Final = 4 * 3600.0  # for copying all disks


class SnapshotClient:
    """One per client."""

    def __init__(self, call: Send) -> None:
        self._call = call

    async def create(self, name: str, request: snapshots.SnapshotRequest) -> snapshots.SnapshotView:
        """Take one; it is ready when this returns. ConflictError, RefusedError (`no-space`), UnavailableError."""
        values: dict[str, Any] = {"json_body": request.to_json(), "first_byte_s": PATIENCE_S}
        return await self._call(
            snapshots.SnapshotView, make_call("create_snapshot", {"name": name}, **values)
        )

    async def list(self, name: str | None = None) -> snapshots.SnapshotList:
        """All, or those of one VM, which may be gone."""
        return await self._call(snapshots.SnapshotList, make_call("list_snapshots", query={"name": name}))

    async def get(self, name: str, snapshot: str) -> snapshots.SnapshotView:
        """NotFoundError (`snapshot-not-found`)."""
        return await self._call(snapshots.SnapshotView, make_call("get_snapshot", _path(name, snapshot)))

    async def remove(self, name: str, snapshot: str) -> wire.Acknowledged:
        """NotFoundError. VMs that are made of it keep its content."""
        return await self._call(wire.Acknowledged, make_call("remove_snapshot", _path(name, snapshot)))

    async def restore(self, name: str, snapshot: str, request: snapshots.RestoreRequest) -> wire.Acknowledged:
        """A new VM, or the stopped one itself; ConflictError (`not-stopped`, `name-taken`)."""
        values: dict[str, Any] = {"json_body": request.to_json(), "first_byte_s": 30.0}
        return await self._call(
            wire.Acknowledged, make_call("restore_snapshot", _path(name, snapshot), **values)
        )


def _path(name: str, snapshot: str) -> dict[str, str]:
    return {"name": name, "snapshot": snapshot}
