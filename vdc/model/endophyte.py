"""The desired state that is stored for an Endophyte, what each host observes of it, and the status shown."""

from __future__ import annotations

from enum import StrEnum

from vdc.model.base import Record
from vdc.model.guest import AgentStatus, ProgramStatus
from vdc.model.ids import DnsLabel
from vdc.model.maintenance import Move
from vdc.model.manifest import EndophyteManifest, Firmware


class RunState(StrEnum):
    """What the user wants the guest to do."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


class Phase(StrEnum):
    """One word for people: where the Endophyte stands."""

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    PAUSED = "Paused"
    ISOLATED = "Isolated"
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    FAILED = "Failed"
    DELETING = "Deleting"
    UNKNOWN = "Unknown"  # its host does not answer; a timeout is never evidence of death


class Protection(StrEnum):
    """What the pair gives at this moment."""

    NONE = "none"
    SYNCING = "syncing"
    LOCKSTEP = "lockstep"
    DEGRADED = "degraded"  # protection was asked for and is not there


class Nic(Record):
    """One NIC as it was allotted."""

    network: DnsLabel
    mac: str
    address: str


class Endophyte(Record):
    """Desired state: the manifest, what the user wants done with it, and what was allotted to it for good."""

    manifest: EndophyteManifest
    uid: str
    generation: int = 1
    run: RunState = RunState.RUNNING
    protect: bool = True  # `vdc unprotect` clears it; the manifest stays as the user wrote it
    restarts: int = 0  # `vdc restart` raises it: a primary started under a smaller number is power-cycled
    force_off: bool = False  # end the guest at once instead of asking it to shut down
    deleting: bool = False
    move: Move | None = None  # where it shall run instead, by `vdc migrate` or a drain
    move_problem: str = ""  # why the last move was given up
    image_digest: str
    # Of the manifest's disks, in their order; an empty one names no image.
    disk_image_digests: tuple[str, ...] = ()
    image_firmware: Firmware | None = None  # what its image says that boots it
    memory_digest: str = (
        ""  # the image of the memory that its first start goes on with; a restored snapshot's
    )
    nics: tuple[Nic, ...]
    created_at: str
    successor: Endophyte | None = None  # takes its name and addresses when it is gone: a restored snapshot

    @property
    def name(self) -> str:
        """The Endophyte's name."""
        return self.manifest.metadata.name

    @property
    def image_digests(self) -> frozenset[str]:
        """Every image that it is made of."""
        later = self.successor.image_digests if self.successor else ()
        return frozenset(
            (self.image_digest, *filter(None, (*self.disk_image_digests, self.memory_digest)), *later)
        )

    @property
    def firmware(self) -> Firmware:
        """What boots it: as the manifest says, else as its image does, else BIOS."""
        return self.manifest.spec.firmware or self.image_firmware or Firmware.BIOS

    @property
    def wants_protection(self) -> bool:
        """Whether a secondary is wanted now."""
        return (
            self.protect
            and self.manifest.spec.wants_protection
            and self.run is RunState.RUNNING
            and not self.deleting
        )

    @property
    def wants_secondary(self) -> bool:
        """Whether a second copy is wanted now: for protection, or only for the time of a move."""
        is_moving = self.move is not None and self.run is RunState.RUNNING and not self.deleting
        return self.wants_protection or is_moving


class CopyRole(StrEnum):
    """What a host's copy is, by the epoch that it acts under."""

    PRIMARY = "primary"
    SECONDARY = "secondary"


class CopyStage(StrEnum):
    """How far a host's copy has come; a copy that is `DEAD` left nothing running on that host."""

    ABSENT = "absent"
    PREPARING = "preparing"  # image, disks, ports and QEMU are being made
    RUNNING = "running"  # primary, alone
    READY = "ready"  # secondary, waits for the migration
    ENTERING = "entering"  # disk and memory are being copied
    CHECKPOINTING = "checkpointing"  # in lockstep, fewer than three checkpoints yet
    LOCKSTEP = "lockstep"
    PROMOTING = "promoting"
    LEAVING = "leaving"  # primary, taking the lockstep parts out
    PAUSED = "paused"
    ISOLATED = "isolated"  # paused by the agent: neither etcd nor the other copy answers
    DEAD = "dead"
    FAILED = "failed"


class CheckpointFigures(Record):
    """Of the checkpoints since lockstep was entered; pauses as the guest felt them."""

    count: int = 0
    pause_ms_p50: float = 0.0
    pause_ms_p99: float = 0.0
    last: str | None = None


class MachineFacts(Record):
    """What was chosen when the guest was powered on and must be the same on every host that runs it."""

    accelerator: str
    cpu_model: str
    qemu_version: str
    disk_sizes_bytes: tuple[int, ...]
    has_rewriter: bool = False  # promoted before: later filters go behind its rewriter
    disk_bases: tuple[str, ...] = ()  # per disk: the base in the image store below it; empty: it stands alone
    nameservers: tuple[str, ...] = ()  # that the guest is told of
    has_agent_port: bool = (
        False  # a guest that an earlier version powered on has no port for QEMU's guest agent
    )


class CopyProgress(Record):
    """What is being copied to the secondary."""

    what: str  # disk, memory
    done_bytes: int
    total_bytes: int  # may grow while the guest writes


class Observed(Record):
    """What a host says of its own copy. Written by that host's agent alone."""

    name: DnsLabel
    host: DnsLabel
    uid: str
    epoch: int
    role: CopyRole | None
    stage: CopyStage
    pid: int | None = None
    qemu: str = ""  # QEMU's own word: running, paused, colo, inmigrate, ...
    checkpoints: CheckpointFigures = CheckpointFigures()
    progress: float | None = None  # 0 to 1 while disk and memory are copied
    sentence: str = ""
    error: str = ""
    restarts: int = 0  # the Endophyte's `restarts` that this copy was started under
    listening_epoch: int = 0  # primary: its replication channels are open for this epoch
    machine: MachineFacts | None = None  # primary: what a secondary's QEMU has to be like
    incarnation: int = 0  # of the agent that wrote this
    unreachable: tuple[str, ...] = ()  # primary: hosts that it cannot rely on over the replication network
    settling: tuple[str, ...] = ()  # primary: those of them that are heard again, and not for long enough yet
    copying: CopyProgress | None = None
    older: tuple[str, ...] = ()  # primary: the older copies since which it has recorded all its writes
    resumes: str = ""  # secondary: the older copy (one of the primary's `older`) that its disks are
    program: ProgramStatus | None = None  # primary of a container: as its guest says
    agent: AgentStatus | None = None  # primary of a disk image


class CopyStatus(Record):
    """One copy in the status."""

    host: str
    pid: int | None = None
    qemu: str = ""
    stage: str = ""
    progress: float | None = None
    copying: CopyProgress | None = None


class EndophyteStatus(Record):
    """The status block of `vdc get endophyte -o json`; scripts rely on it."""

    phase: Phase
    protection: Protection
    epoch: int
    primary: CopyStatus | None
    secondary: CopyStatus | None
    spares: tuple[str, ...]
    addresses: tuple[str, ...]
    mac: str
    nics: tuple[Nic, ...] = ()
    checkpoints: CheckpointFigures
    sentence: str
    moving_to: str | None = None
    move_problem: str = ""  # why the last move was given up
    program: ProgramStatus | None = None  # of a container that runs, as soon as its guest answers
    agent: AgentStatus | None = None  # of a disk image that runs
    firmware: Firmware | None = None  # what boots it, also where the manifest leaves it to the image
    unprotectedSince: str | None = None  # noqa: N815 - the wire form; null in lockstep or where none is wanted
