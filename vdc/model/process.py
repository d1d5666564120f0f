"""The program of a container image: what the image says of it, and what a manifest changes about that.

Kubernetes' names and meanings (`Container`, `Probe` and `SecurityContext` of its API reference), the image's those
of OCI's image configuration (image-spec, config.md). Values of secrets are kept out of `repr`, which logs show.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from vdc.model.base import ManifestRecord, Record
from vdc.model.ids import DnsLabel
from vdc.model.units import MIB, SizeBytes

MAX_FILES = 256
MAX_FILE_BYTES = MIB // 2  # of all files together: the manifest is one record of the store
MAX_WORD_BYTES = MIB // 4  # of command, arguments and environment together, for the same reason
_MAX_TEXT = 128 * 1024  # the kernel's own limit of one argument (MAX_ARG_STRLEN)
_MAX_NAME_BYTES = 255  # and of one name in a folder
_MAX_ID = 2**31 - 1  # of users and groups, as Kubernetes has it

_OWN_FOLDERS = ("/dev", "/proc", "/sys")  # of the guest's kernel
_SIGNAL = re.compile(
    r"[1-9]|[1-5][0-9]|6[0-4]|(SIG)?(RTMIN(\+[0-9]{1,2})?|RTMAX(-[0-9]{1,2})?|ABRT|ALRM|BUS|CHLD|CONT|FPE|HUP|ILL|INT|IO"
    r"|KILL|PIPE|POLL|PROF|PWR|QUIT|SEGV|STKFLT|STOP|SYS|TERM|TRAP|TSTP|TTIN|TTOU|URG|USR1|USR2|VTALRM|WINCH|XCPU|XFSZ)"
)
_DOLLAR = re.compile(r"\$(?=[$(])")  # that `expand` would not leave as it is
_VARIABLE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def _check_guest_path(text: str) -> str:
    path = PurePosixPath(text)
    is_shortest = str(path) == text and not text.startswith("//")
    if not path.is_absolute() or ".." in path.parts or "\0" in text or not is_shortest or text == "/":
        raise ValueError(f"{text[:80]!r} is not an absolute path below / in its shortest form")
    if any(len(part.encode()) > _MAX_NAME_BYTES for part in path.parts):
        raise ValueError(f"{text[:80]!r} has a name of more than {_MAX_NAME_BYTES} bytes")
    own = f"/{path.parts[1]}"
    if own in _OWN_FOLDERS and path.parts[:3] != ("/", "dev", "shm"):
        raise ValueError(f"{text[:80]!r} is below {own}, which is the guest's kernel's own")
    return text


def _check_signal(text: str) -> str:
    if not _SIGNAL.fullmatch(text):
        raise ValueError(f"{text[:20]!r} is not a signal: write for example SIGTERM, SIGRTMIN+3 or 15")
    return text


def _check_no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("a program's words cannot hold the character NUL")
    return text


GuestPath = Annotated[str, Field(max_length=4096), AfterValidator(_check_guest_path)]
Word = Annotated[str, Field(max_length=_MAX_TEXT), AfterValidator(_check_no_nul)]


class RestartPolicy(StrEnum):
    """When the program is started again after it ended."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class EnvField(StrEnum):
    """What only the cluster knows of an Endophyte, and its program can be told."""

    POD_IP = "status.podIP"  # the address of its first NIC
    UID = "metadata.uid"


class FieldRef(ManifestRecord):
    """Names such a field."""

    field_path: EnvField


class EnvSource(ManifestRecord):
    """Where a value comes from that is not written down."""

    field_ref: FieldRef


class EnvVar(ManifestRecord):
    """One variable of the environment. `secret`: its value is shown to nobody.

    `$(NAME)` in the value stands for a variable before it in the list, `$$` for a dollar sign.
    """

    name: str = Field(pattern=r"^[^=\x00]{1,256}$")
    value: Word = Field(default="", repr=False)
    value_from: EnvSource | None = None
    secret: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> EnvVar:
        if self.value_from is not None and (self.value or self.secret):
            raise ValueError(f"valueFrom of {self.name} goes with neither value nor secret")
        return self


