"""Handlers of `vdc snapshot`: the primary's agent takes them, any agent names, shows and restores them."""

from __future__ import annotations

import re

from aiohttp import web

from hostagent.server import views
from hostagent.server.context import ServerContext
from hostagent.server.http import parse_body
from hostagent.server.identity import person_of
from hostagent.supervisor.host import HostContext
from hostagent.supervisor.remembering import WAY_OUT
from vdc.api import models as wire
from vdc.api import snapshots
from vdc.control.snapshots import SnapshotRecords, manifest_of
from vdc.model.errors import ConflictError, RefusedError
from vdc.model.memory import LAYOUT, difference
from vdc.model.secrets import masked
from vdc.model.snapshot import Snapshot

_DIGITS = re.compile(r"[^0-9]")


class SnapshotHandlers:
    """One method per route, named like it."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._mirror = context.host.mirror
        self._records = SnapshotRecords(context.host.store, context.host.clock)

    async def create_snapshot(self, request: web.Request) -> snapshots.SnapshotView:
        """See the route table. Done on the primary's host; others hand the request on."""
        name = request.match_info["name"]
        body = snapshots.SnapshotRequest.model_validate(await parse_body(request))
        await views.find_endophyte(self._mirror, name)
        pair = self._mirror.pair(name)
        if pair is None:
            raise ConflictError(f"{name} has no disks yet", code="not-settled", hint="try again in a moment")
        if pair.primary != self._context.host.name:
            peer = self._context.peer(pair.primary, person_of(request))
            return await peer.snapshots.create(name, body)
        work = self._context.supervisors.find(name).snapshots
        return _shown(
            await work.take(body.name or self._name_of_now(), quiesce=body.quiesce, memory=body.memory)
        )

    async def list_snapshots(self, request: web.Request) -> snapshots.SnapshotList:
        """See the route table."""
        name = request.query.get("name")
        found = [one.value for one in self._mirror.snapshots.values()]
        wanted = [_shown(one) for one in found if name is None or one.endophyte == name]
        return snapshots.SnapshotList(
            items=tuple(sorted(wanted, key=lambda one: (one.endophyte, one.created_at)))
        )

    async def get_snapshot(self, request: web.Request) -> snapshots.SnapshotView:
        """See the route table."""
        return _shown(await self._found(request))

    async def remove_snapshot(self, request: web.Request) -> wire.Acknowledged:
        """See the route table."""
        name, snapshot = request.match_info["name"], request.match_info["snapshot"]
        await self._records.remove(name, snapshot)
        return wire.Acknowledged(sentence=f"snapshot {snapshot} of {name} removed")

    async def restore_snapshot(self, request: web.Request) -> wire.Acknowledged:
        """See the route table."""
        body = snapshots.RestoreRequest.model_validate(await parse_body(request))
        snapshot = await self._found(request)
        with_memory = snapshot.memory is not None and body.memory
        if with_memory:
            await self._require_loadable(snapshot, body)
        if body.dry_run:
            return wire.Acknowledged(sentence=f"snapshot {snapshot.name} can be restored")
        if body.as_name is not None:
            await self._context.desired.create(manifest_of(snapshot, body.as_name))
            return wire.Acknowledged(sentence=f"{body.as_name} is made of snapshot {snapshot.name}")
        await self._context.desired.restore(snapshot, run=body.run, with_memory=with_memory)
        return wire.Acknowledged(sentence=f"{snapshot.endophyte} begins anew from snapshot {snapshot.name}")

    async def _require_loadable(self, snapshot: Snapshot, body: snapshots.RestoreRequest) -> None:
        """Before anything is given up for a memory, each host has to be one on which it can go on."""
        if body.as_name is not None:
            raise RefusedError(
                f"what runs in the memory of {snapshot.endophyte} has its addresses, which {body.as_name} cannot have",
                code="memory-not-new", hint="with --no-memory the new VM boots from the snapshot's disks",
            )  # fmt: skip
        present, host = await views.find_endophyte(self._mirror, snapshot.endophyte), self._context.host
        name = snapshot.memory.image if snapshot.memory else ""
        found = self._mirror.images.get(self._mirror.image_names.get(name, ""))
        saved = found.value.image.machine if found else None
        if saved is None:
            raise ConflictError("the snapshot's memory is not known here", code="memory-unfit", hint=WAY_OUT)
        cpu = await host.guest_cpu() if isinstance(host, HostContext) else saved.cpu_model
        macs = tuple(nic.mac for nic in present.nics)
        for name in sorted(self._mirror.alive & self._mirror.hosts.keys()):
            other = self._mirror.hosts[name].value
            now = saved.with_(
                layout=LAYOUT, qemu_version=other.qemu.version, accelerator=other.accelerator.name,
                cpu_model=cpu, macs=macs,
            )  # fmt: skip
            if not other.is_witness and (why := difference(saved, now)):
                raise RefusedError(
                    f"the memory in snapshot {snapshot.name} cannot be loaded on {name}: {why}",
                    code="memory-unfit", hint=WAY_OUT,
                )  # fmt: skip

    async def _found(self, request: web.Request) -> Snapshot:
        return await self._records.find(request.match_info["name"], request.match_info["snapshot"])

    def _name_of_now(self) -> str:
        """`20260131-235959`, in UTC."""
        digits = _DIGITS.sub("", self._context.host.clock.wall())
        return f"{digits[:8]}-{digits[8:14]}"


def _shown(snapshot: Snapshot) -> snapshots.SnapshotView:
    spec = masked(snapshot.manifest).spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    shared = set(snapshots.SnapshotView.model_fields) - {"spec", "size_bytes"}
    values = {name: getattr(snapshot, name) for name in shared}
    return snapshots.SnapshotView(**values, size_bytes=snapshot.size_bytes, spec=spec)
