"""Disk files that are made to do harm, and imports that are cut short: refused by name, and nothing stays."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import signal
import stat
import struct
import subprocess
import threading
from pathlib import Path

import pytest
from disk_import import (
    FORMATS,
    NEEDS,
    imported,
    made,
    raw_disk,
    refused,
)
from import_support import as_nobody

from tests.fuzz.disks import sparse_vmdk, vhd_footer, vhdx
from vdc.images.scratch import Scratch
from vdc.images.sources import plan_import
from vdc.model.errors import VdcError
from vdc.model.units import MIB

pytestmark = [*NEEDS, pytest.mark.usefixtures("temporary")]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return raw_disk(tmp_path)


@pytest.mark.parametrize("driver", ["vmdk", "vmdk-stream", "vdi", "vhdx", "vpc", "vpc-fixed", "qed", "qcow2"])
def test_what_is_cut_off_is_refused(raw: Path, driver: str) -> None:
    whole = made(raw, driver.split("-")[0], *FORMATS.get(driver, ())).read_bytes()
    for length in (100, 70_000, len(whole) - 600_000):
        path = raw.parent / f"cut-{length}.{driver}"
        path.write_bytes(whole[:length])
        error = refused(path, disk_format=None if driver != "vpc-fixed" else "vpc")
        assert error.code in ("image-unsafe", "image-format-mismatch") and error.problem.hint, error


def hostile(raw: Path) -> dict[str, tuple[bytes, str]]:
    backing = struct.pack(">4sIQIIQI", b"QFI\xfb", 3, 512, 11, 16, MIB, 0).ljust(512, b"\0") + b"/etc/shadow"
    flat = (
        b'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
        b'RW 2 FLAT "/etc/shadow" 0\n'
    )
    beside = flat.replace(b"/etc/shadow", b"shadow")
    return {
        "backing.qcow2": (backing.ljust(65536, b"\0"), "backing file"),
        "shadow.vmdk": (flat, "no file beside it"),
        "link.vmdk": (beside, "cannot be opened"),
        "embedded.vmdk": (sparse_vmdk(flat, capacity=0), "0 bytes"),
        "parent.vhdx": (vhdx(parent=True), "snapshot"),
        "huge.vhdx": (vhdx(size=1 << 60), "header says"),
        "differencing.vhd": (vhd_footer(4) + bytes(MIB) + vhd_footer(4), "snapshot"),
        "twice.gz": (gzip.compress(gzip.compress(b"x" * 1000)), "gzip in it"),
        "ovf.xml": (
            b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/shadow">]><a>&b;</a>',
            "entities",
        ),
        "empty": (b"", "is empty"),
        "one": (b"x", "no known format"),
    }


def test_hostile_files_are_refused_by_name(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "shadow").symlink_to("/etc/shadow")
    for name, (content, word) in hostile(raw).items():
        (tmp_path / name).write_bytes(content)
        error = refused(tmp_path / name)
        assert word in str(error), error
        assert error.code in ("image-unsafe", "image-format-unknown", "source-unsupported"), error


def test_every_block_at_the_same_place_is_not_unpacked_without_end(tmp_path: Path) -> None:
    """A few MiB that claim to be a TiB, all of it there."""
    size, block = 1 << 40, 2 * MIB
    footer, blocks = vhd_footer(3, size=size), size // block
    first = (1536 + 4 * blocks) // 512
    header = b"cxsparse" + struct.pack(">QQIII", 2**64 - 1, 1536, 0x10000, blocks, block)
    header = bytearray(header.ljust(1024, b"\0"))
    struct.pack_into(">I", header, 36, ~sum(header) & 0xFFFFFFFF)
    table = struct.pack(f">{blocks}I", *[first] * blocks)
    whole = footer + bytes(header) + table + b"\xff" * 512 + b"x" * block + footer
    (tmp_path / "bomb.vhd").write_bytes(whole)
    error = refused(tmp_path / "bomb.vhd")
    assert error.code == "image-unsafe" and "unpacks to more than" in str(error), error


def test_a_compressed_file_is_not_unpacked_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdc.images.unpack._ALWAYS_BYTES", 64 * MIB)
    packed = lzma.compress(bytes(100 * MIB), preset=0)
    assert len(packed) * 1000 < 100 * MIB
    (tmp_path / "bomb.xz").write_bytes(packed)
    error = refused(tmp_path / "bomb.xz")
    assert error.code == "image-unsafe" and "unpacks to more than 64MiB" in str(error)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, code in (
        ("pipe", "source-unsupported"),
        ("none", "source-not-found"),
        (".", "source-unsupported"),
    ):
        assert refused(tmp_path / name).code == code
    assert refused("/dev/null").code == "source-unsupported"


# ---- interruptions


def test_a_file_that_changes_meanwhile_is_refused(raw: Path) -> None:
    for source in (made(raw, "vmdk"), made(raw, "qcow2")):
        times = []

        def disturb(
            what: str, done: int, total: int, source: Path = source, times: list[str] = times
        ) -> None:
            if not times:
                with source.open("ab") as file:
                    file.write(b"more")
            times.append(what)

        error = refused(source, progress=disturb)
        assert error.code == "image-changed" and times


@pytest.mark.parametrize("stage", ["unpacking", "converting", "reading"])
def test_ctrl_c_leaves_nothing(raw: Path, stage: str, temporary: Path) -> None:
    packed = raw.with_name("disk.raw.gz")
    packed.write_bytes(gzip.compress(raw.read_bytes()))
    seen = []

    def interrupt(what: str, done: int, total: int) -> None:
        seen.append(what)
        if what.startswith(stage):
            assert list(temporary.iterdir())
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        imported(packed, progress=interrupt)
    assert seen[-1].startswith(stage)


def test_two_imports_of_one_file_at_once(raw: Path) -> None:
    source, digests = made(raw, "vmdk"), []
    threads = [threading.Thread(target=lambda: digests.append(imported(source).digest)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 3 and len(set(digests)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_full_disk_is_said_and_nothing_stays(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made(raw, "vmdk")
    packed = raw.with_name("disk.raw.gz")
    packed.write_bytes(gzip.compress(raw.read_bytes()))
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", small], check=True)
    try:
        monkeypatch.setenv("TMPDIR", str(small))
        error = refused(source)
        assert error.code == "no-space" and "where 0B are free" in str(error)
        monkeypatch.setattr(Scratch, "need", lambda self, size_bytes: None)  # it fills up half-way
        for full in (source, packed):
            assert refused(full).code == "no-space"
            assert not list(small.iterdir())
        monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
        assert refused(source).code == "scratch-unusable"
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
def test_who_is_not_root_imports_what_it_may_read(raw: Path, tmp_path: Path, temporary: Path) -> None:
    source, digest = made(raw, "vmdk"), imported(made(raw, "vmdk")).digest
    private = raw.with_name("private.raw")
    shutil.copy(raw, private)
    private.chmod(0o600)
    source.chmod(0o644)
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(folder.stat().st_mode | stat.S_IROTH | stat.S_IXOTH)
    temporary.chmod(0o777)

    def work() -> str:
        with plan_import(str(source)) as plan:
            return plan.digest

    def peep() -> str:
        try:
            with plan_import(str(private)):
                return "it was let"
        except VdcError as error:
            return error.code

    assert as_nobody(work) == digest
    assert as_nobody(peep) == "source-unreadable"
    assert imported(private, name="disk").digest == digest  # root reads it, and the tool for it
