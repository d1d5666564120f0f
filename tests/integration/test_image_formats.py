"""Disk files of every format, made by the real qemu-img, imported: the same disk, the same digest, nothing left."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import random
import subprocess
from pathlib import Path

import pytest
from disk_import import (
    FORMATS,
    NEEDS,
    SIZE,
    appliance,
    content_of,
    disk_bytes,
    imported,
    made,
    raw_disk,
    refused,
)

from tests.fuzz.disks import EFI_SYSTEM, OVF, fat, gpt, mbr
from vdc.model.manifest import Firmware
from vdc.model.units import MIB

pytestmark = [*NEEDS, pytest.mark.usefixtures("temporary")]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return raw_disk(tmp_path)


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
