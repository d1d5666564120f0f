"""Parsing /proc, and that an identity means one process for good."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.drivers.process import identity
from hostagent.drivers.process.identity import StatFields, boot_id, identity_of, open_pidfd, parse_stat

REST = "S 7 41 41 0 -1 4194560 180 0 1 0 3 1 0 0 20 0 1 0 157394 5951488 398 18446744073709551615\n"


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_command_name_is_skipped(command: str) -> None:
    assert parse_stat(f"41 ({command}) {REST}") == StatFields(state="S", parent_pid=7, start_ticks=157394)


@pytest.mark.parametrize("text", ["", "41 (x", "41 (x) S 7", "no stat at all"])
def test_what_is_no_stat_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="/proc/PID/stat"):
        parse_stat(text)


def test_a_zombie_is_recognised() -> None:
    assert parse_stat(f"41 (x) {REST}".replace("S 7", "Z 7")).is_zombie


def test_identifies_this_process() -> None:
    identity = identity_of(os.getpid())
    assert identity and identity.pid == os.getpid() and identity.boot_id == boot_id()
    assert identity.start_ticks > 0
    pidfd = open_pidfd(identity)
    assert pidfd is not None
    os.close(pidfd)


def test_a_later_process_with_the_same_pid_is_not_opened() -> None:
    identity = identity_of(os.getpid())
    assert identity
    earlier = identity.with_(start_ticks=identity.start_ticks - 1)
    other_boot = identity.with_(boot_id="00000000-0000-0000-0000-000000000000")
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert open_pidfd(earlier) is None
    assert open_pidfd(other_boot) is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_no_process_has_no_identity() -> None:
    assert identity_of(2**22 + 1) is None


def fake_process(proc: Path, pid: int, *, environ: bytes = b"", cmdline: bytes = b"", exe: str = "") -> Path:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "environ").write_bytes(environ)
    (folder / "cmdline").write_bytes(cmdline)
    if exe:
        (folder / "exe").symlink_to(exe)
    return folder


def test_a_process_in_the_middle_of_its_exec_is_found(tmp_path, monkeypatch):
    """The kernel shows no environment then; a tool that was to be ended lived on, and its caller waited for ever."""
    monkeypatch.setattr(identity, "PROC", tmp_path)
    monkeypatch.setattr(identity, "_EXEC_S", 30.0)
    starting = fake_process(tmp_path, 4, exe="/bin/sleep")
    fake_process(tmp_path, 1, environ=b"A=1\0T=x\0", cmdline=b"init\0", exe="/bin/init")
    fake_process(tmp_path, 2)  # a kernel thread
    fake_process(tmp_path, 3, cmdline=b"env\0-i\0", exe="/bin/env")
    done = threading.Timer(0.05, lambda: (starting / "environ").write_bytes(b"T=x\0"))
    done.start()
    assert identity.pids_with_environment("T=x") == (1, 4)
    done.join()


def test_a_process_that_never_shows_one_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "PROC", tmp_path)
    monkeypatch.setattr(identity, "_EXEC_S", 0.01)
    fake_process(tmp_path, 4, exe="/bin/sleep")
    assert identity.pids_with_environment("T=x") == ()