class InjectedFile(ManifestRecord):
    """A file that is laid over the image's: `content` as text, or `content_base64`."""

    path: GuestPath
    content: str | None = Field(default=None, repr=False)
    content_base64: str | None = Field(default=None, repr=False)
    mode: int = Field(default=0o644, ge=0, le=0o7777)
    secret: bool = False

    @model_validator(mode="after")
    def _one_content(self) -> InjectedFile:
        if (self.content is None) == (self.content_base64 is None):
            raise ValueError(f"{self.path}: give either content or contentBase64")
        try:
            _ = self.data
        except binascii.Error as error:
            raise ValueError(f"{self.path}: contentBase64 is not base64") from error
        except UnicodeEncodeError as error:
            raise ValueError(f"{self.path}: content has half of a surrogate pair") from error
        return self

    @property
    def data(self) -> bytes:
        """Its bytes."""
        if self.content is not None:
            return self.content.encode()
        return base64.b64decode(self.content_base64 or "", validate=True)

    @property
    def base64(self) -> str:
        """Its bytes as base64."""
        return base64.b64encode(self.data).decode()


class EmptyDir(ManifestRecord):
    """A folder that is empty at each power-on and hides the image's at `path`: on the root disk, or in memory.

    Disks, empty folders and files are put into place by the length of their paths, files last. `read_only`: only
    files of the manifest are in it.
    """

    path: GuestPath
    medium: Literal["", "Memory"] = ""
    size_limit: SizeBytes | None = Field(
        default=None, ge=4096
    )  # of Memory; the guest's memory is another bound
    read_only: bool = False

    @model_validator(mode="after")
    def _limit_of_memory(self) -> EmptyDir:
        if self.size_limit is not None and self.medium != "Memory":
            raise ValueError(
                f"{self.path}: sizeLimit goes with medium: Memory; else the root disk's size is the limit"
            )
        return self


class ProgramPort(ManifestRecord):
    """Where the program listens. It informs, as in Kubernetes, and opens nothing."""

    container_port: int = Field(ge=1, le=65535)
    name: str | None = Field(default=None, pattern=r"^[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$")
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"


class Capabilities(ManifestRecord):
    """Of Linux, without CAP_. A program has all of them but those of `drop`; `add` gives back what ALL took."""

    add: tuple[Annotated[str, Field(pattern=r"^[A-Z][A-Z_]{1,31}$")], ...] = Field(default=(), max_length=64)
    drop: tuple[Annotated[str, Field(pattern=r"^[A-Z][A-Z_]{1,31}$")], ...] = Field(default=(), max_length=64)


GroupId = Annotated[int, Field(ge=0, le=_MAX_ID)]


class SecurityContext(ManifestRecord):
    """What the program may do in its guest.

    `fs_group`: the group of further disks, empty folders and files, of which the program is a member.
    """

    fs_group: GroupId | None = None
    supplemental_groups: tuple[GroupId, ...] = Field(default=(), max_length=64)
    read_only_root_filesystem: bool = False
    allow_privilege_escalation: bool = True
    capabilities: Capabilities = Capabilities()


class ExecProbe(ManifestRecord):
    """Well if the command, run in the guest, ends with 0."""

    command: tuple[Word, ...] = Field(min_length=1, max_length=64)


class HttpHeader(ManifestRecord):
    """One header of a probe's request."""

    name: str = Field(pattern=r"^[A-Za-z0-9-]{1,128}$")
    value: str = Field(pattern=r"^[^\r\n\x00]*$", max_length=4096)


class HttpProbe(ManifestRecord):
    """Well if a GET, sent from inside the guest to its own address, is answered with 200 to 399."""

    port: int = Field(ge=1, le=65535)
    path: str = Field(default="/", pattern=r"^/[^\s\x00]*$", max_length=2048)
    scheme: Literal["HTTP", "HTTPS"] = "HTTP"  # HTTPS: the certificate is not checked, as in Kubernetes
    http_headers: tuple[HttpHeader, ...] = Field(default=(), max_length=32)


class TcpProbe(ManifestRecord):
    """Well if the port, asked from inside the guest at its own address, accepts a connection."""

    port: int = Field(ge=1, le=65535)


