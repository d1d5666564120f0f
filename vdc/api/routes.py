"""Every route of the API as one table: the server registers from it and asks it who may call, the client calls by it,
OpenAPI and the documentation are made of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vdc.api import backups, files, identities, snapshots
from vdc.api import models as wire
from vdc.model.audit import RememberedHead
from vdc.model.base import Record
from vdc.model.identity import Role
from vdc.model.maintenance import DrainReport
from vdc.model.manifest import EndophyteManifest


class Body(StrEnum):
    """How a body travels."""

    JSON = "application/json"
    LINES = "application/x-ndjson"  # one JSON record a line, until either side closes
    BYTES = "application/octet-stream"
    TEXT = "text/plain"
    WEBSOCKET = "websocket"


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `path` uses aiohttp's `{name}` placeholders."""

    name: str
    method: str
    path: str
    role: Role  # the least that may call it
    summary: str
    request: type[Record] | None = None
    response: type[Record] | None = None
    query: tuple[str, ...] = ()
    body: Body = Body.JSON
    request_body: Body = Body.JSON
    # Of a route for people: which machines may call it in their own name as well (WITNESS: hosts too).
    by_hosts: Role | None = None
    from_newcomers: bool = False  # also by a host whose record nobody has read yet
    may_force: bool = False  # some of it works without a majority: the handler asks for one itself
    forced_role: Role | None = None  # the least that may force it; its handler asks

    hands_out_keys: bool = False  # audited even where a host asks
    # Of an act: what of its query the audit log keeps beside the object.
    told: tuple[str, ...] = ()

    @property
    def is_peer(self) -> bool:
        """Whether it is from agent to agent only."""
        return self.role.is_machine

    def admits(self, role: Role) -> bool:
        """Whether somebody with this role may call it."""
        return role.includes(self.role) or (self.by_hosts is not None and role.includes(self.by_hosts))

    @property
    def is_act(self) -> bool:
        """Whether it is in the audit log whatever comes of it: a person's change, a look inside, or what gives power."""
        is_change = self.method not in ("GET", "HEAD") or self.body is Body.WEBSOCKET
        return self.hands_out_keys or ((is_change or bool(self.told)) and not self.is_peer)

    @property
    def names_in_body(self) -> bool:
        """Whether the body names the object that it is about, not the path."""
        return self.request is not None and "{" not in self.path

    @property
    def may_be_dry(self) -> bool:
        """Whether its body can ask to change nothing."""
        return self.request is not None and "dry_run" in self.request.model_fields


