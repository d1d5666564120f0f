"""What travels over the API beside the records of vdc.model."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from vdc.model.audit import RememberedHead
from vdc.model.audit_chain import Damage
from vdc.model.base import Record, StrictRecord
from vdc.model.endophyte import EndophyteStatus, Observed, RunState
from vdc.model.event import Event
from vdc.model.host import NodeStatus
from vdc.model.image import Image, ImageEntry
from vdc.model.lineage import Lineage
from vdc.model.network import Network
from vdc.model.pair import Pair


class ViewMetadata(Record):
    """Identity of an object as it is shown."""

    name: str
    uid: str
    generation: int = 1
    createdAt: str = ""  # noqa: N815 - the wire form follows Kubernetes
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class EndophyteView(Record):
    """`vdc get endophyte NAME -o json`: one object, desired and observed (product.md)."""

    apiVersion: str = "mycelium.network/v1"  # noqa: N815
    kind: Literal["Endophyte"] = "Endophyte"
    metadata: ViewMetadata
    spec: dict[str, Any]
    status: EndophyteStatus


class EndophyteList(Record):
    """`vdc get endophytes -o json`."""

    items: tuple[EndophyteView, ...]


class EndophyteDescription(Record):
    """Everything that `vdc describe endophyte` shows."""

    view: EndophyteView
    pair: Pair | None
    copies: tuple[Observed, ...]
    events: tuple[Event, ...]
    limits: tuple[str, ...] = ()  # what lockstep does not cover for this one, in sentences


class ApplyResult(Record):
    """What `vdc apply` did with one manifest."""

    action: Literal["created", "configured", "unchanged"]
    dry_run: bool = False
    endophyte: EndophyteView | None = None


class RunRequest(StrictRecord):
    """Start, stop or pause. `force`: power off at once instead of asking the guest first."""

    state: RunState
    force: bool = False


class RestartRequest(StrictRecord):
    """Power-cycle the guest (`force`) or ask it to shut down first."""

    force: bool = False


class ProtectionRequest(StrictRecord):
    """Switch lockstep on or off."""

    enabled: bool


class PromoteRequest(StrictRecord):
    """Make the secondary the primary. `to`: the host that shall become it.

    `force`: the human override, where the cluster cannot decide. `confirm` is then the VM's name, typed once
    more: it asserts that the primary's host, and every host with a lost etcd member, is off and stays off.
    """

    to: str | None = Field(default=None, max_length=63)
    force: bool = False
    confirm: str = Field(default="", max_length=63)


class PromoteResult(Record):
    """What a promotion did; times in milliseconds as the new primary's agent measured them."""

    name: str
    epoch: int
    primary: str
    previous: str
    total_ms: float
    sentence: str
    lineage: int = 0


class DrainRequest(StrictRecord):
    """Empty a host. `leave_stopped`: disks of stopped VMs may stay; `dry_run`: only the plan."""

    reason: str = Field(default="", max_length=500)
    leave_stopped: bool = False
    dry_run: bool = False


class MoveRequest(StrictRecord):
    """Let a VM run on the host `to`; none takes an earlier wish back."""

    to: str | None = Field(max_length=63)


class PeerRequest(Record):
    """From agent to agent about one VM; refused (FencedError) where the receiver knows a newer epoch."""

    epoch: int = Field(ge=0, lt=2**63)
    from_host: str = Field(max_length=63)


class CredentialsRequest(PeerRequest):
    """A secondary asks for its certificate of this epoch: a certificate request (PKCS #10, PEM)."""

    request: str = Field(max_length=4096)


class OutputRequest(PeerRequest):
    """A secondary's host asks for the log of the container's program: its end, or all from the byte `offset` on."""

    offset: int | None = Field(default=None, ge=0, lt=2**63)


class Credentials(Record):
    """What both copies of a pair believe in under one epoch, and the asker's certificate (PEM)."""

    authority: str
    certificate: str


class MemoryComparison(Record):
    """One block of guest memory on both hosts, compared page by page."""

    block: str
    size_bytes: int
    pages: int
    differing_pages: int


class DiskComparison(Record):
    """One disk on both hosts, compared block by block; `differences` are the first offsets, in bytes."""

    disk: int
    size_bytes: int
    differences: tuple[int, ...] = ()


class VerifyRequest(StrictRecord):
    """Compare both copies. `dry_run`: only estimate for how long the guest would stand still."""

    dry_run: bool = False


class VerifyResult(Record):
    """What a comparison of both copies found. The guest stood still for `frozen_ms`."""

    name: str
    epoch: int
    primary: str
    secondary: str
    estimated_ms: float
    frozen_ms: float = 0.0
    attempts: int = 0  # until the secondary could be frozen at the right moment
    memory: tuple[MemoryComparison, ...] = ()
    disks: tuple[DiskComparison, ...] = ()
    is_same: bool | None = None  # None: not compared
    sentence: str


class Frozen(Record):
    """Whether the secondary stands still at a checkpoint, and where its memory blocks are."""

    is_frozen: bool
    blocks: dict[str, int] = Field(default_factory=dict)  # name -> bytes


class MemoryDigests(Record):
    """Digests of the secondary's memory: of each MiB by block, or of each page of the MiB asked for."""

    chunks: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    pages: dict[str, dict[int, tuple[str, ...]]] = Field(default_factory=dict)


