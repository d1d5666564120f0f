"""`vdc image` against the real API of one host, with a store in memory."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_agent import Agent, running_agent
from cli_support import Capture, vdc

from vdc.api.context import put_context
from vdc.cli.completing import complete_image
from vdc.images.oci.pushed import read_description
from vdc.model.manifest import Firmware

SECTOR = b"\xeb".ljust(510, b"\0") + b"\x55\xaa"


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    with running_agent(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(SECTOR * 4096)
    return path


def digest_of(capsys: Capture, name: str) -> str:
    return str(json.loads(vdc(capsys, "image", "describe", name, "-o", "json")[1])["digest"])


def test_an_image_has_names_a_source_and_users(agent: Agent, capsys: Capture, disk: Path) -> None:
    for name in ("me/disk:1", "me/disk:2"):
        assert vdc(capsys, "image", "import", str(disk), "--name", name)[0] == 0
    shown = json.loads(vdc(capsys, "image", "describe", "me/disk:1", "-o", "json")[1])
    assert shown["names"] == ["me/disk:1", "me/disk:2"] and shown["source"] == str(disk)
    assert shown["size_bytes"] == 2**21 and shown["hosts"] == ["h1"] and shown["used_by"] == []
    text = vdc(capsys, "image", "describe", shown["digest"])[1]
    assert f"{disk}\n" in text and "2MiB" in text
    assert "web" in vdc(capsys, "image", "describe", "mycelium/mini")[1]


def test_an_image_in_use_keeps_its_last_name(agent: Agent, capsys: Capture) -> None:
    code, _, err = vdc(capsys, "image", "rm", "mycelium/mini")
    assert code == 1
    assert "is used by web" in err and "image-in-use" in err and "vdc delete endophyte web" in err
    assert "mycelium/mini:latest" in vdc(capsys, "image", "ls")[1]


def test_one_name_of_several_goes_and_all_by_the_digest(agent: Agent, capsys: Capture, disk: Path) -> None:
    for name in ("me/disk:1", "me/disk:2", "me/disk:3"):
        vdc(capsys, "image", "import", str(disk), "--name", name)
    assert vdc(capsys, "image", "rm", "me/disk:2")[:2] == (0, "image/me/disk:2 removed\n")
    digest = digest_of(capsys, "me/disk:1")
    assert vdc(capsys, "image", "rm", digest)[0] == 0
    assert "me/disk" not in vdc(capsys, "image", "ls")[1]
    assert vdc(capsys, "image", "rm", "me/disk:1")[0] == 1


def test_pruning_says_what_it_does_and_does_it(agent: Agent, capsys: Capture, disk: Path) -> None:
    vdc(capsys, "image", "import", str(disk), "--name", "me/disk")
    assert "me/disk" not in vdc(capsys, "image", "prune")[1]
    code, out, _ = vdc(capsys, "image", "prune", "--all", "--dry-run")
    assert code == 0 and out.splitlines()[0] == "would remove image/me/disk:latest (2MiB)"
    assert "mycelium/mini" not in out and "h2 was not tidied up" in out
    assert "me/disk:latest" in vdc(capsys, "image", "ls")[1]
    report = json.loads(vdc(capsys, "image", "prune", "--all", "-o", "json")[1])
    assert [image["names"] for image in report["images"]] == [["me/disk:latest"]]
    assert report["size_bytes"] == 2**21
    assert "me/disk" not in vdc(capsys, "image", "ls")[1]


def test_names_are_completed(agent: Agent, capsys: Capture, disk: Path) -> None:
    vdc(capsys, "image", "import", str(disk), "--name", "me/disk")
    nothing: Any = None
    assert complete_image(nothing, nothing, "") == ["me/disk:latest", "mycelium/mini:latest"]
    assert complete_image(nothing, nothing, "me/") == ["me/disk:latest"]
    assert len(complete_image(nothing, nothing, "sha256:")) == 2
    put_context("test", ["unix:///nowhere.sock"])
    assert complete_image(nothing, nothing, "") == []


def manifest(folder: Path, image: str) -> Path:
    path = folder / "vm.yaml"
    path.write_text(
        "apiVersion: mycelium.network/v1\nkind: Endophyte\nmetadata: {name: mine}\n"
        f"spec: {{image: '{image}', resources: {{memory: 128MiB}}}}\n"
    )
    return path


def test_a_manifest_names_a_file_beside_it(agent: Agent, capsys: Capture, disk: Path) -> None:
    path = manifest(disk.parent, "file:disk.img")
    assert vdc(capsys, "apply", "-f", str(path))[:2] == (0, "endophyte/mine created\n")
    assert vdc(capsys, "apply", "-f", str(path))[1] == "endophyte/mine unchanged\n"
    view = json.loads(vdc(capsys, "get", "ep", "mine", "-o", "json")[1])
    name = view["spec"]["image"]
    assert name.startswith("file/disk:") and len(agent.blobs) == 1
    assert json.loads(vdc(capsys, "image", "describe", name, "-o", "json")[1])["used_by"] == ["mine"]
    disk.write_bytes(SECTOR * 8192)
    code, _, err = vdc(capsys, "apply", "-f", str(path))
    assert code == 1 and "immutable-field" in err, "another content is another image"


def test_a_dry_run_sends_nothing(agent: Agent, capsys: Capture, disk: Path) -> None:
    code, _, err = vdc(capsys, "apply", "--dry-run", "-f", str(manifest(disk.parent, "file:disk.img")))
    assert code == 1 and "image-not-found" in err
    assert agent.blobs == ()


@pytest.mark.parametrize("image", ["file:absent.img", "file:", "file:vm.yaml"])
def test_a_file_that_is_no_disk_is_told(agent: Agent, capsys: Capture, disk: Path, image: str) -> None:
    assert vdc(capsys, "apply", "-f", str(manifest(disk.parent, image)))[0] == 1
    assert agent.blobs == ()


def test_a_manifest_names_an_image_by_its_digest(agent: Agent, capsys: Capture, disk: Path) -> None:
    vdc(capsys, "image", "import", str(disk), "--name", "me/disk")
    digest = digest_of(capsys, "me/disk")
    assert vdc(capsys, "apply", "-f", str(manifest(disk.parent, digest)))[0] == 0
    vdc(capsys, "image", "import", str(disk), "--name", "me/other")
    assert vdc(capsys, "image", "rm", "me/other")[0] == 0
    assert vdc(capsys, "image", "rm", "me/disk")[0] == 1
    absent = "sha256:" + "9" * 64
    code, _, err = vdc(capsys, "create", "more", "--image", absent)
    assert code == 1 and f"image {absent} is not in this cluster" in err


def test_an_image_is_pushed_to_an_archive(agent: Agent, capsys: Capture, disk: Path, tmp_path: Path) -> None:
    vdc(capsys, "image", "import", str(disk), "--name", "me/disk", "--firmware", "bios")
    target = tmp_path / "out" / "disk.tar"
    target.parent.mkdir()
    code, out, _ = vdc(capsys, "image", "push", "me/disk", f"oci-archive:{target}:1")
    digest = digest_of(capsys, "me/disk")
    assert (code, out) == (0, f"image/me/disk:latest pushed to oci-archive:{target}:1 ({digest})\n")
    assert [path.name for path in target.parent.iterdir()] == ["disk.tar"]
    with tarfile.open(target) as tar:
        members = {info.name: tar.extractfile(info) for info in tar if info.isfile()}
        index = json.load(members["index.json"])  # type: ignore[arg-type]
        manifest_ = json.load(members[_blob(index["manifests"][0])])  # type: ignore[arg-type]
        config = json.load(members[_blob(manifest_["config"])])  # type: ignore[arg-type]
    image = read_description(config)
    assert image is not None and image.firmware is Firmware.BIOS


def _blob(descriptor: dict[str, str]) -> str:
    return f"blobs/{descriptor['digest'].replace(':', '/')}"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("push", "me/absent", "oci:/tmp/x"), 1),
        (("push", "mycelium/mini", "elsewhere"), 2),
        (("push", "mycelium/mini", "oci:"), 2),
        (("push", "mycelium/mini", "oci-archive:x:not a tag"), 2),
        (("push", "mycelium/mini", "docker://me/x@sha256:" + "0" * 64), 2),
        (("rm", "Not A Name"), 2),
        (("prune", "more"), 2),
    ],
)
def test_what_makes_no_sense_is_refused(
    agent: Agent, capsys: Capture, arguments: tuple[str, ...], code: int
) -> None:
    found, out, err = vdc(capsys, "image", *arguments)
    assert (found, out) == (code, "") and err
