"""What a container image says of itself: its program, its layers, the disk that it may carry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vdc.images.filetree import Kind, Node
from vdc.images.oci.configuration import read_contents, to_process
from vdc.images.oci.container_disk import find_disk
from vdc.images.oci.layers import Layer
from vdc.model.errors import InvalidError
from vdc.model.process import ImageProcess

DIGEST = "sha256:" + "a" * 64


def test_a_program(tmp_path: Path) -> None:
    process = to_process(
        {
            "Entrypoint": ["/docker-entrypoint.sh"], "Cmd": "redis-server", "Env": ["A=b=c", "B=", "nothing", "=x"],
            "WorkingDir": "data", "User": "999:999", "StopSignal": "sigquit", "Labels": {"a": "b"},
            "ExposedPorts": {"6379/tcp": {}, "53/UDP": {}, "80": {}, "90-91/tcp": {}}, "Volumes": {"/data": {}},
            "OnBuild": ["x"], "Shell": None,
        }
    )  # fmt: skip
    assert process == ImageProcess(
        entrypoint=("/docker-entrypoint.sh",), cmd=("redis-server",), env=("A=b=c", "B="), working_dir="/data",
        user="999:999", stop_signal="SIGQUIT", exposed_ports=("53/udp", "6379/tcp", "80/tcp", "90/tcp", "91/tcp"),
        volumes=("/data",),
    )  # fmt: skip
    assert to_process({}) == ImageProcess()
    assert to_process({"Entrypoint": None, "Env": None, "Volumes": None}) == ImageProcess()


@pytest.mark.parametrize(
    "config",
    [
        {"Cmd": [1]},
        {"Cmd": {"a": 1}},
        {"Cmd": ["a\0b"]},
        {"Cmd": ["\ud800"]},
        {"User": "\udfff"},
        {"Volumes": {"/\udfff": {}}},
        {"Env": ["A=" + "x" * 300_000]},
        {"Cmd": ["x"] * 5000},
        {"User": 5},
        {"User": "a\nb"},
        {"WorkingDir": "x" * 5000},
        {"StopSignal": "rm -rf"},
        {"ExposedPorts": {"x": {}}},
        {"ExposedPorts": {"70000": {}}},
        {"ExposedPorts": ["80"]},
        {"ExposedPorts": {"1-65535": {}}},
        {"Volumes": {"relative": {}}},
        {"Volumes": {"/a/../b": {}}},
    ],
)
def test_a_program_that_makes_no_sense(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidError) as caught:
        to_process(config)
    assert caught.value.code == "image-damaged"


def fetched(folder: Path, **changes: Any) -> Path:
    """A folder as skopeo leaves it."""
    folder.mkdir(parents=True)
    described = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [DIGEST]}, **changes}
    (folder / ("b" * 64)).write_text(json.dumps(described))
    manifest = {"config": {"digest": "sha256:" + "b" * 64}, "layers": [{"digest": DIGEST}]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_contents(tmp_path: Path) -> None:
    config = {"Cmd": ["/x"], "Healthcheck": {"Test": ["CMD", "x"]}}
    contents = read_contents(fetched(tmp_path / "a", config=config))
    assert contents.layers == (Layer(tmp_path / "a" / ("a" * 64), "a" * 64),) and contents.process.cmd == (
        "/x",
    )
    assert "HEALTHCHECK" in contents.notes[0]
    assert read_contents(fetched(tmp_path / "b", config={"Healthcheck": {"Test": ["NONE"]}})).notes == ()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"architecture": "arm64"}, "image-arch-unsupported"),
        ({"os": "windows"}, "image-arch-unsupported"),
        ({"architecture": None}, "image-arch-unsupported"),
        ({"rootfs": {"diff_ids": []}}, "image-damaged"),
        ({"rootfs": {"diff_ids": ["../../etc/passwd"]}}, "image-damaged"),
        ({"rootfs": None}, "image-damaged"),
        ({"config": []}, "image-damaged"),
        ({"config": "x"}, "image-damaged"),
    ],
)
def test_contents_that_make_no_sense(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    if changes == {"config": []}:
        changes = {"config": [1]}
    with pytest.raises(InvalidError) as caught:
        read_contents(fetched(tmp_path / "x", **changes))
    assert caught.value.code == code


def test_what_a_tool_that_was_taken_over_may_leave(tmp_path: Path) -> None:
    folder = fetched(tmp_path / "x")
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("/etc/passwd")
    with pytest.raises(InvalidError):
        read_contents(folder)
    for content in ("{", "[" * 100_000, "x" * (9 << 20), "[]"):
        (folder / "manifest.json").unlink()
        (folder / "manifest.json").write_text(content)
        with pytest.raises(InvalidError):
            read_contents(folder)


# ---- disks in container images


def test_container_disks_are_told_from_programs() -> None:
    file = Node(Kind.FILE, size=3)
    carrier = Node(Kind.FOLDER, children={b"disk": Node(Kind.FOLDER, children={b"vm.qcow2": file})})
    program = ImageProcess(entrypoint=("/x",))
    assert find_disk(carrier, ImageProcess(), is_wanted=False) == ("vm.qcow2", file)
    assert find_disk(carrier, program, is_wanted=False) is None
    assert find_disk(carrier, program, is_wanted=True) == ("vm.qcow2", file)
    carrier.children[b"etc"] = Node(Kind.FOLDER)
    assert find_disk(carrier, ImageProcess(), is_wanted=False) is None
    assert find_disk(carrier, ImageProcess(), is_wanted=True) == ("vm.qcow2", file)
    carrier.children[b"disk"].children[b"second"] = file
    for root in (carrier, Node(Kind.FOLDER), Node(Kind.FOLDER, children={b"disk": file})):
        assert find_disk(root, ImageProcess(), is_wanted=False) is None
        with pytest.raises(InvalidError) as caught:
            find_disk(root, ImageProcess(), is_wanted=True)
        assert caught.value.code == "container-disk-missing"
