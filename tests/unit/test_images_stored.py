"""An image that is registered past our own program: its disk is looked at by the host that holds it."""

from __future__ import annotations

import hashlib
import struct

import pytest

from vdc.images.blobs import BlobStore
from vdc.images.stored import check_disk_blob, check_image
from vdc.model.errors import InvalidError
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.process import ImageProcess

SECTOR = 512


def qcow2(*, backing=0, features=0, virtual=1 << 20):
    header = struct.pack(">4sIQIIQI", b"QFI\xfb", 3, backing, 11 if backing else 0, 16, virtual, 0)
    header += struct.pack(">IQQI", 1, 3 << 16, 1 << 16, 1)
    header = header.ljust(72, b"\0") + struct.pack(">Q", features)
    header = header.ljust(100, b"\0") + struct.pack(">I", 104)
    name = b"/etc/shadow" if backing else b""
    return (header.ljust(backing or 104, b"\0") + name).ljust((3 << 16) + 8, b"\0")


async def image_of(store, content, disk_format="qcow2", virtual=0):
    async def chunks():
        yield content

    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    await store.write(digest, chunks())
    disk = Blob(digest=digest, size_bytes=len(content))
    return Image(kind=ImageKind.DISK, disk=disk, disk_format=disk_format, disk_virtual_bytes=virtual)


@pytest.mark.parametrize(
    ("content", "disk_format", "code"),
    [
        (qcow2(backing=512), "qcow2", "image-unsafe"),
        (qcow2(features=4), "qcow2", "image-unsafe"),
        (qcow2(features=2), "qcow2", "image-unsafe"),
        (qcow2(backing=512), "raw", "image-format-mismatch"),
        (b'# Disk DescriptorFile\nRW 1 FLAT "/etc/shadow" 0\n'.ljust(SECTOR), "raw", "image-format-mismatch"),
        (b"KDMV".ljust(SECTOR, b"\0"), "vmdk", "image-format-unsupported"),
        (b"\0" * 100, "raw", "image-unsafe"),
    ],
    ids=["backing file", "data file", "corrupt", "qcow2 as raw", "descriptor", "vmdk", "torn"],
)
async def test_a_hostile_disk_is_refused_before_qemu_sees_it(tmp_path, content, disk_format, code):
    store = BlobStore(tmp_path)
    image = await image_of(store, content, disk_format)
    with pytest.raises(InvalidError) as caught:
        check_disk_blob(store, image)
    assert caught.value.code == code


async def test_a_size_that_was_announced_otherwise_is_refused(tmp_path):
    store = BlobStore(tmp_path)
    with pytest.raises(InvalidError, match="announced were 2097152"):
        check_disk_blob(store, await image_of(store, qcow2(), virtual=2 << 20))


async def test_a_plain_disk_is_taken(tmp_path):
    store = BlobStore(tmp_path)
    check_disk_blob(store, await image_of(store, qcow2(), virtual=1 << 20))
    check_disk_blob(store, await image_of(store, b"\0" * SECTOR, "raw"))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"arch": "../x"}, "architecture"),
        ({"cmdline": "quiet\0root=/dev/vda"}, "printable"),
        ({"cmdline": "quiet\nroot=/dev/vda"}, "printable"),
        ({"cmdline": "é"}, "printable"),
        ({"cmdline": "x" * 2_001}, "at most 2000"),
        ({"kind": ImageKind.KERNEL}, "needs a kernel"),
        ({"disk": None}, "needs a disk"),
    ],
)
async def test_a_description_that_no_guest_can_be_started_from_is_refused(tmp_path, change, word):
    store = BlobStore(tmp_path)
    image = await image_of(store, qcow2())
    check_image(store, image)
    with pytest.raises(InvalidError, match=word) as caught:
        check_image(store, image.with_(**change))
    assert caught.value.code == "image-invalid"


async def test_a_blob_is_as_large_as_announced(tmp_path):
    store = BlobStore(tmp_path)
    image = await image_of(store, qcow2())
    larger = image.disk.with_(size_bytes=image.disk.size_bytes + 65536)
    with pytest.raises(InvalidError, match="announced were"):
        check_image(store, image.with_(disk=larger))


@pytest.mark.parametrize("missing", ["disk", "kernel", "initrd"])
async def test_a_container_image_needs_a_disk_and_what_boots_it(tmp_path, missing):
    store = BlobStore(tmp_path)
    disk = (await image_of(store, qcow2())).disk
    image = Image(
        kind=ImageKind.CONTAINER, **{part: disk for part in ("disk", "kernel", "initrd") if part != missing}
    )
    with pytest.raises(InvalidError, match=f"kind container needs a {missing}"):
        check_image(store, image)


@pytest.mark.parametrize(
    "process",
    [
        ImageProcess(cmd=("x" * 300_000,)),
        ImageProcess(cmd=("x",) * 5_000),
        ImageProcess(cmd=("a\0b",)),
        ImageProcess(env=("novalue",)),
        ImageProcess(env=("=x",)),
        ImageProcess(user="a\nb"),
        ImageProcess(working_dir="relative"),
        ImageProcess(stop_signal="rm -rf"),
        ImageProcess(exposed_ports=("0/tcp",)),
        ImageProcess(exposed_ports=("80",)),
        ImageProcess(volumes=("/a/../b",)),
    ],
)
async def test_a_program_that_makes_no_sense_is_refused(tmp_path, process):
    store = BlobStore(tmp_path)
    disk = (await image_of(store, qcow2())).disk
    image = Image(kind=ImageKind.CONTAINER, disk=disk, kernel=disk, initrd=disk, process=process)
    with pytest.raises(InvalidError, match="the image's program makes no sense") as caught:
        check_image(store, image)
    assert caught.value.code == "image-invalid"
    check_image(
        store,
        image.with_(process=ImageProcess(env=("A=b",), stop_signal="SIGTERM", exposed_ports=("80/tcp",))),
    )