class DigestRequest(PeerRequest):
    """Ask for digests; of the pages of these MiB by block, or of every MiB where none are named."""

    chunks: dict[str, tuple[int, ...]] = Field(default_factory=dict)


class DrillFault(StrEnum):
    """What happens to the primary's QEMU in a drill."""

    KILL = "kill"
    HANG = "hang"


class DrillRequest(StrictRecord):
    """Let the primary fail on purpose; `timeout_s` is for becoming protected again."""

    fault: DrillFault = DrillFault.KILL
    timeout_s: float = Field(default=300.0, ge=1.0, le=3600.0)


class FailRequest(PeerRequest):
    """From the measuring host to the primary's."""

    fault: DrillFault


class DrillResult(Record):
    """What a drill was like. None: not known (the guest answers no echo), or not protected again in time."""

    name: str
    epoch: int
    previous: str
    primary: str
    gap_ms: float | None  # the longest time in which the guest answered no echo
    probes: int
    lost_probes: int
    arbitrated_ms: float | None = None
    promoted_ms: float | None = None
    protected_after_s: float | None = None
    sentence: str


class Acknowledged(Record):
    """Done, nothing more to say."""

    sentence: str = "done"


class Health(Acknowledged):
    """An agent is alive; `lineage` is the one that it acts under (vdc.model.lineage)."""

    lineage: int = 0


class NodeList(Record):
    """`vdc get nodes -o json`. `notes` are sentences about the cluster as a whole that should worry somebody."""

    items: tuple[NodeStatus, ...]
    notes: tuple[str, ...] = ()


class NetworkList(Record):
    """`vdc get networks -o json`."""

    items: tuple[Network, ...]


class EventList(Record):
    """`vdc get events -o json`, oldest first."""

    items: tuple[Event, ...]


class AuditPage(Record):
    """Part of the audit log. `items` are as they are stored: a newer agent's fields are under the hash as well."""

    items: tuple[dict[str, Any], ...]
    next: int  # the entry to go on with; it may not be there yet


class AuditVerdict(Record):
    """`vdc audit verify -o json`: whether the log is what was written, and what the hosts remember of it."""

    is_intact: bool
    first: int  # 0: the log is empty
    last: int
    hash: str = ""  # of the last entry
    damage: tuple[Damage, ...] = ()
    notes: tuple[str, ...] = ()
    remembered: tuple[RememberedHead, ...] = ()


class ImageView(ImageEntry):
    """`vdc image describe -o json`: an image, with the VMs that are made of it."""

    size_bytes: int  # of all its files
    used_by: tuple[str, ...] = ()


class ImageList(Record):
    """`vdc image ls -o json`."""

    items: tuple[ImageView, ...]


class ImageRegistration(StrictRecord):
    """Names an image whose blobs have been uploaded to the receiving host. `source`: where it came from, for people."""

    name: str = Field(min_length=1, max_length=512)
    image: Image
    source: str = Field(default="", max_length=512)


class BlobReceipt(Record):
    """How much of a blob is here. It is whole and has been verified where that is its size."""

    digest: str
    size_bytes: int


class PruneRequest(StrictRecord):
    """Let go of what no VM is made of: images without a name, with `named` the others too, and unfinished uploads."""

    named: bool = False
    dry_run: bool = False


class SweepRequest(Record):
    """From agent to agent: remove what no image needs."""

    dry_run: bool = False


class HostSweep(Record):
    """What one host removed that no image needed: blobs by digest, and unfinished transfers."""

    host: str
    blobs: tuple[str, ...] = ()
    unfinished: int = 0
    size_bytes: int = 0
    problem: str = ""  # why it could not


class PruneReport(Record):
    """`vdc image prune -o json`. `size_bytes`: what the images' files take that nothing else needs, on each host."""

    dry_run: bool = False
    images: tuple[ImageView, ...] = ()
    size_bytes: int = 0
    hosts: tuple[HostSweep, ...] = ()


class LogText(Record):
    """The tail of what a container's program wrote, or of a guest's serial console."""

    name: str
    host: str
    text: str
    form: Literal["text", "cri"] = "text"  # cri: lines as CRI's logs have them (docs/guest-channel.md)
    end_offset: int = (
        0  # in bytes, of the end of `text` in that host's log; a follower asks for what comes after
    )


class Check(Record):
    """One finding of the doctor."""

    name: str
    level: Literal["ok", "warning", "error"]
    sentence: str
    hint: str = ""


class DoctorReport(Record):
    """What one host says of itself."""

    host: str
    checks: tuple[Check, ...]


class ClusterStatus(Record):
    """Health of the whole."""

    version: str
    host: str
    leader: str | None
    store: str  # "ok" or a sentence
    members: tuple[dict[str, Any], ...] = ()
    majority: bool = True  # whether more than half of the etcd members answer
    may_lose: int = 0  # how many more members may be lost before nothing can be decided
    witnesses: tuple[str, ...] = ()
    lineage: Lineage = Lineage()
    forcing: str = ""  # what a forced promotion on this host is doing
    notes: tuple[str, ...] = ()  # sentences about what should worry somebody


class Empty(Record):
    """No body."""
