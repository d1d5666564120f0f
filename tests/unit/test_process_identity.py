"""Parsing /proc, and that an identity means one process for good."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
