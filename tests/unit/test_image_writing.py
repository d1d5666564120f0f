"""Files that are written by one alone, though a sweep removes what nobody holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vdc.images import writing
from vdc.images.writing import open_locked
from vdc.model.errors import ConflictError


def test_a_new_file_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, swept = writing.lock, []

    def late(file: int, path: Path) -> None:
        if len(swept) < 2:
            path.unlink()
            swept.append(path)
        lock(file, path)

    monkeypatch.setattr(writing, "lock", late)
    path = tmp_path / ".incoming-1"
    file = open_locked(path)
    assert os.path.samestat(os.fstat(file), path.lstat())
    os.close(file)
    assert len(swept) == 2


def test_what_another_writes_is_busy_and_goes_on_after_it(tmp_path: Path) -> None:
    path = tmp_path / ".upload-1"
    first = open_locked(path)
    os.write(first, b"half")
    with pytest.raises(ConflictError) as refused:
        open_locked(path)
    assert refused.value.code == "blob-busy"
    os.close(first)
    second = open_locked(path)
    assert os.read(second, 10) == b"half"
    os.close(second)


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    link = tmp_path / ".upload-1"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        open_locked(link)
    assert not (tmp_path / "elsewhere").exists()
