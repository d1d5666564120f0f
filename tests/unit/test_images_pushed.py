"""Images of ours as container images: what is written is what OCI says, and comes back as the same image."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from vdc.images.oci.layout import Layout, archive
from vdc.images.oci.pushed import LABEL, members, read_description
from vdc.images.reference import digest_of
from vdc.model.errors import InvalidError
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.process import ImageProcess

DISK, KERNEL, INITRD = b"QFI\xfb" + bytes(100_000), b"kernel" * 99, b"i"


def blob(content: bytes) -> Blob:
    return Blob(digest="sha256:" + hashlib.sha256(content).hexdigest(), size_bytes=len(content))


CONTENT = {blob(content).digest: content for content in (DISK, KERNEL, INITRD)}
IMAGES = {
    "disk": Image(kind=ImageKind.DISK, disk=blob(DISK), disk_virtual_bytes=1 << 20),
    "raw": Image(kind=ImageKind.DISK, disk=blob(DISK), disk_format="raw"),
    "kernel": Image(kind=ImageKind.KERNEL, kernel=blob(KERNEL), initrd=blob(INITRD), cmdline="quiet"),
    "container": Image(
        kind=ImageKind.CONTAINER, disk=blob(DISK), kernel=blob(KERNEL), initrd=blob(INITRD),
        process=ImageProcess(entrypoint=("/bin/ü",), env=("A=ß",)),
    ),
}  # fmt: skip
FILES = {
    "disk": ["disk/disk.qcow2"],
    "raw": ["disk/disk.img"],
    "kernel": ["mycelium/kernel", "mycelium/initrd"],
    "container": ["mycelium/disk.qcow2", "mycelium/kernel", "mycelium/initrd"],
}


def write(folder: Path, image: Image, tag: str = "latest") -> str:
    layout = Layout(folder)
    layout.prepare()
    with layout.new_layer() as (writer, path):
        for name, part in members(image).items():
            writer.begin(name, part.size_bytes)
            content = CONTENT[part.digest]
            for place in range(0, len(content), 4096):
                writer.write(content[place : place + 4096])
        layer = writer.finish()
        writer.close()
        return layout.add(image, layer, path, tag)


def read(folder: Path, digest: str) -> bytes:
    content = (folder / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()
    assert "sha256:" + hashlib.sha256(content).hexdigest() == digest
    return content


def opened(folder: Path, tag: str = "latest") -> tuple[dict[str, Any], tarfile.TarFile]:
    """The configuration and the layer under a tag, each digest checked."""
    assert json.loads((folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((folder / "index.json").read_text())
    (entry,) = [
        one for one in index["manifests"] if one["annotations"]["org.opencontainers.image.ref.name"] == tag
    ]
    manifest = json.loads(read(folder, entry["digest"]))
    (layer,) = manifest["layers"]
    config = json.loads(read(folder, manifest["config"]["digest"]))
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    content = read(folder, layer["digest"])
    assert len(content) == layer["size"] and len(content) % 512 == 0
    return config, tarfile.open(fileobj=io.BytesIO(content))


@pytest.mark.parametrize("kind", IMAGES)
def test_what_was_pushed_is_the_same_image(tmp_path: Path, kind: str) -> None:
    image = IMAGES[kind]
    write(tmp_path / "out", image)
    config, layer = opened(tmp_path / "out")
    assert (config["architecture"], config["os"]) == ("amd64", "linux")
    found = read_description(config)
    assert found == image and digest_of(found) == digest_of(image)
    files = [info.name for info in layer if info.isfile()]
    assert files == FILES[kind] == list(members(found))
    for name, part in members(found).items():
        file = layer.extractfile(name)
        assert file is not None and blob(file.read()) == part
    assert {(info.uid, info.gid, info.mtime) for info in layer} == {(107, 107, 0)}


def test_the_same_image_is_the_same_manifest(tmp_path: Path) -> None:
    one, other = (write(tmp_path / name, IMAGES["container"]) for name in ("a", "b"))
    assert one == other
    for name in ("a", "b"):
        archive(tmp_path / name, tmp_path / f"{name}.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_layout_takes_more_images_and_a_tag_moves(tmp_path: Path) -> None:
    write(tmp_path, IMAGES["disk"], "one")
    write(tmp_path, IMAGES["kernel"], "two")
    write(tmp_path, IMAGES["container"], "one")
    assert read_description(opened(tmp_path, "one")[0]) == IMAGES["container"]
    assert read_description(opened(tmp_path, "two")[0]) == IMAGES["kernel"]
    assert not [path for path in tmp_path.rglob(".*")]


def test_an_interrupted_push_leaves_the_layout_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, IMAGES["disk"])
    before = sorted(tmp_path.rglob("*"))
    layout = Layout(tmp_path)
    with pytest.raises(KeyboardInterrupt), layout.new_layer() as (writer, _):
        writer.begin("disk/disk.img", 10)
        raise KeyboardInterrupt
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("index", [None, "not json", "[]", '{"manifests": 1}'])
def test_a_folder_that_is_something_else_is_refused(tmp_path: Path, index: str | None) -> None:
    (tmp_path / "mine").write_text("x")
    if index is not None:
        (tmp_path / "index.json").write_text(index)
    with pytest.raises(InvalidError) as caught:
        Layout(tmp_path).prepare()
    assert caught.value.code == "layout-unusable"
    assert (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    "config", [{}, {"config": None}, {"config": {"Labels": None}}, {"config": {"Labels": {}}}]
)
def test_a_container_image_of_others_is_none_of_ours(config: dict[str, Any]) -> None:
    assert read_description(config) is None


@pytest.mark.parametrize("text", ["", "{", "{}", '{"kind": "tape"}', 5, "[" * 100_000, " " * 300_000])
def test_a_description_that_cannot_be_read_is_refused(text: Any) -> None:
    with pytest.raises(InvalidError) as caught:
        read_description({"config": {"Labels": {LABEL: text}}})
    assert caught.value.code == "image-damaged"
