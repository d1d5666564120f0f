"""Disk files of every format, made by the real qemu-img, imported: the same disk, the same digest, nothing left."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuzz.disks import EFI_SYSTEM, OVF, fat, gpt, mbr, sparse_vmdk, vhd_footer, vhdx
from vdc.confinement.limits import ToolLimits
from vdc.images.scratch import Scratch
from vdc.images.sources import ImportOptions, ImportPlan, plan_import
from vdc.images.tool import SCRATCH, Tool, run_tool
from vdc.model.errors import VdcError
from vdc.model.manifest import Firmware
from vdc.model.units import GIB, MIB

ROOT = Path(os.environ.get("VDC_CACHE_DIR", "/var/cache/vdc")) / "runtime" / "current"
pytestmark = [
    pytest.mark.skipif(not (ROOT / "usr/bin/qemu-img").exists(), reason="no runtime root: make runtime"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bwrap: make packages"),
]
SIZE = 8 * MIB
LIMITS = ToolLimits(memory_bytes=4 * GIB, file_bytes=GIB, processor_s=60)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where imports work: empty after each test, whatever happened in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert not list(folder.iterdir())


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A disk that BIOS boots, with content here and there and nothing in between."""
    path = tmp_path / "disk.raw"
    path.write_bytes(disk_bytes(mbr((0x80, 0x83, 2048, 9999))))
    return path


def disk_bytes(first: bytes) -> bytes:
    some = random.Random(1).randbytes(MIB)
    return (first.ljust(3 * MIB, b"\0") + some).ljust(6 * MIB, b"\0") + some[:5000].ljust(2 * MIB, b"\0")


def qemu_img(folder: Path, *arguments: str) -> None:
    """In `folder`, whose files it then may have made."""
    with Scratch(below=folder) as scratch:
        for path in folder.iterdir():
            if path.is_file():
                shutil.copy(path, scratch.folder)
        before = {path.name for path in scratch.folder.iterdir()}
        run_tool(Tool(("qemu-img", *arguments), LIMITS, 60, scratch=scratch.folder))
        for path in list(scratch.folder.iterdir()):
            if path.name not in before:
                scratch.take(path.name).rename(folder / path.name)


def made(raw: Path, driver: str, *options: str, name: str = "") -> Path:
    """The raw disk in another format."""
    target = name or f"disk.{driver}"
    more = [word for option in options for word in (("-o", option) if "=" in option else (option,))]
    qemu_img(raw.parent, "convert", "-q", "-f", "raw", "-O", driver, *more, raw.name, target)
    return raw.parent / target


def imported(source: Path | str, **options: object) -> ImportPlan:
    with plan_import(str(source), ImportOptions(**options)) as plan:  # type: ignore[arg-type]
        for blob, path in plan.files:
            assert path.stat().st_size == blob.size_bytes
            assert "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() == blob.digest
        return plan


