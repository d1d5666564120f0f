"""Files replaced as a whole, pidfiles, logs and what a sandbox says of its child."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostagent.drivers.process.files import remove_durably, write_atomically
from hostagent.drivers.process.pidfile import (
    complete_record,
    new_record,
    read_pidfile,
    remove_pidfile,
    write_pidfile,
)
from hostagent.drivers.process.spawn import parse_child_pid, rotate_if_large


def test_writes_text_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "ä\n", 0o600)
    write_atomically(path, "b\n", 0o644)
    assert path.read_text() == "b\n" and path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_removing_twice_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "")
    remove_durably(path)
    remove_durably(path)
    assert not path.exists()


def test_a_pidfile_is_read_back(tmp_path: Path) -> None:
    record = new_record("sleep", "tag", is_sandboxed=True)
    write_pidfile(tmp_path / "p", record)
    assert read_pidfile(tmp_path / "p") == record
    assert record.token != new_record("sleep", "tag", is_sandboxed=True).token


@pytest.mark.parametrize("text", ["", "123", "{}", '{"token": 1', "null", "\x00\xff"])
def test_what_is_no_pidfile_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "p").write_text(text)
    assert read_pidfile(tmp_path / "p") is None
    assert read_pidfile(tmp_path / "absent") is None


def test_only_the_own_pidfile_is_removed(tmp_path: Path) -> None:
    record = new_record("sleep", "", is_sandboxed=False)
    write_pidfile(tmp_path / "p", record)
    remove_pidfile(tmp_path / "p", "another start")
    assert (tmp_path / "p").exists()
    remove_pidfile(tmp_path / "p", record.token)
    assert not (tmp_path / "p").exists()


def test_a_start_of_an_earlier_boot_names_no_process() -> None:
    record = new_record("sleep", "", is_sandboxed=False).with_(boot_id="another")
    assert complete_record(record) is None


def test_an_interrupted_start_without_a_process_names_none() -> None:
    assert complete_record(new_record("sleep", "", is_sandboxed=True)) is None


@pytest.mark.parametrize(
    ("text", "pid"),
    [
        (b"", None),
        (b'{ "child-pid": 12', None),
        (b'{ "child-pid": 12 }', None),
        (b'{ "child-pid": 12 }\n', 12),
        (b'{ "child-pid": 12, "net-namespace": 4026531840 }\n{ "exit-code": 0 }\n', 12),
        (b'{ "exit-code": 1 }\n', None),
        (b"[]\nnonsense\n", None),
    ],
)
def test_the_sandbox_names_its_child(text: bytes, pid: int | None) -> None:
    assert parse_child_pid(text) == pid


def test_a_large_log_is_put_aside_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("12345")
    rotate_if_large(log, limit_bytes=5)
    assert log.exists()
    rotate_if_large(log, limit_bytes=4)
    rotate_if_large(log, limit_bytes=4)
    assert [one.name for one in tmp_path.iterdir()] == ["log.1"]
