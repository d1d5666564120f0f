"""Pidfiles: what lets the next agent find the processes that this one started.

A pidfile is written twice. Before the start it holds a random token, which the process gets in its
environment; after it, the identity. An agent that is killed in between leaves a file with the token alone,
and the process is found by that token in /proc. So no crash leaves a running process that nobody knows of.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from pathlib import Path

from pydantic import ValidationError

from hostagent.drivers.process.files import remove_durably, write_atomically
from hostagent.drivers.process.identity import (
    ProcessIdentity,
    boot_id,
    children_of,
    identity_of,
    open_pidfd,
    pids_with_environment,
    stat_of,
)
from vdc.model.base import Record

TOKEN_VARIABLE = "VDC_PROCESS_TOKEN"  # noqa: S105 - a name, not a secret
OWNER_VARIABLE = "VDC_PROCESS_OWNER"  # in the environment of whatever an agent starts: its state folder
_LOOK_AGAIN_S = 0.005
_owner: list[str] = [""]  # one per program


def own_processes(folder: Path) -> None:
    """From here on, what this program starts is marked as belonging to the agent of this state folder."""
    _owner[0] = str(folder)


def owner() -> str:
    """The mark; empty outside an agent."""
    return _owner[0]


class PidRecord(Record):
    """The content of a pidfile. `identity` is None until the process exists."""

    token: str
    argv0: str
    tag: str = ""
    boot_id: str
    identity: ProcessIdentity | None = None
    monitor: ProcessIdentity | None = None  # the sandbox's own process, the parent of the program
    is_sandboxed: bool = False


def new_record(argv0: str, tag: str, *, is_sandboxed: bool) -> PidRecord:
    """The record of a process that is about to be started."""
    return PidRecord(
        token=uuid.uuid4().hex, argv0=argv0, tag=tag, boot_id=boot_id(), is_sandboxed=is_sandboxed
    )


def write_pidfile(path: Path, record: PidRecord) -> None:
    """Write durably; raises OSError."""
    write_atomically(path, record.to_json() + "\n")


def read_pidfile(path: Path) -> PidRecord | None:
    """Read a pidfile; None where there is none or where it is not one."""
    try:
        return PidRecord.from_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def remove_pidfile(path: Path, token: str) -> None:
    """Delete the pidfile if it is still that of the start called `token`."""
    record = read_pidfile(path)
    if record is not None and record.token == token:
        remove_durably(path)


def complete_record(record: PidRecord) -> PidRecord | None:
    """Fill in the identity of a start that was interrupted; None where no such process runs."""
    if record.boot_id != boot_id():
        return None
    if record.identity is not None:
        return record
    carriers = pids_with_environment(f"{TOKEN_VARIABLE}={record.token}")
    roots = [pid for pid in carriers if (stat := stat_of(pid)) and stat.parent_pid not in carriers]
    first = identity_of(roots[0]) if roots else None
    if first is None:
        return None
    # A sandbox may clear the environment of its program, so that one is found as the monitor's child.
    children = children_of(first.pid) if record.is_sandboxed else ()
    program = identity_of(children[0]) if children else None
    if program is None:
        # Of a sandbox that was interrupted itself, a child may be left that waits for its parent for ever.
        return None if record.is_sandboxed else record.with_(identity=first)
    return record.with_(identity=program, monitor=first)


def kill_carriers(token: str, deadline_s: float = 0.0) -> None:
    """SIGKILL every process that was started with this token, until `deadline_s` again and again while there is one.

    Blocks; reads all of /proc.
    """
    end = time.monotonic() + deadline_s
    while _kill_once(f"{TOKEN_VARIABLE}={token}") and time.monotonic() < end:
        time.sleep(_LOOK_AGAIN_S)


def _kill_once(entry: str) -> int:
    found = 0
    for pid in pids_with_environment(entry):
        identity = identity_of(pid)
        pidfd = open_pidfd(identity) if identity else None
        if pidfd is None:
            continue
        found += 1
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
    return found
