"""The real qemu-img, confined: a hostile file names nothing outside, and no file grows without bound."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import pytest

from hostagent.drivers.disk import images
from hostagent.drivers.disk.images import DiskToolError, QemuImg, require_self_contained
from hostagent.drivers.process.tool import MOST_BYTES, run_tool
from hostagent.drivers.process.users import own_by
from vdc.confinement.limits import ToolLimits
from vdc.images.inspect import inspect_disk
from vdc.model.errors import InvalidError, RefusedError
from vdc.model.units import GIB, MIB

ROOT = Path(os.environ.get("VDC_CACHE_DIR", "/var/cache/vdc")) / "runtime" / "current"
GUEST_UID = 1_900_100_000
pytestmark = [
    pytest.mark.skipif(not (ROOT / "usr/bin/qemu-img").exists(), reason="no runtime root: make runtime"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bwrap: make packages"),
]


@pytest.fixture
def tool(tmp_path: Path) -> QemuImg:
    own_by(tmp_path / "vm", GUEST_UID)
    (tmp_path / "images").mkdir()
    return QemuImg(ROOT, tmp_path / "vm", tmp_path / "images")


async def run(tool: QemuImg, *arguments: str) -> None:
    await tool._run(*arguments)


async def test_what_is_made_is_taken(tool: QemuImg) -> None:
    await tool.create("disk0.qcow2", GIB)
    await tool.create_layer("active0.qcow2", "disk0.qcow2")
    await tool.resize("disk0.qcow2", 2 * GIB)
    await tool.commit("active0.qcow2")
    await tool.check("disk0.qcow2")
    content = (tool.folder / "disk0.qcow2").read_bytes()
    assert inspect_disk(content, len(content)).virtual_bytes == 2 * GIB


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("-b", "/etc/shadow", "-F", "raw", "-u"), "backing file"),
        (("-o", "data_file=/vm/data.raw"), "external data file"),
        (("--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s"), "encrypted"),
    ],
)
async def test_what_qemu_makes_to_name_other_files_is_refused(
    tool: QemuImg, options: tuple[str, ...], word: str
) -> None:
    await run(tool, "create", "-q", "-f", "qcow2", *options, "/vm/disk0.qcow2", "16M")
    content = (tool.folder / "disk0.qcow2").read_bytes()
    with pytest.raises(InvalidError, match=word) as caught:
        inspect_disk(content[: 64 * 1024], len(content))
    assert caught.value.code == "image-unsafe"


async def test_an_image_with_internal_snapshots_is_refused(
    tool: QemuImg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_WRITES", ("create", "snapshot"))
    await tool.create("disk0.qcow2", 16 * MIB)
    await run(tool, "snapshot", "-c", "one", "/vm/disk0.qcow2")
    content = (tool.folder / "disk0.qcow2").read_bytes()
    with pytest.raises(InvalidError, match="snapshots"):
        inspect_disk(content[: 64 * 1024], len(content))


@pytest.mark.parametrize("driver", ["vmdk", "vhdx", "vdi", "vpc", "qed", "parallels"])
async def test_every_other_format_that_qemu_writes_is_told_apart(tool: QemuImg, driver: str) -> None:
    await run(tool, "create", "-q", "-f", driver, "/vm/disk0.qcow2", "16M")
    content = (tool.folder / "disk0.qcow2").read_bytes()
    with pytest.raises(InvalidError) as caught:
        inspect_disk(content[: 64 * 1024], len(content))
    assert caught.value.code == "image-format-unsupported"


async def test_a_guest_that_writes_a_qcow2_header_into_its_raw_disk_gains_nothing(tool: QemuImg) -> None:
    hostile = struct.pack(">4sIQIIQI", b"QFI\xfb", 3, 512, 11, 16, MIB, 0).ljust(512, b"\0") + b"/etc/shadow"
    (tool.folder / "disk0.qcow2").write_bytes(hostile.ljust(65536, b"\0"))
    info = await tool.info("disk0.qcow2", image_format="raw")
    assert (info.format, info.backing_file, info.virtual_bytes) == ("raw", None, 65536)
    require_self_contained(info)
    with pytest.raises((DiskToolError, RefusedError)):
        require_self_contained(await tool.info("disk0.qcow2"))


async def test_a_base_that_is_no_blob_is_not_believed(tool: QemuImg) -> None:
    for below in ("/images/blobs/sha256/../../../vm/other.qcow2", "/etc/shadow", "/vm/../etc/shadow"):
        await run(
            tool, "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", below, "/vm/disk0.qcow2", "1M"
        )
        with pytest.raises(DiskToolError, match="no layer of ours"):
            await tool.base_of("disk0.qcow2")


async def test_no_file_grows_beyond_its_limit(tool: QemuImg, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DiskToolError):
        await run(tool, "create", "-q", "-f", "raw", "-o", "preallocation=full", "/vm/big", "128M")
    assert (tool.folder / "big").stat().st_size <= images._TABLES_BYTES
    before = (tool.folder / "big").stat().st_size
    with pytest.raises(DiskToolError):  # what is said to be read is not written at all
        await run(tool, "check", "-r", "all", "-f", "qcow2", "/vm/big")
    assert (tool.folder / "big").stat().st_size == before


async def test_the_kernel_ends_what_takes_too_much() -> None:
    limits = ToolLimits(memory_bytes=2 * GIB, file_bytes=0, processor_s=1)
    status, _, _ = await run_tool(["sh", "-c", "while :; do :; done"], deadline_s=30, limits=limits)
    assert status != 0
    small = ToolLimits(memory_bytes=64 * MIB, file_bytes=0, processor_s=10)
    status, _, _ = await run_tool(
        ["dd", "if=/dev/zero", "of=/dev/null", "bs=128M", "count=1"], deadline_s=30, limits=small
    )
    assert status != 0


async def test_a_tool_that_never_stops_talking_fills_no_memory() -> None:
    flood = f"head -c {MOST_BYTES + 5} /dev/zero; head -c {MOST_BYTES + 5} /dev/zero >&2; cat"
    status, output, complaint = await run_tool(["sh", "-c", flood], deadline_s=30, stdin=b"heard")
    assert (status, len(output), len(complaint)) == (0, MOST_BYTES, MOST_BYTES)
    unheard = await run_tool(["sh", "-c", "exec <&-; sleep 0.1; echo x"], deadline_s=30, stdin=bytes(1 << 20))
    assert unheard == (0, b"x\n", b"")


async def test_links_of_a_guest_s_making_lift_no_limit_and_stop_nothing(tool: QemuImg) -> None:
    (tool.folder / "a.qcow2").symlink_to("/proc/kcore")
    (tool.folder / "b.qcow2").symlink_to("/nowhere")
    os.mkfifo(tool.folder / "c.qcow2")
    await tool.create("disk0.qcow2", MIB)
    present = (tool.folder / "disk0.qcow2").stat().st_size
    assert tool._limits("commit", 1).file_bytes == present + present // 64 + images._TABLES_BYTES


@pytest.mark.skipif(
    not (ROOT / "usr/sbin/mke2fs").exists(), reason="the runtime root has no mke2fs yet: make runtime"
)
async def test_a_volume_begins_with_a_file_system(tool: QemuImg) -> None:
    label = "01234567-89ab-cdef-0123-456789abcdef"
    await tool.create_ext4("disk1.qcow2", 4 * GIB, label)
    info = await tool.info("disk1.qcow2")
    assert (info.virtual_bytes, info.format, info.backing_file) == (4 * GIB, "qcow2", None)
    assert info.actual_bytes < 32 * MIB
    assert [path.name for path in tool.folder.iterdir()] == ["disk1.qcow2"]
    await tool.check("disk1.qcow2")


@pytest.mark.skipif(
    not (ROOT / "usr/sbin/mke2fs").exists(), reason="the runtime root has no mke2fs yet: make runtime"
)
async def test_a_volume_that_cannot_be_made_leaves_nothing(tool: QemuImg) -> None:
    with pytest.raises(DiskToolError, match="mke2fs"):
        await tool.create_ext4("disk1.qcow2", 4 * GIB, "no uuid")
    assert list(tool.folder.iterdir()) == []
