"""A disk over others: followed by us alone, to plain files that may be read, and to nothing else."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import pytest
from test_images_inspect import FILE_BYTES, boot_sector, extension, qcow2

from vdc.images.chain import Link, follow, references_of, require_unchanged
from vdc.images.flatten import options_of
from vdc.model.errors import InvalidError, NotFoundError, RefusedError, VdcError

RAW_FORMAT, QCOW2_FORMAT = extension(0xE2792ACA, b"raw"), extension(0xE2792ACA, b"qcow2")


def overlay(name: bytes, form: bytes = QCOW2_FORMAT, **header: object) -> bytes:
    """A qcow2 header with a backing file's name at 2048, which is a whole file as far as a header tells."""
    head = bytearray(qcow2(backing=2048, extensions=form + extension(0, b""), **header))  # type: ignore[arg-type]
    head[2048 : 2048 + len(name)] = name
    struct.pack_into(">I", head, 16, len(name))
    return bytes(head).ljust(FILE_BYTES, b"\0")


def whole() -> bytes:
    return qcow2(extensions=extension(0, b"")).ljust(FILE_BYTES, b"\0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.qcow2").write_bytes(whole())
    (tmp_path / "base.raw").write_bytes(boot_sector() * 8)
    return tmp_path


def anywhere(upper: Path, lower: Path) -> bool:
    return True


def nowhere(upper: Path, lower: Path) -> bool:
    return False


