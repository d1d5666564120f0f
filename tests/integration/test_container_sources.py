"""Container images from layouts and archives, whole and damaged: what is planned of them, what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from container_import import CONFIG, KERNEL, LAYER, NEEDS, error_of, fetched
from filesystem_support import can_mount

from tests.oci_layout import build_oci_image, docker_archive, entry, folder, oci_archive, tar_of
from vdc.images.oci.importing import ContainerFiles
from vdc.images.sources import ImportOptions, plan_import
from vdc.model.errors import VdcError
from vdc.model.image import ImageKind
from vdc.model.units import MIB

pytestmark = [*NEEDS, pytest.mark.usefixtures("temporary")]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_oci_image(LAYER, tmp_path_factory.mktemp("image") / "app", config=CONFIG)


def test_the_plan_of_an_import(layout: Path) -> None:
    options = ImportOptions(find_image=lambda name: KERNEL if name == "mycelium/container:latest" else None)
    with plan_import(f"oci:{layout}", options) as plan:
        assert plan.name == "app:latest"
        image = plan.image
        assert (image.kind, image.disk_format, image.disk_virtual_bytes) == (
            ImageKind.CONTAINER,
            "qcow2",
            10 << 30,
        )
        assert (image.kernel, image.initrd, image.cmdline) == (KERNEL.kernel, KERNEL.initrd, "quiet")
        assert image.process is not None and image.process.exposed_ports == ("80/tcp",)
        ((blob, path),) = plan.files
        assert image.disk == blob and path.stat().st_size == blob.size_bytes


def test_a_cluster_without_the_kernel(layout: Path) -> None:
    with pytest.raises(VdcError) as caught, plan_import(f"oci:{layout}"):
        pass
    assert caught.value.code == "container-kernel-missing" and "vdc image import" in caught.value.problem.hint


def test_archives(layout: Path, tmp_path: Path) -> None:
    archive = oci_archive(layout, tmp_path / "app.tar")
    assert isinstance(fetched(f"oci-archive:{archive}"), ContainerFiles)
    saved = docker_archive([LAYER], tmp_path / "saved.tar", tag="team/app:1", config=CONFIG)
    assert isinstance(fetched(f"docker-archive:{saved}"), ContainerFiles)
    subprocess.run(["gzip", "-1", "-k", saved], check=True, timeout=60)
    assert isinstance(fetched(f"docker-archive:{saved}.gz"), ContainerFiles)
    assert error_of(f"docker-archive:{saved}:team/app:2").code == "image-not-in-source"
    for path in (archive, saved):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert error_of(f"oci-archive:{archive}").code in (
        "image-damaged",
        "registry-unreachable",
        "image-not-in-source",
    )
    assert error_of(f"docker-archive:{saved}").code in (
        "image-damaged",
        "registry-unreachable",
        "image-not-in-source",
    )


def test_a_disk_in_a_container_image(tmp_path: Path) -> None:
    raw = os.urandom(510) + b"\x55\xaa" + bytes(MIB - 512)
    layer = tar_of(folder("disk"), entry("disk/vm.img", raw, uid=107, gid=107))
    layout = build_oci_image(layer, tmp_path / "carrier")
    with plan_import(f"oci:{layout}", ImportOptions(find_image=lambda _: KERNEL)) as plan:
        assert plan.image.kind is ImageKind.DISK and plan.image.disk_virtual_bytes == MIB
        assert plan.image.process is None and any("vm.img" in note for note in plan.notes)
    program = build_oci_image([layer, LAYER], tmp_path / "program", config=CONFIG)
    with plan_import(f"oci:{program}", ImportOptions(find_image=lambda _: KERNEL)) as plan:
        assert plan.image.kind is ImageKind.CONTAINER
    with plan_import(f"oci:{program}", ImportOptions(is_container_disk=True)) as plan:
        assert plan.image.kind is ImageKind.DISK
    assert (
        error_of(f"oci:{build_oci_image(LAYER, tmp_path / 'none')}", is_disk=True).code
        == "container-disk-missing"
    )


def test_a_layout_whose_files_are_not_what_they_are_called(tmp_path: Path) -> None:
    for number, part in enumerate(("layers", "config")):
        layout = build_oci_image(LAYER, tmp_path / part, config=CONFIG)
        (wanted,) = json.loads((layout / "index.json").read_text())["manifests"]
        manifest = json.loads((layout / "blobs/sha256" / wanted["digest"][7:]).read_text())
        descriptor = manifest["layers"][0] if part == "layers" else manifest["config"]
        path = layout / "blobs/sha256" / descriptor["digest"][7:]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        assert error_of(f"oci:{layout}").code in ("image-digest-mismatch", "image-damaged"), number


@pytest.mark.parametrize("is_compressed", [True, False])
def test_layers_that_the_configuration_does_not_know(tmp_path: Path, is_compressed: bool) -> None:
    rootfs = {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "c" * 64]}}
    layout = build_oci_image(LAYER, tmp_path / "image", described=rootfs, is_compressed=is_compressed)
    assert error_of(f"oci:{layout}").code == "image-digest-mismatch"


@pytest.mark.parametrize("program", ["gzip", "zstd"])
def test_a_layer_that_cannot_be_unpacked(program: str, tmp_path: Path) -> None:
    whole = subprocess.run([program, "-c"], input=LAYER, capture_output=True, check=True, timeout=60).stdout
    for number, content in enumerate((whole, whole[: len(whole) // 2])):
        diff_ids = {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(LAYER).hexdigest()]}}
        layout = build_oci_image(content, tmp_path / str(number), described=diff_ids, is_compressed=False)
        if number == 0:
            assert isinstance(fetched(f"oci:{layout}"), ContainerFiles)
        else:
            assert error_of(f"oci:{layout}").code in ("image-unsafe", "image-digest-mismatch")


@pytest.mark.skipif(not can_mount(), reason="needs root (mount)")
def test_a_disk_that_fills_up_half_way(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=90m", "tmpfs", str(small)], check=True, timeout=10)
    monkeypatch.setenv("TMPDIR", str(small))
    try:
        layout = build_oci_image(tar_of(entry("zeros", bytes(60 * MIB))), tmp_path / "image")
        error = error_of(f"oci:{layout}")
        assert error.code == "no-space" and not list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True, timeout=10)
