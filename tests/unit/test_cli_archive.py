"""Archives that a guest makes: honest ones arrive whole, others write nothing outside of the target."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vdc.cli import archive as archive_module
from vdc.cli.archive import BLOCK, ArchiveError, unpack
from vdc.model.errors import UnavailableError, VdcError

GIB = 1 << 30
Make = Callable[[tarfile.TarFile], None]


def made(make: Make, form: int = tarfile.PAX_FORMAT) -> io.BytesIO:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as tar:
        make(tar)
    raw.seek(0)
    return raw


def put(tar: tarfile.TarFile, name: str, content: bytes = b"", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content))


def folder(tar: tarfile.TarFile, name: str, mode: int = 0o755) -> None:
    put(tar, name, type=tarfile.DIRTYPE, mode=mode)


def link(tar: tarfile.TarFile, name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> None:
    put(tar, name, type=kind, linkname=target)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_honest_archive_arrives_whole_under_its_new_name(tmp_path: Path, form: int) -> None:
    deep = "data/" + "d" * 90 + "/" + "f" * 60 + "/file"

    def make(tar: tarfile.TarFile) -> None:
        folder(tar, "data", 0o2750)
        put(tar, "data/a", b"x" * 1000, mode=0o4640, mtime=1_000_000_000, uid=99)
        put(tar, deep, b"deep")
        link(tar, "data/to-a", "a")
        link(tar, "data/hard", "data/a", tarfile.LNKTYPE)

    done = unpack(made(make, form), tmp_path, "copy", expected="data", most_bytes=GIB)
    assert (done.files, done.size_bytes, done.left_out) == (3, 1004, [])
    copy = tmp_path / "copy"
    assert (copy / "a").read_bytes() == b"x" * 1000
    assert (copy / deep.removeprefix("data/")).read_bytes() == b"deep"
    assert (
        str((copy / "to-a").readlink()) == "a" and (copy / "hard").stat().st_ino == (copy / "a").stat().st_ino
    )
    status = (copy / "a").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime, status.st_uid) == (0o640, 1e9, os.getuid())
    assert stat.S_IMODE(copy.stat().st_mode) == 0o750


def test_one_file_and_the_root_of_a_guest(tmp_path: Path) -> None:
    unpack(made(lambda tar: put(tar, "hosts", b"1")), tmp_path, "h", expected="hosts", most_bytes=GIB)
    assert (tmp_path / "h").read_bytes() == b"1"

    def root(tar: tarfile.TarFile) -> None:
        folder(tar, ".")
        put(tar, "./etc/a", b"2")

    unpack(made(root), tmp_path, "all", expected=".", most_bytes=GIB)
    assert (tmp_path / "all/etc/a").read_bytes() == b"2"


def test_what_was_there_is_replaced_and_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    target = tmp_path / "target"
    target.mkdir()
    (target / "a").symlink_to(outside)
    unpack(made(lambda tar: put(tar, "a", b"new")), target, "a", expected="a", most_bytes=GIB)
    assert (target / "a").read_text() == "new" and outside.read_text() == "mine"


HOSTILE: dict[str, Make] = {
    "absolute": lambda tar: put(tar, "/etc/passwd", b"x"),
    "upwards": lambda tar: put(tar, "d/../../x", b"x"),
    "something else": lambda tar: put(tar, "other", b"x"),
    "hard link upwards": lambda tar: link(tar, "d/x", "../../x", tarfile.LNKTYPE),
    "hard link elsewhere": lambda tar: link(tar, "d/x", "/etc/passwd", tarfile.LNKTYPE),
    "deep": lambda tar: put(tar, "d/" + "a/" * 300, b""),
}


@pytest.mark.parametrize("harm", HOSTILE)
def test_a_name_that_leads_elsewhere_ends_it(tmp_path: Path, harm: str) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(ArchiveError):
        unpack(made(HOSTILE[harm]), target, "d", expected="d", most_bytes=GIB)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


LINKS = ["/etc", "../../x", "..", "a/../../../x", "x/y/z/../..", ""]


@pytest.mark.parametrize("target", LINKS)
def test_a_link_that_leads_out_is_left_out(tmp_path: Path, target: str) -> None:
    def make(tar: tarfile.TarFile) -> None:
        folder(tar, "d")
        link(tar, "d/l", target)
        put(tar, "d/a", b"x")

    done = unpack(made(make), tmp_path, "d", expected="d", most_bytes=GIB)
    assert done.left_out == ["d/l"] and not (tmp_path / "d/l").is_symlink() and done.files == 1


def test_nothing_is_written_through_a_link_of_the_archive(tmp_path: Path) -> None:
    def make(tar: tarfile.TarFile) -> None:
        folder(tar, "d/inner")
        link(tar, "d/l", "inner")
        put(tar, "d/l/x", b"x")

    with pytest.raises(OSError, match=r"Not a directory|Too many"):
        unpack(made(make), tmp_path, "d", expected="d", most_bytes=GIB)
    assert not (tmp_path / "d/inner/x").exists()


def test_devices_and_pipes_are_left_out(tmp_path: Path) -> None:
    def make(tar: tarfile.TarFile) -> None:
        for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            put(tar, f"d/{kind.decode()}", type=kind)

    done = unpack(made(make), tmp_path, "d", expected="d", most_bytes=GIB)
    assert len(done.left_out) == 3 and list(tmp_path.rglob("*")) == []


def header(kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo("d")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


BROKEN = {
    "nothing": b"",
    "half a header": b"x" * 100,
    "garbage": b"\xff" * BLOCK,
    "a file that ends too soon": header(tarfile.REGTYPE, 1000) + b"x" * 100,
    "a giant header": header(b"x", 8 * GIB),
    "an attribute that is none": header(b"x", 4) + b"9999" + bytes(508),
    "a sparse file": header(b"S", 10) + bytes(BLOCK),
    "a folder with content": header(tarfile.DIRTYPE, 10) + bytes(BLOCK),
    "no member": bytes(2 * BLOCK),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_archive_is_told(tmp_path: Path, what: str) -> None:
    with pytest.raises((ArchiveError, UnavailableError)):
        unpack(io.BytesIO(BROKEN[what]), tmp_path, "d", expected="d", most_bytes=GIB)


def test_more_than_allowed_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(VdcError) as caught:
        unpack(made(lambda tar: put(tar, "d", b"x" * 2000)), tmp_path, "d", expected="d", most_bytes=1999)
    assert caught.value.code == "copy-too-large" and not (tmp_path / "d").exists()


def test_members_without_end_have_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "MOST_MEMBERS", 10)

    def make(tar: tarfile.TarFile) -> None:
        for number in range(20):
            put(tar, f"d/{number}")

    with pytest.raises(ArchiveError, match="more than 10 members"):
        unpack(made(make), tmp_path, "d", expected="d", most_bytes=GIB)