def put(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def chain(path: Path, form: str = "qcow2", **more: object) -> list[tuple[str, str]]:
    links = follow(path, form, **{"stated": (), "may_read": anywhere, **more})  # type: ignore[arg-type]
    return [(link.path.name, link.format) for link in links]


def code_of(path: Path, form: str = "qcow2", **more: object) -> str:
    with pytest.raises(VdcError) as caught:
        chain(path, form, **more)
    assert "\n" not in str(caught.value)
    return caught.value.code


def test_a_disk_of_its_own_is_one_link(folder: Path) -> None:
    assert chain(folder / "base.qcow2") == [("base.qcow2", "qcow2")]
    assert chain(folder / "base.raw", "raw") == [("base.raw", "raw")]


def test_it_is_followed_to_the_last(folder: Path) -> None:
    put(folder, "one.qcow2", overlay(b"base.raw", RAW_FORMAT))
    two = put(folder, "two.qcow2", overlay(str(folder / "one.qcow2").encode()))
    assert chain(two) == [("two.qcow2", "qcow2"), ("one.qcow2", "qcow2"), ("base.raw", "raw")]


def test_only_what_may_be_read_is_opened(folder: Path, tmp_path: Path) -> None:
    """An overlay whose maker would like to have a file of this machine in the guest."""
    secret = put(tmp_path, "secret", b"x" * 512)
    secret.chmod(0)
    top = put(folder, "top.qcow2", overlay(str(secret).encode(), RAW_FORMAT))
    asked: list[Path] = []

    def refuse(upper: Path, lower: Path) -> bool:
        asked.append(lower)
        return False

    assert code_of(top, may_read=refuse) == "backing-refused"
    assert asked == [secret]


def test_a_link_in_the_folder_is_where_it_leads(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    put(elsewhere, "secret", b"x" * 512)
    (folder / "harmless").symlink_to(elsewhere / "secret")
    top = put(folder, "top.qcow2", overlay(b"harmless", RAW_FORMAT))
    assert code_of(top, may_read=lambda upper, lower: lower.parent == upper.parent) == "backing-refused"


def test_what_the_description_names_may_be_read_and_has_its_format(folder: Path) -> None:
    top = put(folder, "top.qcow2", overlay(b"base.raw", b""))
    assert code_of(top) == "backing-refused"  # nobody says in which format
    stated = [(folder / "base.raw", "raw")]
    assert chain(top, stated=stated, may_read=nowhere) == [("top.qcow2", "qcow2"), ("base.raw", "raw")]


@pytest.mark.parametrize(
    "name",
    [b"nbd://localhost/x", b"json:{}", b"fat:rw:/etc", b"nbd:unix:/run/x", b"ssh://h/x", b"http://h/x"],
)
def test_protocols_are_no_files(folder: Path, name: bytes) -> None:
    assert code_of(put(folder, "top.qcow2", overlay(name))) == "backing-refused"


def test_other_formats_are_followed_no_further(folder: Path) -> None:
    put(folder, "base.vmdk", b"KDMV")
    assert (
        code_of(put(folder, "top.qcow2", overlay(b"base.vmdk", extension(0xE2792ACA, b"vmdk"))))
        == "backing-refused"
    )
    assert chain(folder / "base.vmdk", "vmdk") == [("base.vmdk", "vmdk")]  # whoever converts it looks into it


def test_circles_and_long_chains_are_refused(folder: Path) -> None:
    assert code_of(put(folder, "self.qcow2", overlay(b"self.qcow2"))) == "backing-refused"
    put(folder, "a.qcow2", overlay(b"b.qcow2"))
    assert code_of(put(folder, "b.qcow2", overlay(b"a.qcow2"))) == "backing-refused"
    for number in range(20):
        put(folder, f"{number}.qcow2", overlay(f"{number + 1}.qcow2".encode()))
    assert code_of(folder / "0.qcow2") == "backing-refused"


BROKEN = {
    "not what was said": (whole(), "raw", "image-format-mismatch"),
    "encrypted": (qcow2(crypt=1).ljust(FILE_BYTES, b"\0"), "qcow2", "image-unsafe"),
    "with data elsewhere": (qcow2(features=4).ljust(FILE_BYTES, b"\0"), "qcow2", "image-unsafe"),
    "cut off": (whole()[: 1 << 16], "qcow2", "image-unsafe"),
    "half a sector": (b"x" * 700, "raw", "image-unsafe"),
    "a name outside": (qcow2(backing=1 << 40).ljust(FILE_BYTES, b"\0"), "qcow2", "image-unsafe"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_one_is_refused(folder: Path, what: str) -> None:
    content, form, code = BROKEN[what]
    assert code_of(put(folder, "bad", content), form) == code
    if form == "raw":
        assert code_of(put(folder, "top.qcow2", overlay(b"bad", RAW_FORMAT))) == code


def test_what_is_no_file_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert code_of(folder / "pipe") == "disk-unreadable"
    assert code_of(folder) == "disk-unreadable"
    with pytest.raises(NotFoundError):
        chain(folder / "nothing")
    assert code_of(put(folder, "top.qcow2", overlay(b"nothing"))) == "disk-not-found"


def test_older_states_are_seen_and_no_reason_to_refuse(folder: Path) -> None:
    top = put(folder, "top.qcow2", qcow2(snapshots=2, extensions=extension(0, b"")).ljust(FILE_BYTES, b"\0"))
    (link,) = follow(top, "qcow2", stated=(), may_read=nowhere)
    assert link.has_snapshots


def test_a_disk_that_a_qemu_writes_to_is_refused(folder: Path) -> None:
    """QEMU locks a byte of the file for the right to write (block/file-posix.c)."""
    with (folder / "base.raw").open("r+b") as held:
        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0)
        fcntl.fcntl(held, fcntl.F_OFD_SETLK, lock)
        assert code_of(folder / "base.raw", "raw") == "disk-in-use"
        assert code_of(put(folder, "top.qcow2", overlay(b"base.raw", RAW_FORMAT))) == "disk-in-use"
    assert chain(folder / "base.raw", "raw")


def test_a_disk_that_was_written_to_meanwhile_is_refused(folder: Path) -> None:
    top = put(folder, "top.qcow2", overlay(b"base.raw", RAW_FORMAT))
    links = follow(top, "qcow2", stated=(), may_read=anywhere)
    require_unchanged(links)
    os.utime(folder / "base.raw", ns=(1, 1))
    with pytest.raises(RefusedError) as caught:
        require_unchanged(links)
    assert caught.value.code == "disk-changed"


def test_a_chain_as_qemu_is_told_it() -> None:
    links = [
        Link(Path("/x,y"), "qcow2", 1, (0, 0, 0, 0)),
        Link(Path("/dev/z"), "raw", 1, (0, 1, 0, 0), is_device=True),
    ]
    assert options_of(links) == (
        "driver=qcow2,file.driver=file,file.filename=/run/link0,"
        "backing.driver=raw,backing.file.driver=host_device,backing.file.filename=/run/link1"
    )


def test_a_file_that_is_no_qcow2_refers_to_nothing() -> None:
    for header in (b"", b"QFI\xfb", boot_sector(), os.urandom(100)):
        assert references_of(header).backing is None
    with pytest.raises(InvalidError):
        references_of(overlay(b"\xff\xfe"))
