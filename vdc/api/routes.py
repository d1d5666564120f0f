"""Every route of the API as one table: the server registers from it, the client calls by it, OpenAPI is made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from vdc.api import models as wire
from vdc.model.base import Record
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
    summary: str
    request: type[Record] | None = None
    response: type[Record] | None = None
    query: tuple[str, ...] = ()
    body: Body = Body.JSON
    request_body: Body = Body.JSON
    is_peer: bool = field(default=False)  # from agent to agent only
    may_force: bool = field(
        default=False
    )  # some of it works without a majority: the handler asks for one itself


ROUTES: tuple[Route, ...] = (
    Route("health", "GET", "/v1/health", "Is this agent alive", response=wire.Health),
    Route("cluster", "GET", "/v1/cluster", "Health of the cluster", response=wire.ClusterStatus),
    Route("doctor", "GET", "/v1/doctor", "What this host can and cannot do", response=wire.DoctorReport),
    Route("metrics", "GET", "/v1/metrics", "Figures in Prometheus text form", body=Body.TEXT),
    Route("openapi", "GET", "/v1/openapi.json", "This contract as OpenAPI 3.1"),
    Route("list_endophytes", "GET", "/v1/endophytes", "All Endophytes", response=wire.EndophyteList),
    Route(
        "create_endophyte", "POST", "/v1/endophytes", "Create; a conflict where the name is taken",
        request=EndophyteManifest, response=wire.EndophyteView,
    ),
    Route("get_endophyte", "GET", "/v1/endophytes/{name}", "One Endophyte", response=wire.EndophyteView),
    Route(
        "apply_endophyte", "PUT", "/v1/endophytes/{name}", "Create, or change to this manifest",
        request=EndophyteManifest, response=wire.ApplyResult, query=("dry_run",),
    ),
    Route("delete_endophyte", "DELETE", "/v1/endophytes/{name}", "Stop and remove, disks included", response=wire.Acknowledged),
    Route(
        "describe_endophyte", "GET", "/v1/endophytes/{name}/description", "Everything known of one Endophyte",
        response=wire.EndophyteDescription,
    ),
    Route(
        "watch_endophytes", "GET", "/v1/watch/endophytes", "Each Endophyte now and after every change",
        response=wire.EndophyteView, body=Body.LINES, query=("name",),
    ),
    Route(
        "run_endophyte", "POST", "/v1/endophytes/{name}/run", "Start, stop or pause",
        request=wire.RunRequest, response=wire.EndophyteView,
    ),
    Route(
        "restart_endophyte", "POST", "/v1/endophytes/{name}/restart", "Power-cycle",
        request=wire.RestartRequest, response=wire.EndophyteView,
    ),
    Route(
        "protect_endophyte", "POST", "/v1/endophytes/{name}/protection", "Lockstep on or off",
        request=wire.ProtectionRequest, response=wire.EndophyteView,
    ),
    Route(
        "promote_endophyte", "POST", "/v1/endophytes/{name}/promote", "Make the secondary the primary",
        request=wire.PromoteRequest, response=wire.PromoteResult, may_force=True,
    ),
    Route(
        "move_endophyte", "POST", "/v1/endophytes/{name}/move", "Let it run on another host, without a stop",
        request=wire.MoveRequest, response=wire.EndophyteView,
    ),
    Route(
        "verify_endophyte", "POST", "/v1/endophytes/{name}/verify", "Compare memory and disks of both copies",
        request=wire.VerifyRequest, response=wire.VerifyResult,
    ),
    Route(
        "drill_endophyte", "POST", "/v1/endophytes/{name}/drill", "Let the primary fail on purpose, and measure",
        request=wire.DrillRequest, response=wire.DrillResult,
    ),
    Route(
        "endophyte_log", "GET", "/v1/endophytes/{name}/log", "Tail of the serial console",
        response=wire.LogText, query=("lines", "offset"),
    ),
    Route("endophyte_console", "GET", "/v1/endophytes/{name}/console", "Serial console, both ways", body=Body.WEBSOCKET),
    Route("list_nodes", "GET", "/v1/nodes", "All hosts", response=wire.NodeList),
    Route(
        "drain_node", "POST", "/v1/nodes/{name}/drain", "Move everything off a host and place nothing there",
        request=wire.DrainRequest, response=DrainReport,
    ),
    Route("drain_report", "GET", "/v1/nodes/{name}/drain", "What a drain has yet to do", response=DrainReport),
    Route("resume_node", "DELETE", "/v1/nodes/{name}/drain", "Use a drained host again", response=wire.Acknowledged),
    Route(
        "remove_node", "DELETE", "/v1/nodes/{name}", "Forget a host that is gone for good",
        response=wire.Acknowledged, query=("force",),
    ),
    Route("list_networks", "GET", "/v1/networks", "All overlays", response=wire.NetworkList),
    Route("list_events", "GET", "/v1/events", "Events, oldest first", response=wire.EventList, query=("name", "limit")),
    Route(
        "watch_events", "GET", "/v1/watch/events", "Recent events, then each as it happens",
        response=None, body=Body.LINES, query=("name",),
    ),
    Route("list_images", "GET", "/v1/images", "All images", response=wire.ImageList),
    Route("register_image", "POST", "/v1/images", "Name an uploaded image", request=wire.ImageRegistration, response=wire.Acknowledged),
    Route("remove_image", "DELETE", "/v1/images", "Remove a name; content goes with the last one", response=wire.Acknowledged, query=("name",)),
    Route("has_blob", "HEAD", "/v1/blobs/{digest}", "Does this host hold the blob"),
    Route("read_blob", "GET", "/v1/blobs/{digest}", "Content of a blob", body=Body.BYTES),
    Route(
        "write_blob", "PUT", "/v1/blobs/{digest}", "Upload a blob; verified against its digest",
        response=wire.BlobReceipt, request_body=Body.BYTES,
    ),
    Route(
        "peer_quiesce", "POST", "/v1/peer/endophytes/{name}/quiesce", "Silence the guest for a planned promotion",
        request=wire.PeerRequest, response=wire.Acknowledged, is_peer=True,
    ),
    Route(
        "peer_follow", "POST", "/v1/peer/endophytes/{name}/follow", "Wait until frames go to the primary of an epoch",
        request=wire.PeerRequest, response=wire.Acknowledged, is_peer=True,
    ),
    Route(
        "peer_credentials", "POST", "/v1/peer/endophytes/{name}/credentials",
        "Sign the certificate for the secondary's replication",
        request=wire.CredentialsRequest, response=wire.Credentials, is_peer=True,
    ),
    Route(
        "peer_fail", "POST", "/v1/peer/endophytes/{name}/fail", "Kill or stop the primary's QEMU for a drill",
        request=wire.FailRequest, response=wire.Acknowledged, is_peer=True,
    ),
    Route(
        "peer_freeze", "POST", "/v1/peer/endophytes/{name}/freeze", "Freeze the secondary at a checkpoint",
        request=wire.PeerRequest, response=wire.Frozen, is_peer=True,
    ),
    Route(
        "peer_digests", "POST", "/v1/peer/endophytes/{name}/digests", "Digests of the frozen secondary's memory",
        request=wire.DigestRequest, response=wire.MemoryDigests, is_peer=True,
    ),
    Route(
        "peer_thaw", "POST", "/v1/peer/endophytes/{name}/thaw", "Let a frozen secondary go on",
        request=wire.PeerRequest, response=wire.Acknowledged, is_peer=True,
    ),
)  # fmt: skip

BY_NAME: dict[str, Route] = {route.name: route for route in ROUTES}