def refused(source: Path | str, **options: object) -> VdcError:
    with pytest.raises(VdcError) as caught:
        imported(source, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return caught.value


def content_of(source: Path, **options: object) -> bytes:
    """What a guest would see of it."""
    with plan_import(str(source), ImportOptions(**options)) as plan:  # type: ignore[arg-type]
        assert plan.image.disk is not None
        path = plan.files[0][1]
        if plan.image.disk_format == "raw":
            return path.read_bytes()
        with Scratch() as scratch:
            shutil.copy(path, scratch.folder / "a")
            run_tool(
                Tool(
                    ("qemu-img", "convert", "-f", "qcow2", "-O", "raw", f"{SCRATCH}/a", "b"), LIMITS, 60,
                    scratch=scratch.folder,
                )
            )  # fmt: skip
            return scratch.take("b").read_bytes()


# ---- every format


FORMATS = {
    "vmdk": (), "vmdk-stream": ("subformat=streamOptimized",), "vmdk-flat": ("subformat=monolithicFlat",),
    "vmdk-two": ("subformat=twoGbMaxExtentSparse",), "vmdk-two-flat": ("subformat=twoGbMaxExtentFlat",),
    "vdi": (), "vdi-static": ("static=on",), "vhdx": (), "vhdx-fixed": ("subformat=fixed",),
    "vpc": ("force_size=on",), "vpc-fixed": ("subformat=fixed,force_size=on",), "qed": (),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMATS)
def test_every_format_becomes_the_same_image(raw: Path, case: str) -> None:
    driver = case.split("-")[0]
    source = made(raw, driver, *FORMATS[case])
    assert content_of(source) == raw.read_bytes()
    plan, again = imported(source), imported(source, disk_format=driver)
    assert plan.digest == again.digest == imported(raw, name="disk").digest
    assert (plan.name, plan.image.disk_format, plan.image.disk_virtual_bytes) == (
        "disk:latest",
        "qcow2",
        SIZE,
    )
    assert plan.image.firmware is Firmware.BIOS and plan.image.arch == "x86_64"
    assert plan.image.disk is not None and plan.image.disk.size_bytes < 2 * MIB  # of 8: holes stay holes


def test_qcow2_is_taken_as_it_is(raw: Path) -> None:
    for name, options in (("a", ()), ("b", ("compat=0.10",)), ("c", ("-c",)), ("d", ("extended_l2=on",))):
        source = made(raw, "qcow2", *options, name=f"{name}.qcow2")
        plan = imported(source)
        assert plan.image.disk is not None and plan.image.firmware is Firmware.BIOS
        assert plan.image.disk.digest == "sha256:" + hashlib.sha256(source.read_bytes()).hexdigest()
        assert plan.files[0][1] == source and not plan.notes


def test_what_is_compressed_in_a_way_that_we_do_not_read_is_taken_all_the_same(raw: Path) -> None:
    plan = imported(made(raw, "qcow2", "-c", "compression_type=zstd"))
    assert plan.image.firmware is None and "not looked for" in plan.notes[0]


def test_raw_is_kept_where_it_is_full_and_made_qcow2_where_it_is_not(tmp_path: Path, raw: Path) -> None:
    full = tmp_path / "full.img"
    full.write_bytes(mbr((0x80, 0x83, 1, 9)) + random.Random(2).randbytes(4 * MIB - 512))
    kept = imported(full)
    assert kept.image.disk_format == "raw" and kept.files[0][1] == full
    sparse = tmp_path / "sparse.img"
    with sparse.open("wb") as file:
        file.write(raw.read_bytes()[: 4 * MIB])
        file.seek(6 * MIB)
        file.write(raw.read_bytes()[6 * MIB :])
        file.truncate(SIZE)
    assert sparse.stat().st_blocks * 512 < SIZE
    assert imported(sparse, name="disk").digest == imported(raw).digest  # holes or zeros, it is the same disk


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz", "zst"])
def test_compressed_disks_are_unpacked(raw: Path, packing: str) -> None:
    inner = made(raw, "qcow2")
    for source in (raw, inner):
        packed = source.with_name(f"{source.name}.{packing}")
        if packing == "zst":
            subprocess.run(["zstd", "-q", source], check=True)
        else:
            opener = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}[packing]
            with opener(packed, "wb") as file:
                file.write(source.read_bytes())
        plan = imported(packed)
        assert (plan.name, plan.digest) == ("disk:latest", imported(source).digest)
        damaged = packed.with_name("cut." + packing)
        damaged.write_bytes(packed.read_bytes()[:-20])
        error = refused(damaged)
        assert error.code == "image-unsafe" and "cut off" in error.problem.hint
        packed.unlink()


# ---- appliances


def appliance(folder: Path, *files: tuple[str, bytes], name: str = "box.ova") -> Path:
    with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, content in files:
            (folder / "member").write_bytes(content)
            tar.add(folder / "member", member)
        (folder / "member").unlink()
    return folder / name


