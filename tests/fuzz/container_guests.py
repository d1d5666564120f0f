"""Targets of what a container's guest says: frames, answers, archives, log lines; and of what is asked of it."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from hostagent.drivers.guest.channel import _answer_in
from hostagent.drivers.guest.errors import GuestGoneError
from hostagent.drivers.guest.frames import HEADER, Frame, FrameError, FrameType, credit_of, parse_header
from hostagent.supervisor.program import parse_status
from vdc.api.execution import ExecMessage, ExecOptions
from vdc.cli.archive import ArchiveError, unpack
from vdc.cli.output import last_line
from vdc.model.errors import UnavailableError

_MOST_BYTES = 1 << 20


def frames(data: bytes) -> None:
    """A header, and what an answer is made of."""
    with suppress(FrameError):
        if len(data) >= HEADER.size:
            parse_header(data[: HEADER.size])
    with suppress(FrameError):
        credit_of(Frame(FrameType.CREDIT, 1, data))
    with suppress(FrameError, GuestGoneError):
        parse_status(_answer_in(data))


def archive(data: bytes) -> None:
    """Nothing appears outside of the target, whatever the archive says."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text) / "target"
        folder.mkdir()
        with suppress(ArchiveError, UnavailableError, OSError):
            unpack(io.BytesIO(data), folder, "d", expected="d", most_bytes=_MOST_BYTES)
        assert [path.name for path in Path(text).iterdir()] == ["target"]
        assert {path.name for path in folder.iterdir()} <= {"d"}


def log_lines(data: bytes) -> None:
    """A log's tail."""
    last_line(data.decode(errors="replace"))


def exec_messages(data: bytes) -> None:
    """What a client sends over a websocket."""
    for record in (ExecOptions, ExecMessage):
        with suppress(ValidationError):
            record.from_json(data)


def _archive() -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, link in (
            ("d", tarfile.DIRTYPE, ""), ("d/" + "ä" * 120, tarfile.REGTYPE, ""), ("d/l", tarfile.SYMTYPE, "../d"),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            tar.addfile(member)
    return raw.getvalue()


_STATUS = {
    "error": "",
    "status": {"state": "running", "ready": True, "pid": 1, "restarts": 0, "exit_code": 0},
}
TARGETS = (
    ("guest-frames", frames, (Frame(FrameType.DATA, 1, b"x").encoded(), json.dumps(_STATUS).encode(), b"\0\0\1\0")),
    ("guest-archive", archive, (_archive(),)),
    ("guest-log", log_lines, (b"2026-11-23T14:00:00.1Z stdout F text\n2026-11-23T14:00:00.2Z stderr P te",)),
    ("exec-messages", exec_messages, (b'{"tty":true,"rows":24,"env":["A=b"]}', b'{"credit":7,"signal":"INT"}')),
)  # fmt: skip