class Probe(ManifestRecord):
    """A question asked again and again inside the guest; exactly one of the three kinds."""

    exec: ExecProbe | None = None
    http_get: HttpProbe | None = None
    tcp_socket: TcpProbe | None = None
    initial_delay_seconds: int = Field(default=0, ge=0, le=86_400)
    period_seconds: int = Field(default=10, ge=1, le=86_400)
    timeout_seconds: int = Field(default=1, ge=1, le=3_600)
    success_threshold: int = Field(default=1, ge=1, le=1_000)
    failure_threshold: int = Field(default=3, ge=1, le=1_000)

    @model_validator(mode="after")
    def _one_kind(self) -> Probe:
        if sum(kind is not None for kind in (self.exec, self.http_get, self.tcp_socket)) != 1:
            raise ValueError("a probe is exactly one of exec, httpGet and tcpSocket")
        return self


class Process(ManifestRecord):
    """What a manifest changes about an image's program; None and empty leave the image's own.

    `command` replaces Entrypoint and, as in Kubernetes, the image's Cmd with it; `args` replaces Cmd. In both,
    `$(NAME)` stands for a variable of `env`.
    """

    command: tuple[Word, ...] | None = Field(default=None, max_length=1024)
    args: tuple[Word, ...] | None = Field(default=None, max_length=4096)
    env: tuple[EnvVar, ...] = Field(default=(), max_length=1024)
    working_dir: Annotated[str, AfterValidator(_check_no_nul)] | None = Field(
        default=None, max_length=4096, pattern="^/"
    )
    user: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,64}(:[A-Za-z0-9_.-]{1,64})?$")
    hostname: DnsLabel | None = None  # None: the Endophyte's name
    ports: tuple[ProgramPort, ...] = Field(default=(), max_length=256)
    security_context: SecurityContext = SecurityContext()
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    stop_signal: Annotated[str, AfterValidator(_check_signal)] | None = Field(default=None, max_length=16)
    stop_seconds: int = Field(default=30, ge=0, le=3_600)  # from the signal until it is killed
    empty_dirs: tuple[EmptyDir, ...] = Field(default=(), max_length=64)
    files: tuple[InjectedFile, ...] = Field(default=(), max_length=MAX_FILES)
    startup_probe: Probe | None = None
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Process:
        if sum(len(file.data) for file in self.files) > MAX_FILE_BYTES:
            raise ValueError(f"the files are more than {MAX_FILE_BYTES // 1024} KiB together")
        words = [*(self.command or ()), *(self.args or ())]
        words += [text for variable in self.env for text in (variable.name, variable.value)]
        if sum(len(word.encode(errors="replace")) for word in words) > MAX_WORD_BYTES:
            raise ValueError(
                f"command, args and env are more than {MAX_WORD_BYTES // 1024} KiB together: use files"
            )
        return self

    @model_validator(mode="after")
    def _unique(self) -> Process:
        for what, values in (
            ("file", [file.path for file in self.files]),
            ("empty folder", [folder.path for folder in self.empty_dirs]),
            ("variable", [variable.name for variable in self.env]),
            ("name of a port", [port.name for port in self.ports if port.name]),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"the same {what} is given twice")
        files = {file.path for file in self.files}
        below = (str(above) for path in files for above in PurePosixPath(path).parents)
        if clash := next((path for path in below if path in files), None):
            raise ValueError(f"{clash} cannot be a file and a folder")
        return self

    @model_validator(mode="after")
    def _ends_at_one_success(self) -> Process:
        for name, probe in (("startupProbe", self.startup_probe), ("livenessProbe", self.liveness_probe)):
            if probe is not None and probe.success_threshold != 1:
                raise ValueError(f"{name}.successThreshold can only be 1")
        return self

    def environment(self, fields: Mapping[EnvField, str]) -> dict[str, str]:
        """The variables with their values, in order; `fields` are those of the Endophyte."""
        values: dict[str, str] = {}
        for one in self.env:
            source = one.value_from
            values[one.name] = fields[source.field_ref.field_path] if source else expand(one.value, values)
        return values


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Kubernetes' `$(NAME)` replaced where the variable is known and left where it is not; `$$` is a dollar sign."""

    def value(found: re.Match[str]) -> str:
        name = found[1]
        return "$" if name is None else variables.get(name, found[0])

    return _VARIABLE.sub(value, text)


def literal(text: str) -> str:
    """The text that `expand` turns into this one, whatever variables there are."""
    return _DOLLAR.sub("$$", text)


class ImageProcess(Record):
    """What a container image says of its program, as OCI's configuration has it."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()  # NAME=VALUE
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    exposed_ports: tuple[str, ...] = ()  # 6379/tcp
    volumes: tuple[str, ...] = ()
