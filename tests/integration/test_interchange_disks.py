"""Disks of other systems through the real qemu-img: chains, older states, devices. The originals stay as they are."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vdc.confinement.roots import runtime_root
from vdc.images.sources import ImportPlan
from vdc.interchange.contents import Content, find_contents, plan_content
from vdc.interchange.disks import DiskFile
from vdc.interchange.incoming import DiskToImport
from vdc.model.errors import RefusedError, VdcError
from vdc.model.units import MIB

SIZE = 8 * MIB


def missing() -> str:
    if runtime_root() is None:
        return "needs the runtime root (make setup)"
    return "" if shutil.which("bwrap") else "needs bwrap"


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


def qemu(tool: str, *arguments: str) -> str:
    root = runtime_root()
    assert root is not None
    sandbox = [
        "bwrap",
        "--ro-bind",
        str(root),
        "/",
        "--dev-bind",
        "/dev",
        "/dev",
        "--proc",
        "/proc",
        "--bind",
        "/tmp",
        "/tmp",
    ]
    done = subprocess.run(
        [*sandbox, tool, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(path: Path, form: str, *places: int) -> None:
    """A MiB of its own number at each of these places."""
    words = [word for place in places for word in ("-c", f"write -P {place} {place}M 1M")]
    qemu("qemu-io", "-f", form, *words, str(path))


def content_of(plan: ImportPlan, folder: Path) -> bytes:
    """What a guest would see of the image's disk."""
    (_, path), target = plan.files[0], folder / "seen.raw"
    local = folder / "copy"
    shutil.copyfile(path, local)
    qemu("qemu-img", "convert", "-f", plan.image.disk_format, "-O", "raw", str(local), str(target))
    return target.read_bytes()


def expected(*places: int) -> bytes:
    return b"".join(bytes([place if place in places else 0]) * MIB for place in range(SIZE // MIB))


def state_of(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.iterdir()
    }


def found(path: Path, form: str = "qcow2", *backing: Path, stated: tuple[DiskFile, ...] = ()) -> Content:
    disk = DiskToImport("devices/disk", "imported/web:latest", DiskFile(str(path), form), stated)
    return find_contents([disk], backing)[0]


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """top.qcow2 over middle.qcow2 over base.raw, each with something of its own."""
    folder = tmp_path / "images"
    folder.mkdir()
    qemu("qemu-img", "create", "-q", "-f", "raw", str(folder / "base.raw"), str(SIZE))
    write(folder / "base.raw", "raw", 1, 2)
    for upper, lower, form, place in (("middle", "base.raw", "raw", 3), ("top", "middle.qcow2", "qcow2", 4)):
        name = f"{folder}/{upper}.qcow2"
        qemu("qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", lower, name)
        write(Path(name), "qcow2", place)
    return folder


def test_a_chain_becomes_one_disk_and_stays_a_chain(chain: Path, tmp_path: Path) -> None:
    before, told = state_of(chain), []
    content = found(chain / "top.qcow2")
    assert [link.path.name for link in content.links] == ["top.qcow2", "middle.qcow2", "base.raw"]
    with plan_content(content, lambda what, done, total: told.append((what, done, total))) as plan:
        assert content_of(plan, tmp_path) == expected(1, 2, 3, 4)
        assert (plan.image.disk_virtual_bytes, plan.image.disk_format) == (SIZE, "qcow2")
        copy = plan.files[0][1]
    assert not copy.exists()
    assert any(what == "copying top.qcow2" and done == total for what, done, total in told)
    assert state_of(chain) == before


def test_what_only_root_may_read_is_copied_too(chain: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for path in chain.iterdir():
        path.chmod(0o600)
    chain.chmod(0o700)
    with plan_content(found(chain / "top.qcow2"), lambda *_: None) as plan:
        assert content_of(plan, tmp_path) == expected(1, 2, 3, 4)


def test_a_file_elsewhere_has_to_be_named(chain: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.raw"
    (chain / "base.raw").rename(elsewhere)
    qemu(
        "qemu-img",
        "rebase",
        "-u",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        str(elsewhere),
        str(chain / "middle.qcow2"),
    )
    with pytest.raises(RefusedError) as caught:
        found(chain / "top.qcow2")
    assert caught.value.code == "backing-refused" and str(elsewhere) in str(caught.value)
    for content in (
        found(chain / "top.qcow2", "qcow2", elsewhere),
        found(chain / "top.qcow2", stated=(DiskFile(str(elsewhere), "raw"),)),
    ):
        with plan_content(content, lambda *_: None) as plan:
            assert content_of(plan, tmp_path) == expected(1, 2, 3, 4)


def test_older_states_are_left_out(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", str(disk), str(SIZE))
    write(disk, "qcow2", 1)
    qemu("qemu-img", "snapshot", "-c", "before", str(disk))
    write(disk, "qcow2", 2)
    content = found(disk)
    assert content.is_flattened
    with plan_content(content, lambda *_: None) as plan:
        assert content_of(plan, tmp_path) == expected(1, 2)
    assert "before" in qemu("qemu-img", "snapshot", "-l", str(disk))


def test_a_plain_file_is_taken_as_it_is(chain: Path) -> None:
    content = found(chain / "base.raw", "raw")
    assert not content.is_flattened
    with plan_content(content, lambda *_: None) as plan:
        assert plan.image.disk_virtual_bytes == SIZE


@pytest.fixture
def device(chain: Path) -> Iterator[Path]:
    """base.raw as a block device."""
    done = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", str(chain / "base.raw")],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"needs a loop device: {done.stderr.strip()}")
    path = Path(done.stdout.strip())
    yield path
    subprocess.run(["losetup", "--detach", str(path)], check=True)


def test_a_block_device_is_copied(device: Path, tmp_path: Path) -> None:
    content = found(device, "raw")
    assert content.is_flattened and content.links[0].size_bytes == SIZE
    with plan_content(content, lambda *_: None) as plan:
        assert content_of(plan, tmp_path) == expected(1, 2)
        assert plan.files[0][0].size_bytes < SIZE  # what is empty on the device takes no room


def test_a_chain_that_qemu_finds_broken_leaves_nothing(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    scratch.chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(scratch))
    with (chain / "top.qcow2").open("r+b") as file:
        file.seek(3 << 16)  # its L1 table
        file.write(b"\x7f" * 64)
    with pytest.raises(VdcError) as caught, plan_content(found(chain / "top.qcow2"), lambda *_: None):
        pass
    assert caught.value.code == "image-tool-failed"
    assert list(scratch.iterdir()) == []
