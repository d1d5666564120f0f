"""The program of a container image: what the image says of it, and what a manifest changes about that.

Kubernetes' names and meanings (`Container` and `Probe` of its API reference), the image's those of OCI's image
configuration (image-spec, config.md).
"""

from __future__ import annotations

import base64
import binascii
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from vdc.model.base import ManifestRecord, Record
from vdc.model.units import MIB

MAX_FILES = 256
MAX_FILE_BYTES = MIB // 2  # of all files together: the manifest is one record of the store
_MAX_TEXT = 128 * 1024  # the kernel's own limit of one argument (MAX_ARG_STRLEN)


def _check_guest_path(text: str) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or "\0" in text or str(path) != text or text == "/":
        raise ValueError(f"{text[:80]!r} is not an absolute path below / in its shortest form")
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


class EnvVar(ManifestRecord):
    """One variable of the environment. `secret`: its value is shown to nobody."""

    name: str = Field(pattern=r"^[^=\x00]{1,256}$")
    value: Word = ""
    secret: bool = False


class InjectedFile(ManifestRecord):
    """A file that is laid over the image's: `content` as text, or `content_base64`."""

    path: GuestPath
    content: str | None = None
    content_base64: str | None = None
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

    `command` replaces Entrypoint and, as in Kubernetes, the image's Cmd with it; `args` replaces Cmd.
    """

    command: tuple[Word, ...] | None = Field(default=None, max_length=1024)
    args: tuple[Word, ...] | None = Field(default=None, max_length=4096)
    env: tuple[EnvVar, ...] = Field(default=(), max_length=1024)
    working_dir: Annotated[str, AfterValidator(_check_no_nul)] | None = Field(
        default=None, max_length=4096, pattern="^/"
    )
    user: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,64}(:[A-Za-z0-9_.-]{1,64})?$")
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    stop_signal: str | None = Field(default=None, pattern=r"^(SIG)?[A-Z0-9+-]{1,16}$|^[0-9]{1,2}$")
    stop_seconds: int = Field(default=30, ge=0, le=3_600)  # from the signal until it is killed
    files: tuple[InjectedFile, ...] = Field(default=(), max_length=MAX_FILES)
    startup_probe: Probe | None = None
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None

    @model_validator(mode="after")
    def _bounded_and_unique(self) -> Process:
        if sum(len(file.data) for file in self.files) > MAX_FILE_BYTES:
            raise ValueError(f"the files are more than {MAX_FILE_BYTES // 1024} KiB together")
        for what, values in (
            ("file", [file.path for file in self.files]),
            ("variable", [variable.name for variable in self.env]),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"the same {what} is given twice")
        return self


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
