"""Images pushed to a real registry, a layout and an archive by the real skopeo, and imported from there again."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from vdc.confinement.roots import holds, runtime_root
from vdc.images.oci.push import Push, parse_destination
from vdc.images.oci.pushed import members
from vdc.images.oci.registries import RegistryOptions
from vdc.images.sources import ImportOptions, plan_import
from vdc.model.errors import VdcError
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.process import ImageProcess
from vdc.model.units import MIB

pytestmark = [
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bwrap: make packages"),
    pytest.mark.skipif(
        not holds(runtime_root(), "skopeo") and shutil.which("skopeo") is None,
        reason="no skopeo: make runtime",
    ),
]
NEAR = RegistryOptions(is_insecure=True)


def blob(content: bytes) -> Blob:
    return Blob(digest="sha256:" + hashlib.sha256(content).hexdigest(), size_bytes=len(content))


@pytest.fixture(params=["qcow2", "raw", "kernel", "container"])
def image(request: pytest.FixtureRequest) -> tuple[Image, dict[str, bytes]]:
    """An image, and the content of its blobs."""
    disk = b"\xeb".ljust(510, b"\0") + b"\x55\xaa" + random.Random(7).randbytes(3 * MIB) + bytes(5 * MIB)
    kernel, initrd = b"kernel" * 5000, b"initrd" * 3
    made = {
        "qcow2": Image(kind=ImageKind.DISK, disk=blob(disk), disk_virtual_bytes=64 * MIB),
        "raw": Image(kind=ImageKind.DISK, disk=blob(disk), disk_format="raw", disk_virtual_bytes=len(disk)),
        "kernel": Image(kind=ImageKind.KERNEL, kernel=blob(kernel), initrd=blob(initrd), cmdline="quiet"),
        "container": Image(
            kind=ImageKind.CONTAINER, disk=blob(disk), kernel=blob(kernel), initrd=blob(initrd),
            process=ImageProcess(cmd=("/bin/true",)),
        ),
    }  # fmt: skip
    return made[request.param], {blob(content).digest: content for content in (disk, kernel, initrd)}


def push(image: tuple[Image, dict[str, bytes]], destination: str, options: RegistryOptions = NEAR) -> None:
    described, contents = image
    with Push(parse_destination(destination), options, described).prepared() as work:
        with work.layout.new_layer() as (writer, path):
            for name, part in members(described).items():
                writer.begin(name, part.size_bytes)
                writer.write(contents[part.digest])
            layer = writer.finish()
            writer.close()
            work.layout.add(described, layer, path, work.tag)
        work.finish()


def assert_comes_back(image: tuple[Image, dict[str, bytes]], source: str) -> None:
    described, contents = image
    with plan_import(source, ImportOptions(name="me/again", registry=NEAR)) as plan:
        assert plan.image == described
        assert {part.digest for part, _ in plan.files} == {part.digest for part in described.blobs}
        for part, path in plan.files:
            assert path.read_bytes() == contents[part.digest]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    if shutil.which("docker-registry") is None:
        pytest.skip("no docker-registry")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\nlog: {{level: error}}\n"
    )
    process = subprocess.Popen(["docker-registry", "serve", str(config)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_by_a_registry(image: tuple[Image, dict[str, bytes]], registry: str) -> None:
    place = f"docker://{registry}/me/image:1"
    push(image, place)
    assert_comes_back(image, place)


def test_by_a_layout(image: tuple[Image, dict[str, bytes]], tmp_path: Path) -> None:
    push(image, f"oci:{tmp_path}/layout:1")
    assert_comes_back(image, f"oci:{tmp_path}/layout:1")


def test_by_an_archive(image: tuple[Image, dict[str, bytes]], tmp_path: Path) -> None:
    push(image, f"oci-archive:{tmp_path}/image.tar:1")
    assert_comes_back(image, f"oci-archive:{tmp_path}/image.tar:1")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "vdc"))] == []


def test_one_whose_files_were_changed_is_refused(
    image: tuple[Image, dict[str, bytes]], tmp_path: Path
) -> None:
    described, contents = image
    first = described.blobs[0]
    other = {**contents, first.digest: bytes(reversed(contents[first.digest]))}
    push((described, other), f"oci:{tmp_path}/layout:1")
    with (
        pytest.raises(VdcError) as caught,
        plan_import(f"oci:{tmp_path}/layout:1", ImportOptions(name="me/x")),
    ):
        pass
    assert caught.value.code == "image-damaged"


def test_kubevirt_finds_the_disk(tmp_path: Path) -> None:
    """One file below /disk, that QEMU's user may read."""
    if shutil.which("umoci") is None:
        pytest.skip("no umoci")
    content = b"QFI\xfb" + bytes(100_000)
    image = Image(kind=ImageKind.DISK, disk=blob(content), disk_virtual_bytes=64 * MIB)
    push((image, {blob(content).digest: content}), f"oci:{tmp_path}/layout:1")
    out = tmp_path / "bundle"
    subprocess.run(
        ["umoci", "unpack", "--rootless", "--image", f"{tmp_path}/layout:1", str(out)],
        check=True, timeout=60, capture_output=True,
    )  # fmt: skip
    (disk,) = (out / "rootfs/disk").iterdir()
    assert disk.read_bytes() == content and disk.name == "disk.qcow2"
    assert json.loads((out / "config.json").read_text())["ociVersion"]


def test_a_registry_that_is_not_there_is_told_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"kernel"
    image = Image(kind=ImageKind.KERNEL, kernel=blob(content))
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setenv("TMPDIR", folder)
        with pytest.raises(VdcError) as caught:
            push((image, {blob(content).digest: content}), "docker://127.0.0.1:1/me/image:1")
        assert caught.value.code == "registry-unreachable"
        assert list(Path(folder).iterdir()) == []
