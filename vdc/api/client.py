"""The typed client: one method per route of `vdc.api.routes`.

Everything raises `vdc.model.errors`: what the agent answered, or `UnavailableError` (`agent-unreachable`,
`outcome-unknown`). The command line uses it with all endpoints of a context, agents use it with the one
endpoint of a peer and a session of their own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
from pydantic import ValidationError

from vdc.api import models as wire
from vdc.api.answers import LOST_ERRORS, parse_json
from vdc.api.backup_client import BackupClient
from vdc.api.call import BodyFactory, Call, make_call
from vdc.api.context import Context
from vdc.api.endpoints import Endpoint
from vdc.api.execution import command_text
from vdc.api.files import FilesWritten
from vdc.api.identity_client import IdentityClient
from vdc.api.image_calls import BLOB_CHUNK_BYTES, ImageCalls
from vdc.api.snapshot_client import SnapshotClient
from vdc.api.transport import Deadlines, Transport
from vdc.model.audit import RememberedHead
from vdc.model.base import Record
from vdc.model.endophyte import RunState
from vdc.model.errors import BugError, UnavailableError
from vdc.model.event import Event
from vdc.model.identity import Identity
from vdc.model.maintenance import DrainReport
from vdc.model.manifest import EndophyteManifest
from vdc.security.credentials import UserCredentials

R = TypeVar("R", bound=Record)

MOVE_PATIENCE_S = 330.0  # for a promotion that has to move the replica first
DRILL_PATIENCE_S = 60.0  # beside the time to become protected again
FORCE_PATIENCE_S = 60.0  # for one that has to begin a new lineage first
AUDIT_PATIENCE_S = 120.0  # for reading all of a long audit log
VERIFY_PATIENCE_S = 3_900.0  # for reading all of both disks
FILES_PATIENCE_S = 120.0  # for a guest to begin, or to write out what it got
_SEEN_EVENTS = 4096  # that a stream of events remembers, so that a reconnect repeats none


class ApiClient(ImageCalls):
    """Talks to the first agent that answers; an async context manager."""

    def __init__(
        self,
        endpoints: Sequence[str | Endpoint],
        *,
        session: aiohttp.ClientSession | None = None,
        deadlines: Deadlines | None = None,
        credentials: UserCredentials | None = None,
        acting_for: Identity | None = None,
    ) -> None:
        self.transport = Transport(
            endpoints, session=session, deadlines=deadlines, credentials=credentials, acting_for=acting_for
        )
        self.identities = IdentityClient(self._call)
        self.snapshots = SnapshotClient(self._call)
        self.backups = BackupClient(self._call, self.transport)

    @classmethod
    def of(cls, context: Context, endpoint: str | None = None) -> Self:
        """A client that shows what a context holds; of one of its endpoints, or of whichever answers."""
        return cls([endpoint] if endpoint else context.endpoints, credentials=context.credentials)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close what this client opened itself."""
        await self.transport.close()

    async def pinned(self) -> ApiClient:
        """A client of the one agent that answers now: for uploads, whose parts must arrive at one host."""
        endpoint = await self.transport.choose()
        transport = self.transport
        return ApiClient([endpoint], deadlines=transport.deadlines, credentials=transport.credentials)

    # Agent and cluster

    async def health(self) -> wire.Health:
        """Whether an agent is alive, and the lineage that it acts under."""
        return await self._get(wire.Health, "health")

    async def cluster(self) -> wire.ClusterStatus:
        """Health of the cluster as one agent sees it."""
        return await self._get(wire.ClusterStatus, "cluster")

    async def doctor(self) -> wire.DoctorReport:
        """What the answering host can and cannot do."""
        return await self._call(wire.DoctorReport, make_call("doctor", first_byte_s=30.0))

    async def metrics(self) -> str:
        """Figures in Prometheus' text form."""
        return (await self.transport.request(make_call("metrics"))).decode()

    async def openapi(self) -> dict[str, Any]:
        """The contract as OpenAPI."""
        document: dict[str, Any] = parse_json(await self.transport.request(make_call("openapi")))
        return document

    async def list_nodes(self) -> wire.NodeList:
        """All hosts."""
        return await self._get(wire.NodeList, "list_nodes")

    async def list_networks(self) -> wire.NetworkList:
        """All overlays."""
        return await self._get(wire.NetworkList, "list_networks")

    async def drain_node(self, name: str, request: wire.DrainRequest) -> DrainReport:
        """Empty a host and place nothing there; `RefusedError` with the reason where that makes no sense."""
        return await self._post(DrainReport, "drain_node", name, request)

    async def drain_report(self, name: str) -> DrainReport:
        """What the drain of a host has yet to do; `NotFoundError`."""
        return await self._get(DrainReport, "drain_report", name=name)

    async def resume_node(self, name: str) -> wire.Acknowledged:
        """Use a drained host again; `NotFoundError`."""
        return await self._get(wire.Acknowledged, "resume_node", name=name)

    async def remove_node(self, name: str, *, force: bool = False) -> wire.Acknowledged:
        """Forget a host that is gone for good; `ConflictError` where it lives or has a part in a VM."""
        call = make_call("remove_node", {"name": name}, {"force": force or None}, first_byte_s=30.0)
        return await self._call(wire.Acknowledged, call)

    # Endophytes

    async def list_endophytes(self) -> wire.EndophyteList:
        """All Endophytes."""
        return await self._get(wire.EndophyteList, "list_endophytes")

    async def get_endophyte(self, name: str) -> wire.EndophyteView:
        """One Endophyte; `NotFoundError`."""
        return await self._get(wire.EndophyteView, "get_endophyte", name=name)

    async def describe_endophyte(self, name: str) -> wire.EndophyteDescription:
        """Everything known of one Endophyte; `NotFoundError`."""
        return await self._get(wire.EndophyteDescription, "describe_endophyte", name=name)

    async def create_endophyte(self, manifest: EndophyteManifest) -> wire.EndophyteView:
        """Create; `ConflictError` where the name is taken, `outcome-unknown` where the answer got lost."""
        return await self._call(
            wire.EndophyteView, make_call("create_endophyte", json_body=manifest.to_json())
        )

    async def apply_endophyte(
        self, manifest: EndophyteManifest, *, dry_run: bool = False
    ) -> wire.ApplyResult:
        """Create, or change to this manifest."""
        call = make_call(
            "apply_endophyte",
            {"name": manifest.metadata.name},
            {"dry_run": dry_run or None},
            json_body=manifest.to_json(),
            first_byte_s=30.0,
        )
        return await self._call(wire.ApplyResult, call)

    async def delete_endophyte(self, name: str) -> wire.Acknowledged:
        """Stop and remove, disks included; `NotFoundError`."""
        call = make_call("delete_endophyte", {"name": name}, first_byte_s=30.0)
        return await self._call(wire.Acknowledged, call)

    async def run_endophyte(self, name: str, state: RunState, *, force: bool = False) -> wire.EndophyteView:
        """Start, stop or pause."""
        return await self._post(
            wire.EndophyteView, "run_endophyte", name, wire.RunRequest(state=state, force=force)
        )

    async def restart_endophyte(self, name: str, *, force: bool = False) -> wire.EndophyteView:
        """Power-cycle."""
        return await self._post(
            wire.EndophyteView, "restart_endophyte", name, wire.RestartRequest(force=force)
        )

    async def protect_endophyte(self, name: str, *, enabled: bool) -> wire.EndophyteView:
        """Lockstep on or off."""
        return await self._post(
            wire.EndophyteView, "protect_endophyte", name, wire.ProtectionRequest(enabled=enabled)
        )

    async def promote_endophyte(
        self, name: str, *, to: str | None = None, force: bool = False, confirm: str = ""
    ) -> wire.PromoteResult:
        """Make the secondary the primary; `RefusedError` with the reason where that is not safe.

        With `to` the replica may have to be moved there first, which takes as long as copying memory and disk.
        `force` needs `confirm`, see `PromoteRequest`.
        """
        body = wire.PromoteRequest(to=to, force=force, confirm=confirm)
        patience_s = MOVE_PATIENCE_S if to else FORCE_PATIENCE_S if force else None
        return await self._post(wire.PromoteResult, "promote_endophyte", name, body, first_byte_s=patience_s)

    async def move_endophyte(self, name: str, to: str | None) -> wire.EndophyteView:
        """Wish that it run on another host (None: no more); `RefusedError` with the reason why it cannot."""
        return await self._post(wire.EndophyteView, "move_endophyte", name, wire.MoveRequest(to=to))

    async def verify_endophyte(self, name: str, *, dry_run: bool = False) -> wire.VerifyResult:
        """Compare memory and disks of both copies; `ConflictError` where they are not in lockstep."""
        body = wire.VerifyRequest(dry_run=dry_run)
        return await self._post(
            wire.VerifyResult, "verify_endophyte", name, body, first_byte_s=VERIFY_PATIENCE_S
        )

    async def drill_endophyte(
        self, name: str, *, fault: wire.DrillFault = wire.DrillFault.KILL, timeout_s: float = 300.0
    ) -> wire.DrillResult:
        """Let the primary fail on purpose, and measure; returns when it is protected again, or at the time-out."""
        body = wire.DrillRequest(fault=fault, timeout_s=timeout_s)
        return await self._post(
            wire.DrillResult, "drill_endophyte", name, body, first_byte_s=timeout_s + DRILL_PATIENCE_S
        )

    async def endophyte_log(
        self, name: str, *, lines: int | None = None, offset: int | None = None, console: bool = False
    ) -> wire.LogText:
        """The last `lines` of a log, or all of it from the byte `offset` on.

        A container's is what its program wrote; everything else's, and with `console`, that of the serial console.
        """
        query = {"lines": lines, "offset": offset, "console": console or None}
        return await self._call(wire.LogText, make_call("endophyte_log", {"name": name}, query))

    def endophyte_exec(
        self, name: str, command: Sequence[str], user: str = ""
    ) -> AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        """A command in a container's guest, as a websocket: see vdc.api.execution. InvalidError: it is too long."""
        query = {"command": command_text(command), "user": user or None}
        return self.transport.websocket(make_call("endophyte_exec", {"name": name}, query))

    async def read_files(self, name: str, path: str) -> AsyncGenerator[bytes, None]:
        """A tar archive of a container's file or folder. UnavailableError (`files-cut`) where it broke off."""
        call = make_call("read_files", {"name": name}, {"path": path}, first_byte_s=FILES_PATIENCE_S)
        async with self.transport.open(call) as response:
            try:
                async for chunk in response.content.iter_chunked(BLOB_CHUNK_BYTES):
                    yield chunk
            except LOST_ERRORS as error:
                raise UnavailableError(f"the copy from {name} broke off", code="files-cut") from error

    async def write_files(self, name: str, path: str, archive: BodyFactory) -> FilesWritten:
        """Unpack a tar archive into a folder of a container. `archive` begins anew each time it is called."""
        call = make_call(
            "write_files", {"name": name}, {"path": path}, body=archive, first_byte_s=FILES_PATIENCE_S
        )
        return await self._call(FilesWritten, call)

    def endophyte_console(self, name: str) -> AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        """The serial console as a websocket: binary messages, both ways."""
        return self.transport.websocket(make_call("endophyte_console", {"name": name}))

    # Streams: they go on with another agent when theirs is lost, and end with an error when none is left

    async def watch_endophytes(self, name: str | None = None) -> AsyncGenerator[wire.EndophyteView, None]:
        """Each Endophyte now and after every change; after a reconnect the present ones come again."""
        async for line in self.transport.follow(make_call("watch_endophytes", query={"name": name})):
            yield _parse(wire.EndophyteView, line)

    async def watch_events(self, name: str | None = None) -> AsyncGenerator[Event, None]:
        """Recent events, then each as it happens, none twice."""
        seen: OrderedDict[str, None] = OrderedDict()
        async for line in self.transport.follow(make_call("watch_events", query={"name": name})):
            event = _parse(Event, line)
            if event.id in seen:
                continue
            seen[event.id] = None
            if len(seen) > _SEEN_EVENTS:
                seen.popitem(last=False)
            yield event

    async def list_events(self, name: str | None = None, *, limit: int | None = None) -> wire.EventList:
        """Events, oldest first."""
        return await self._call(
            wire.EventList, make_call("list_events", query={"name": name, "limit": limit})
        )

    # Audit

    async def list_audit(
        self,
        *,
        since: int | None = None,
        limit: int | None = None,
        who: str | None = None,
        object_: str | None = None,
    ) -> wire.AuditPage:
        """Entries of the audit log, oldest first: from the entry `since` on, or the newest."""
        query = {"since": since, "limit": limit, "who": who, "object": object_}
        return await self._call(
            wire.AuditPage, make_call("list_audit", query=query, first_byte_s=AUDIT_PATIENCE_S)
        )

    async def verify_audit(self) -> wire.AuditVerdict:
        """Whether the audit log is what was written."""
        return await self._call(wire.AuditVerdict, make_call("verify_audit", first_byte_s=AUDIT_PATIENCE_S))

    # From agent to agent

    async def peer_quiesce(self, name: str, request: wire.PeerRequest) -> wire.Acknowledged:
        """Silence the guest for a planned promotion; `FencedError` where the peer knows a newer epoch."""
        return await self._post(wire.Acknowledged, "peer_quiesce", name, request)

    async def peer_credentials(self, name: str, request: wire.CredentialsRequest) -> wire.Credentials:
        """A certificate for the secondary's replication; `ForbiddenError` for any other host."""
        return await self._post(wire.Credentials, "peer_credentials", name, request)

    async def peer_output(self, name: str, request: wire.OutputRequest) -> wire.LogText:
        """What a container's program has written on the primary's host; `ForbiddenError` for any other host."""
        return await self._post(wire.LogText, "peer_output", name, request)

    async def peer_fail(self, name: str, request: wire.FailRequest) -> wire.Acknowledged:
        """Kill or stop the primary's QEMU; `FencedError` under another epoch."""
        return await self._post(wire.Acknowledged, "peer_fail", name, request)

    async def peer_follow(self, name: str, request: wire.PeerRequest) -> wire.Acknowledged:
        """Wait until the peer sends the guest's frames to the primary of an epoch."""
        return await self._post(wire.Acknowledged, "peer_follow", name, request)

    async def peer_freeze(self, name: str, request: wire.PeerRequest) -> wire.Frozen:
        """Freeze the secondary at its next checkpoint; it goes on by itself after some time."""
        return await self._post(wire.Frozen, "peer_freeze", name, request, first_byte_s=30.0)

    async def peer_digests(self, name: str, request: wire.DigestRequest) -> wire.MemoryDigests:
        """Digests of the frozen secondary's memory; `ConflictError` where it does not stand still."""
        return await self._post(wire.MemoryDigests, "peer_digests", name, request, first_byte_s=120.0)

    async def peer_thaw(self, name: str, request: wire.PeerRequest) -> wire.Acknowledged:
        """Let a frozen secondary go on."""
        return await self._post(wire.Acknowledged, "peer_thaw", name, request)

    async def peer_sweep_images(self, request: wire.SweepRequest) -> wire.HostSweep:
        """Let the peer remove what no image needs."""
        call = make_call("peer_sweep_images", json_body=request.to_json(), first_byte_s=30.0)
        return await self._call(wire.HostSweep, call)

    async def peer_audit_head(self) -> RememberedHead:
        """The end of the audit log that the peer remembers."""
        return await self._get(RememberedHead, "peer_audit_head")

    async def _get(self, model: type[R], route: str, **path: str) -> R:
        return await self._call(model, make_call(route, path))

    async def _post(
        self, model: type[R], route: str, name: str, body: Record, *, first_byte_s: float | None = None
    ) -> R:
        call = make_call(route, {"name": name}, json_body=body.to_json(), first_byte_s=first_byte_s)
        return await self._call(model, call)

    async def _call(self, model: type[R], call: Call) -> R:
        return _parse(model, await self.transport.request(call))


def _parse(model: type[R], body: bytes) -> R:
    try:
        return model.from_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BugError(
            f"the agent's answer is no {model.__name__}: {where}: {first['msg']}",
            hint="are the agent and this program of the same version? vdc version shows both",
            code="bad-answer",
        ) from error


__all__ = ["ApiClient", "Deadlines"]
