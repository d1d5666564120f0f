"""A qcow2 file is hashed while qemu-img looks through its tables; neither outlives the failure of the other."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from test_images_inspect import FILE_BYTES, extension, qcow2

from vdc.images import qemuimg
from vdc.images.formats.problems import unsafe
from vdc.images.sources import ImportOptions, plan_import
from vdc.model.errors import InvalidError, RefusedError

Check = Callable[..., None]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(qcow2(extensions=extension(0, b"")).ljust(FILE_BYTES, b"\0"))
    return path


def checking(monkeypatch: pytest.MonkeyPatch, check: Check) -> None:
    monkeypatch.setattr(qemuimg, "check", check)


def test_the_check_runs_while_the_file_is_read(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    was_read = threading.Event()
    checking(monkeypatch, lambda path, is_cancelled: was_read.wait(10) or pytest.fail("it was not read"))
    with plan_import(str(disk), ImportOptions(progress=lambda *_: was_read.set())) as plan:
        assert plan.image.disk is not None
        assert plan.image.disk.digest == "sha256:" + hashlib.sha256(disk.read_bytes()).hexdigest()


def test_damaged_tables_end_the_reading(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(path: Path, is_cancelled: Callable[[], bool]) -> None:
        raise unsafe("qcow2", "its tables are damaged")

    checking(monkeypatch, check)
    with pytest.raises(InvalidError) as caught, plan_import(str(disk)):
        pass
    assert caught.value.code == "image-unsafe"


def test_what_ends_the_reading_ends_the_check(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def check(path: Path, is_cancelled: Callable[[], bool]) -> None:
        while not is_cancelled():
            threading.Event().wait(0.01)
        ended.set()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    checking(monkeypatch, check)
    with pytest.raises(KeyboardInterrupt), plan_import(str(disk), ImportOptions(progress=interrupt)):
        pass
    assert ended.is_set()


def test_without_the_program_there_is_a_note(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(path: Path, is_cancelled: Callable[[], bool]) -> None:
        raise RefusedError("the program qemu-img is missing", code="image-tool-missing")

    checking(monkeypatch, check)
    with plan_import(str(disk)) as plan:
        assert any("qemu-img is missing" in note for note in plan.notes)
