"""What the agent tells the init of a container's guest, once at each power-on, and what that says of its program.

The guest reads `GuestConfig` as JSON from fw_cfg (`FW_CFG_NAME`), so both copies of a pair are given the same, but for
`seed`: a guest that starts anew, on whichever of them, has another one. Only a guest that starts reads it;
answers come over the guest channel (docs/guest-channel.md). The guest's init reads these field names as they are here.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from pydantic import Field

from vdc.model.base import Record
from vdc.model.process import EmptyDir, Probe, RestartPolicy, SecurityContext

FW_CFG_NAME = "opt/mycelium.network/config"
CHANNEL_PORT = "mycelium.network.guest.0"  # of virtio-serial: requests and answers
OUTPUT_PORT = "mycelium.network.output.0"  # of virtio-serial: the program's output, in the form of CRI's logs


class GuestNic(Record):
    """One NIC, recognised by its MAC."""

    mac: str
    address: str
    prefix: int
    mtu: int
    gateway: str = ""


class GuestVolume(Record):
    """A disk (0 is the root) with an ext4 file system, and where it is mounted."""

    disk: int = Field(ge=1)
    path: str
    read_only: bool = False


class GuestFile(Record):
    """A file that is laid over the image's."""

    path: str
    content_base64: str = Field(repr=False)
    mode: int


class GuestProcess(Record):
    """The program, with everything decided that can be decided outside the guest.

    `user` is resolved in the guest, by the image's own /etc/passwd and /etc/group. No `$(NAME)` is left in `argv` and
    `env`.
    """

    argv: tuple[str, ...] = Field(repr=False)
    env: tuple[str, ...] = Field(repr=False)
    working_dir: str
    user: str
    stop_signal: str
    stop_seconds: int
    restart_policy: RestartPolicy
    security_context: SecurityContext = SecurityContext()
    startup_probe: Probe | None = None
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None


class GuestConfig(Record):
    """All of it.

    `seed`: random bytes as base64 for the kernel's generator. Without them it collects for a second, and programs wait.
    """

    version: int = 1
    hostname: str
    domain: str = ""
    nameservers: tuple[str, ...] = ()
    nics: tuple[GuestNic, ...] = ()
    volumes: tuple[GuestVolume, ...] = ()
    empty_dirs: tuple[EmptyDir, ...] = ()
    files: tuple[GuestFile, ...] = ()
    process: GuestProcess
    seed: str = Field(default="", repr=False)


class ProgramState(StrEnum):
    """What the program does. Records hold it as text: a later agent may know more of them."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"  # to be started again
    ENDED = "ended"  # for good, by its restart policy
    UNKNOWN = "unknown"  # the agent's own word: the guest does not answer


class ProgramStatus(Record):
    """How the program in a guest is; the answer to `status`, and part of what the primary's host observes."""

    state: str  # a ProgramState
    ready: bool = False
    pid: int = 0
    restarts: int = 0
    exit_code: int | None = None  # of the last run that ended; 128+N: killed by signal N
    reason: str = ""  # one sentence where it does not run, or is not ready
    started_at: str = ""  # by the guest's clock, RFC 3339


class GuestInterface(Record):
    """One interface of a guest, as the guest sees it. `mac` is empty where it has none."""

    name: str = Field(max_length=64)
    mac: str = Field(default="", pattern=r"^([0-9a-f]{2}(:[0-9a-f]{2}){5})?$")
    addresses: tuple[IPv4Address | IPv6Address, ...] = Field(default=(), max_length=64)


class AgentStatus(Record):
    """What QEMU's guest agent in a disk image says; part of what the primary's host observes."""

    is_answering: bool = False
    interfaces: tuple[GuestInterface, ...] = ()