ROUTES: tuple[Route, ...] = (
    Route("health", "GET", "/v1/health", Role.VIEWER, "Is this agent alive", response=wire.Health, by_hosts=Role.WITNESS, from_newcomers=True),
    Route("cluster", "GET", "/v1/cluster", Role.VIEWER, "Health of the cluster", response=wire.ClusterStatus),
    Route("doctor", "GET", "/v1/doctor", Role.VIEWER, "What this host can and cannot do", response=wire.DoctorReport),
    Route("metrics", "GET", "/v1/metrics", Role.VIEWER, "Figures in Prometheus text form", body=Body.TEXT),
    Route("openapi", "GET", "/v1/openapi.json", Role.VIEWER, "This contract as OpenAPI 3.1"),
    Route("list_endophytes", "GET", "/v1/endophytes", Role.VIEWER, "All Endophytes", response=wire.EndophyteList),
    Route(
        "create_endophyte", "POST", "/v1/endophytes", Role.OPERATOR, "Create; a conflict where the name is taken",
        request=EndophyteManifest, response=wire.EndophyteView,
    ),
    Route("get_endophyte", "GET", "/v1/endophytes/{name}", Role.VIEWER, "One Endophyte", response=wire.EndophyteView),
    Route(
        "apply_endophyte", "PUT", "/v1/endophytes/{name}", Role.OPERATOR, "Create, or change to this manifest",
        request=EndophyteManifest, response=wire.ApplyResult, query=("dry_run",),
    ),
    Route("delete_endophyte", "DELETE", "/v1/endophytes/{name}", Role.OPERATOR, "Stop and remove, disks included", response=wire.Acknowledged),
    Route(
        "describe_endophyte", "GET", "/v1/endophytes/{name}/description", Role.VIEWER, "Everything known of one Endophyte",
        response=wire.EndophyteDescription,
    ),
    Route(
        "watch_endophytes", "GET", "/v1/watch/endophytes", Role.VIEWER, "Each Endophyte now and after every change",
        response=wire.EndophyteView, body=Body.LINES, query=("name",),
    ),
    Route(
        "run_endophyte", "POST", "/v1/endophytes/{name}/run", Role.OPERATOR, "Start, stop or pause",
        request=wire.RunRequest, response=wire.EndophyteView,
    ),
    Route(
        "restart_endophyte", "POST", "/v1/endophytes/{name}/restart", Role.OPERATOR, "Power-cycle",
        request=wire.RestartRequest, response=wire.EndophyteView,
    ),
    Route(
        "protect_endophyte", "POST", "/v1/endophytes/{name}/protection", Role.OPERATOR, "Lockstep on or off",
        request=wire.ProtectionRequest, response=wire.EndophyteView,
    ),
    Route(
        "promote_endophyte", "POST", "/v1/endophytes/{name}/promote", Role.OPERATOR, "Make the secondary the primary",
        request=wire.PromoteRequest, response=wire.PromoteResult, may_force=True, forced_role=Role.ADMIN, by_hosts=Role.WITNESS,
    ),
    Route(
        "move_endophyte", "POST", "/v1/endophytes/{name}/move", Role.OPERATOR, "Let it run on another host, without a stop",
        request=wire.MoveRequest, response=wire.EndophyteView,
    ),
    Route(
        "verify_endophyte", "POST", "/v1/endophytes/{name}/verify", Role.OPERATOR, "Compare memory and disks of both copies",
        request=wire.VerifyRequest, response=wire.VerifyResult,
    ),
    Route(
        "drill_endophyte", "POST", "/v1/endophytes/{name}/drill", Role.OPERATOR, "Let the primary fail on purpose, and measure",
        request=wire.DrillRequest, response=wire.DrillResult,
    ),
    Route(
        "endophyte_log", "GET", "/v1/endophytes/{name}/log", Role.VIEWER, "Tail of a container's output, or of the serial console",
        response=wire.LogText, query=("lines", "offset", "console"),
    ),
    Route("endophyte_console", "GET", "/v1/endophytes/{name}/console", Role.OPERATOR, "Serial console, both ways", body=Body.WEBSOCKET),
    Route(
        "endophyte_exec", "GET", "/v1/endophytes/{name}/exec", Role.OPERATOR, "Run a command in a container",
        query=("command", "user"), told=("command", "user"), body=Body.WEBSOCKET,
    ),
    Route(
        "read_files", "GET", "/v1/endophytes/{name}/files", Role.OPERATOR, "A file or folder of a container, as a tar archive",
        query=("path",), told=("path",), body=Body.BYTES,
    ),
    Route(
        "write_files", "PUT", "/v1/endophytes/{name}/files", Role.OPERATOR, "Unpack a tar archive into a folder of a container",
        query=("path",), told=("path",), request_body=Body.BYTES, response=files.FilesWritten,
    ),
    Route(
        "create_snapshot", "POST", "/v1/endophytes/{name}/snapshots", Role.OPERATOR, "Copy all disks as they are at one moment",
        request=snapshots.SnapshotRequest, response=snapshots.SnapshotView,
    ),
    Route("list_snapshots", "GET", "/v1/snapshots", Role.VIEWER, "All snapshots, or those of one Endophyte", response=snapshots.SnapshotList, query=("name",)),
    Route("get_snapshot", "GET", "/v1/endophytes/{name}/snapshots/{snapshot}", Role.VIEWER, "One snapshot", response=snapshots.SnapshotView),
    Route("remove_snapshot", "DELETE", "/v1/endophytes/{name}/snapshots/{snapshot}", Role.OPERATOR, "Remove a snapshot", response=wire.Acknowledged),
    Route(
        "restore_snapshot", "POST", "/v1/endophytes/{name}/snapshots/{snapshot}/restore", Role.OPERATOR,
        "Make a VM of a snapshot: a new one, or the stopped one itself",
        request=snapshots.RestoreRequest, response=wire.Acknowledged,
    ),
    Route(
        "create_backup", "POST", "/v1/endophytes/{name}/backups", Role.OPERATOR, "Copy all disks, or what has changed, to be read",
        request=backups.BackupRequest, response=backups.BackupView,
    ),
    Route(
        "read_backup", "GET", "/v1/endophytes/{name}/backups/{backup}/disks/{disk}", Role.OPERATOR,
        "A disk of such a copy, as a stream of parts", query=("host", "first"), told=("first",), body=Body.BYTES,
    ),
    Route(
        "end_backup", "DELETE", "/v1/endophytes/{name}/backups/{backup}", Role.OPERATOR,
        "Give such a copy up; kept: the next one may be of the changes since",
        response=wire.Acknowledged, query=("host", "kept"), told=("kept",),
    ),
    Route("list_nodes", "GET", "/v1/nodes", Role.VIEWER, "All hosts", response=wire.NodeList),
    Route(
        "drain_node", "POST", "/v1/nodes/{name}/drain", Role.OPERATOR, "Move everything off a host and place nothing there",
        request=wire.DrainRequest, response=DrainReport,
    ),
    Route("drain_report", "GET", "/v1/nodes/{name}/drain", Role.VIEWER, "What a drain has yet to do", response=DrainReport),
    Route("resume_node", "DELETE", "/v1/nodes/{name}/drain", Role.OPERATOR, "Use a drained host again", response=wire.Acknowledged),
    Route(
        "remove_node", "DELETE", "/v1/nodes/{name}", Role.ADMIN, "Forget a host that is gone for good",
        response=wire.Acknowledged, query=("force",),
    ),
    Route("list_networks", "GET", "/v1/networks", Role.VIEWER, "All overlays", response=wire.NetworkList),
    Route("list_events", "GET", "/v1/events", Role.VIEWER, "Events, oldest first", response=wire.EventList, query=("name", "limit")),
    Route(
        "watch_events", "GET", "/v1/watch/events", Role.VIEWER, "Recent events, then each as it happens",
        response=None, body=Body.LINES, query=("name",),
    ),
    Route(
        "list_audit", "GET", "/v1/audit", Role.ADMIN, "The audit log, oldest first: from an entry on, or the newest",
        response=wire.AuditPage, query=("since", "limit", "who", "object"),
    ),
    Route("verify_audit", "GET", "/v1/audit/verdict", Role.ADMIN, "Is the audit log what was written", response=wire.AuditVerdict),
    Route("list_images", "GET", "/v1/images", Role.VIEWER, "All images", response=wire.ImageList),
    Route("register_image", "POST", "/v1/images", Role.OPERATOR, "Name an uploaded image", request=wire.ImageRegistration, response=wire.Acknowledged),
    Route(
        "remove_image", "DELETE", "/v1/images", Role.OPERATOR, "Remove a name (a digest: all names); content goes with the last one",
        response=wire.Acknowledged, query=("name",),
    ),
    Route(
        "prune_images", "POST", "/v1/images/prune", Role.OPERATOR, "Remove images that no VM is made of, and unfinished uploads",
        request=wire.PruneRequest, response=wire.PruneReport,
    ),
    Route("has_blob", "HEAD", "/v1/blobs/{digest}", Role.OPERATOR, "Does this host hold the blob; if not, how much of it was uploaded"),
    Route("read_blob", "GET", "/v1/blobs/{digest}", Role.OPERATOR, "Content of a blob", body=Body.BYTES, by_hosts=Role.HOST),
    Route(
        "read_chunks", "GET", "/v1/blobs/{digest}/chunks", Role.OPERATOR, "The sha256 of each chunk of a blob",
        body=Body.BYTES, by_hosts=Role.HOST,
    ),
    Route(
        "write_blob", "PUT", "/v1/blobs/{digest}", Role.OPERATOR, "Upload a blob, or the rest of one; verified against its digest",
        response=wire.BlobReceipt, request_body=Body.BYTES,
    ),
    Route(
        "peer_sweep_images", "POST", "/v1/peer/images/sweep", Role.HOST, "Remove what no image needs",
        request=wire.SweepRequest, response=wire.HostSweep,
    ),
    Route(
        "peer_quiesce", "POST", "/v1/peer/endophytes/{name}/quiesce", Role.HOST, "Silence the guest for a planned promotion",
        request=wire.PeerRequest, response=wire.Acknowledged,
    ),
    Route(
        "peer_follow", "POST", "/v1/peer/endophytes/{name}/follow", Role.HOST, "Wait until frames go to the primary of an epoch",
        request=wire.PeerRequest, response=wire.Acknowledged,
    ),
    Route(
        "peer_credentials", "POST", "/v1/peer/endophytes/{name}/credentials", Role.HOST,
        "Sign the certificate for the secondary's replication",
        request=wire.CredentialsRequest, response=wire.Credentials,
    ),
    Route(
        "peer_fail", "POST", "/v1/peer/endophytes/{name}/fail", Role.HOST, "Kill or stop the primary's QEMU for a drill",
        request=wire.FailRequest, response=wire.Acknowledged,
    ),
    Route(
        "peer_freeze", "POST", "/v1/peer/endophytes/{name}/freeze", Role.HOST, "Freeze the secondary at a checkpoint",
        request=wire.PeerRequest, response=wire.Frozen,
    ),
    Route(
        "peer_digests", "POST", "/v1/peer/endophytes/{name}/digests", Role.HOST, "Digests of the frozen secondary's memory",
        request=wire.DigestRequest, response=wire.MemoryDigests,
    ),
    Route(
        "peer_thaw", "POST", "/v1/peer/endophytes/{name}/thaw", Role.HOST, "Let a frozen secondary go on",
        request=wire.PeerRequest, response=wire.Acknowledged,
    ),
    Route(
        "peer_output", "POST", "/v1/peer/endophytes/{name}/output", Role.HOST, "What the container on the primary's host has written",
        request=wire.OutputRequest, response=wire.LogText,
    ),
    Route("authority", "GET", "/v1/authority", Role.NOBODY, "Whom the hosts of this cluster trust", response=identities.AuthorityBundle),
    Route(
        "join", "POST", "/v1/join", Role.NOBODY, "Become a member by a join token",
        request=identities.JoinRequest, response=identities.Membership, may_force=True,
    ),
    Route(
        "renew", "POST", "/v1/renew", Role.VIEWER, "One's own certificate for a new term",
        request=identities.RenewRequest, response=identities.Membership, by_hosts=Role.WITNESS,
    ),
    Route(
        "create_token", "POST", "/v1/tokens", Role.ADMIN, "Make a join token",
        request=identities.TokenRequest, response=identities.TokenCreated, may_force=True,
    ),
    Route("list_tokens", "GET", "/v1/tokens", Role.ADMIN, "Join tokens that can be used", response=identities.TokenList, query=("local",)),
    Route(
        "revoke_token", "DELETE", "/v1/tokens/{id}", Role.ADMIN, "Make a join token worthless",
        response=wire.Acknowledged, query=("local",),
    ),
    Route(
        "add_user", "POST", "/v1/users", Role.ADMIN, "Certify a user's key",
        request=identities.UserRequest, response=identities.UserCreated,
    ),
    Route("list_users", "GET", "/v1/users", Role.ADMIN, "All users", response=identities.UserList),
    Route("remove_user", "DELETE", "/v1/users/{name}", Role.ADMIN, "Forget a user, revoke the certificates", response=wire.Acknowledged),
    Route("list_certificates", "GET", "/v1/certificates", Role.ADMIN, "Certificates that have not run out", response=identities.CertificateList),
    Route("revoke", "DELETE", "/v1/certificates/{serial}", Role.ADMIN, "Revoke a certificate", response=wire.Acknowledged),
    Route("authority_status", "GET", "/v1/authority/status", Role.ADMIN, "The authorities and their rotation", response=identities.AuthorityStatus),
    Route("rotate_authority", "POST", "/v1/authority/rotate", Role.ADMIN, "Begin to replace the authority", response=wire.Acknowledged),
    Route("retire_authority", "POST", "/v1/authority/retire", Role.ADMIN, "Give up the old authority", response=wire.Acknowledged),
    Route(
        "peer_authority", "GET", "/v1/peer/authority", Role.HOST, "The authorities' keys, for a full host",
        response=identities.AuthorityKeys, hands_out_keys=True,
    ),
    Route(
        "peer_revoked", "GET", "/v1/peer/revoked", Role.WITNESS, "The signed list of revoked certificates",
        response=identities.RevokedList, from_newcomers=True,
    ),
    Route(
        "peer_audit_head", "GET", "/v1/peer/audit-head", Role.WITNESS, "The end of the audit log that this host remembers",
        response=RememberedHead,
    ),
)  # fmt: skip

BY_NAME: dict[str, Route] = {route.name: route for route in ROUTES}