def test_the_disk_of_an_appliance_is_read_where_it_lies(raw: Path) -> None:
    disk = made(raw, "vmdk", "subformat=streamOptimized").read_bytes()
    sums = f"SHA256(box.ovf)= {hashlib.sha256(OVF).hexdigest()}\nSHA1(a b.vmdk) = {hashlib.sha1(disk).hexdigest()}\n"
    box = appliance(
        raw.parent, ("box.ovf", OVF), ("box.mf", sums.encode()), ("a b.vmdk", disk), ("data.vmdk", b"")
    )
    plan = imported(box)
    assert plan.image.disk == imported(raw).image.disk
    assert plan.image.firmware is Firmware.UEFI  # as its description says
    assert "wants 2 CPUs, 4GiB of memory, 2 NICs" in plan.notes[0] and "data.vmdk" in plan.notes[1]
    second = appliance(
        raw.parent, ("box.ovf", OVF), ("a b.vmdk", b"x"), ("data.vmdk", disk), name="second.ova"
    )
    assert imported(second, disk="data.vmdk").image.disk == plan.image.disk
    error = refused(second, disk="c")
    assert error.code == "image-disk-unknown" and "a%20b.vmdk, data.vmdk" in error.problem.hint
    for name, changed in (("sum", disk[:-1] + b"x"), ("cut", b"")):
        bad = appliance(
            raw.parent,
            ("box.ovf", OVF),
            ("box.mf", sums.encode()),
            ("a b.vmdk", changed or disk),
            name=f"{name}.ova",
        )
        if not changed:
            bad.write_bytes(bad.read_bytes()[: len(disk) // 2])
        assert refused(bad).code in ("digest-mismatch", "image-unsafe")


def test_a_description_with_its_disk_beside_it(raw: Path) -> None:
    made(raw, "vmdk").rename(raw.parent / "a b.vmdk")
    (raw.parent / "box.ovf").write_bytes(OVF)
    assert imported(raw.parent / "box.ovf").image.disk == imported(raw).image.disk
    (raw.parent / "box.ovf").write_bytes(OVF.replace(b"a%20b.vmdk", b"..%2Fsecret"))
    assert "no file beside it" in str(refused(raw.parent / "box.ovf"))
    (raw.parent / "link.vmdk").symlink_to("/etc/shadow")
    (raw.parent / "box.ovf").write_bytes(OVF.replace(b"a%20b.vmdk", b"link.vmdk"))
    assert refused(raw.parent / "box.ovf").code == "source-unsupported"


def test_archives_that_are_no_appliance(raw: Path) -> None:
    assert (
        imported(appliance(raw.parent, ("disk.raw", raw.read_bytes()))).image.disk == imported(raw).image.disk
    )
    packed = raw.parent / "gce.tar.gz"
    packed.write_bytes(gzip.compress((raw.parent / "box.ova").read_bytes()))
    assert imported(packed, name="disk").digest == imported(raw).digest
    assert refused(appliance(raw.parent, ("a", b"x"), ("b", b"y"))).code == "image-format-unsupported"
    assert "leads out" in str(refused(appliance(raw.parent, ("../a.ovf", OVF))))
    assert "does not fit" in str(refused(appliance(raw.parent, ("box.ovf", OVF))))
    again = appliance(
        raw.parent, ("box.ovf", OVF), ("a b.vmdk", appliance(raw.parent, ("x", b"y")).read_bytes())
    )
    assert "its disk is ova" in str(refused(again))


# ---- firmware and architecture, of real conversions


@pytest.mark.parametrize("driver", ["raw", "qcow2", "vmdk"])
def test_what_boots_it_is_told_by_the_disk(tmp_path: Path, driver: str) -> None:
    source = tmp_path / "disk.raw"
    source.write_bytes(disk_bytes(gpt((EFI_SYSTEM, 64, fat(), 0))))
    plan = imported(source if driver == "raw" else made(source, driver))
    assert plan.image.firmware is Firmware.UEFI and not plan.notes
    assert imported(source, firmware=Firmware.UEFI_SECURE).image.firmware is Firmware.UEFI_SECURE
    source.write_bytes(disk_bytes(gpt((EFI_SYSTEM, 64, fat(("BOOTAA64.EFI",)), 0))))
    error = refused(source if driver == "raw" else made(source, driver, name="arm"))
    assert error.code == "image-arch-unsupported" and "aarch64" in str(error)


# ---- untrusted files


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


def as_nobody(work: Callable[[], str]) -> str:
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writer, work().encode())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(pid, 0)
    return said
