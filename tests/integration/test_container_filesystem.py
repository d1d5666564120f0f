"""Layers become a file system: what the kernel sees in it is what umoci unpacks, and what an image says."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from container_import import NEEDS
from filesystem_support import LIMITS, Seen, as_raw, can_mount, complaints_about, mounted, see

from tests.oci_layout import build_oci_image, entry, folder, link, tar_of
from vdc.confinement.sandbox import Bind
from vdc.images.ext4.build import build_disk
from vdc.images.oci.importing import ContainerFiles, add_mount_points, import_container, merge
from vdc.images.oci.registries import RegistryOptions
from vdc.images.oci.source import parse_source
from vdc.images.progress import untold
from vdc.images.scratch import Scratch
from vdc.images.tool import Tool, run_tool
from vdc.model.errors import InvalidError
from vdc.model.units import GIB, MIB

pytestmark = NEEDS
needs_mount = pytest.mark.skipif(not can_mount(), reason="needs root and loop devices")
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *one)
    for one in ((1, 6, 2**32 - 1), (2, 4, 1000), (4, 4, 2**32 - 1), (16, 6, 2**32 - 1), (32, 4, 2**32 - 1))
)
MOUNT_POINTS = {b"dev", b"proc", b"run", b"sys", b"tmp"}


def pax(**xattrs: bytes) -> dict[str, Any]:
    """Extended attributes as tarfile takes them; `_` stands for the dot."""
    return {
        "pax_headers": {
            f"SCHILY.xattr.{name.replace('_', '.', 1)}": value.decode("utf-8", "surrogateescape")
            for name, value in xattrs.items()
        }
    }


def disk_of(layers: Sequence[bytes], folder_: Path, name: str = "disk.qcow2") -> Path:
    """A disk of layers, without an image around them."""
    with Scratch(below=folder_) as scratch, ExitStack() as opened:
        descriptors = []
        for number, layer in enumerate(layers):
            (folder_ / f"layer-{number}").write_bytes(layer)
            descriptors.append(opened.enter_context((folder_ / f"layer-{number}").open("rb")).fileno())
        root = merge(descriptors)
        add_mount_points(root)
        disk = build_disk(root, descriptors, scratch, "test", untold)
        return disk.path.rename(folder_ / name)


def image_of(layers: Sequence[bytes], folder_: Path, **options: Any) -> ContainerFiles:
    build_oci_image(list(layers), folder_ / "image", **options)
    with ExitStack() as owned:
        made = import_container(parse_source(f"oci:{folder_}/image"), RegistryOptions(), owned, untold)
        assert isinstance(made, ContainerFiles)
        kept = folder_ / "image.qcow2"
        made.path.rename(kept)
        return dataclasses.replace(made, path=kept)


SETUID = {
    "mode": 0o4755,
    "uid": 3_000_000,
    "gid": 70_000,
    "mtime": 2**33,
    **pax(security_capability=CAPABILITY),
}
RICH = tar_of(
    folder(".", mode=0o751, uid=7, gid=8, mtime=99),
    folder("d", mode=0o1777, mtime=1_700_000_000),
    entry("d/setuid", b"x" * 5000, **SETUID),
    link("d/again", "d/setuid", hard=True, mode=0o600),
    entry("d/acl", b"", **pax(**{"system_posix_acl_access": ACL, "user_one": b"1", "trusted_two": b"2" * 300})),
    entry("d/empty"),
    link("d/short", "../x"),
    link("d/long", "/" + "t" * 4000),
    entry("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
    entry("disk", kind=tarfile.BLKTYPE, devmajor=259, devminor=70_000),
    entry("pipe", kind=tarfile.FIFOTYPE, mode=0o620, gid=5),
    entry("n" * 255, b"long"),
    folder("proc", mode=0o700),
    entry("proc/hidden", b"under a mount"),
    entry("lost+found", b"a file of this name"),
)  # fmt: skip


@needs_mount
def test_everything_that_a_file_can_be(tmp_path: Path) -> None:
    odd = tar_of(entry(b"d/\xff\xfe \n\"'", b"odd"), pax=False)
    disk = disk_of([RICH, odd], tmp_path)
    complaints_about(disk, tmp_path)
    with mounted(disk, tmp_path) as place:
        seen = see(place)
    assert (seen[b"."].mode, seen[b"."].uid, seen[b"."].gid) == (0o40751, 7, 8)
    setuid = seen[b"d/setuid"]
    assert (setuid.mode, setuid.uid, setuid.gid) == (0o104755, 3_000_000, 70_000)
    assert setuid.mtime_ns == 2**33 * 10**9 and setuid.xattrs == (("security.capability", CAPABILITY),)
    assert setuid.names == (b"d/again", b"d/setuid")
    acl = dict(seen[b"d/acl"].xattrs)
    assert acl == {"system.posix_acl_access": ACL, "user.one": b"1", "trusted.two": b"2" * 300}
    assert seen[b"d/short"].content == "../x" and seen[b"d/long"].content == "/" + "t" * 4000
    assert (seen[b"null"].mode, seen[b"null"].device) == (0o20666, (1, 3))
    assert (seen[b"disk"].mode, seen[b"disk"].device) == (0o60644, (259, 70_000))
    assert (seen[b"pipe"].mode, seen[b"pipe"].gid) == (0o10620, 5)
    assert seen[b"d"].mode == 0o41777 and seen[b"d"].mtime_ns == 1_700_000_000 * 10**9
    assert seen[b"d/\xff\xfe \n\"'"].content.endswith(" 3") and seen[b"n" * 255].content.endswith(" 4")
    assert seen[b"proc/hidden"].content.endswith(" 13") and seen[b"proc"].mode == 0o40700
    assert seen[b"lost+found"].mode == 0o100644
    assert not MOUNT_POINTS - seen.keys()
    assert seen[b"tmp"].mode == 0o41777 and seen[b"sys"].mode == 0o40555


def test_what_debugfs_says(tmp_path: Path) -> None:
    """As above, where nothing may be mounted."""
    raw = as_raw(disk_of([RICH], tmp_path), tmp_path)

    def ask(question: str) -> str:
        tool = Tool(("debugfs", "-R", question, "/run/input"), LIMITS, 60, (Bind(raw, "/run/input"),))
        return run_tool(tool).decode()

    said = ask("stat d/setuid")
    assert "Mode:  04755" in said and "User: 3000000   Group: 70000" in said and "Links: 2" in said
    assert ask("stat d/again").splitlines()[0] == said.splitlines()[0]
    assert "security.capability (20)" in ask("ea_list d/setuid")
    assert "trusted.two (300)" in ask("ea_list d/acl")
    assert "character special" in ask("stat null") and "01:03" in ask("stat null")
    assert ask("cat proc/hidden") == "under a mount"


def some_layers(seed: int) -> list[bytes]:
    """Layers that a builder could have made: nothing is changed twice in one of them."""
    chance = random.Random(seed)
    names = [f"{one}{two}" for one in "ab" for two in ("", "x", "y", "é" * 60)]
    folders, files = {""}, set()
    layers = []
    for number in range(chance.randint(1, 4)):
        entries: list[Any] = []
        touched: set[str] = set()
        for step in range(chance.randint(3, 25)):
            parent = chance.choice(sorted(folders))
            path = f"{parent}/{chance.choice(names)}".lstrip("/")
            if any(
                path == one or one.startswith(path + "/") or path.startswith(one + "/") for one in touched
            ):
                continue
            fields: dict[str, Any] = {
                "mode": chance.choice([0o644, 0o755, 0o4711, 0o2750]), "uid": chance.choice([0, 33, 100_000]),
                "gid": chance.choice([0, 5]), "mtime": chance.randint(1, 2**31),
            }  # fmt: skip
            what = chance.choice(
                ["file", "file", "big", "folder", "folder", "soft", "hard", "gone", "opaque", "attr"]
            )
            is_there = path in folders or path in files
            if what == "gone" and is_there:
                entries.append(entry(f"{parent}/.wh.{path.rpartition('/')[2]}".lstrip("/")))
                folders = {one for one in folders if one != path and not one.startswith(path + "/")}
                files = {one for one in files if one != path and not one.startswith(path + "/")}
            elif what == "opaque" and path in folders:
                entries += [folder(path, **fields), entry(f"{path}/.wh..wh..opq")]
                folders = {one for one in folders if not one.startswith(path + "/")}
                files = {one for one in files if not one.startswith(path + "/")}
            elif what == "folder" and path not in files:
                entries.append(folder(path, **fields))
                folders.add(path)
                continue  # what is in it may be touched
            elif what in ("file", "big", "attr", "soft", "hard") and path not in folders:
                content = f"{seed} {number} {step}".encode() * (30_000 if what == "big" else 1)
                present = sorted(files - touched - {path})
                if what == "soft":
                    entries.append(link(path, f"somewhere/{step}", uid=fields["uid"], mtime=fields["mtime"]))
                elif what == "hard" and present:
                    entries.append(link(path, chance.choice(present), hard=True))
                    files.add(path)
                else:
                    extra = (
                        pax(user_note=b"1" * step, security_capability=CAPABILITY) if what == "attr" else {}
                    )
                    entries.append(entry(path, content, **fields, **extra))
                    files.add(path)
                if what == "soft":
                    files.discard(path)
            else:
                continue
            touched.add(path)
        layers.append(tar_of(*entries))
    return layers


@needs_mount
@pytest.mark.skipif(shutil.which("umoci") is None, reason="no umoci: make packages")
@pytest.mark.parametrize("seed", range(12))
def test_umoci_unpacks_the_same(seed: int, tmp_path: Path) -> None:
    layers = some_layers(seed)
    layout = build_oci_image(layers, tmp_path / "image", config={"Cmd": ["x"]})
    subprocess.run(
        ["umoci", "unpack", "--image", f"{layout}:latest", str(tmp_path / "bundle")],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    wanted = see(tmp_path / "bundle" / "rootfs")
    disk = disk_of(layers, tmp_path)
    complaints_about(disk, tmp_path)
    with mounted(disk, tmp_path) as place:
        seen = {path: what for path, what in see(place).items() if path not in MOUNT_POINTS}

    def comparable(found: dict[bytes, Seen]) -> dict[bytes, Seen]:
        """Of folders that no layer describes umoci takes the present time, of the root as well."""
        return {
            path: dataclasses.replace(what, mtime_ns=0 if what.mode & 0o40000 else what.mtime_ns)
            for path, what in found.items()
            if path != b"."
        }

    assert comparable(seen) == comparable(wanted)


@needs_mount
def test_a_hundred_thousand_files_in_one_folder(tmp_path: Path) -> None:
    """mke2fs by itself takes minutes for such a folder."""
    number = 100_000
    disk = disk_of(
        [tar_of(folder("many"), *(entry(f"many/{one:06d}", b"%d" % one) for one in range(number)))], tmp_path
    )
    assert "many" not in complaints_about(disk, tmp_path)
    with mounted(disk, tmp_path) as place:
        assert sum(1 for _ in (place / "many").iterdir()) == number
        assert (place / "many/054321").read_bytes() == b"54321"
        assert not (place / "many/100000").exists()
    again = disk_of([(tmp_path / "layer-0").read_bytes()], tmp_path, "again.qcow2")
    assert again.read_bytes() == disk.read_bytes()


@needs_mount
def test_large_and_sparse_files(tmp_path: Path) -> None:
    """More parts than an inode holds, and a hole of more than the disk's default size."""
    source = tmp_path / "source"
    source.mkdir()
    with (source / "sparse").open("wb") as file:
        for number in range(2000):
            file.seek(number * 3 * MIB + number)
            file.write(b"%d" % number)
        file.truncate(20 * GIB)
    with (source / "large").open("wb") as file:
        for number in range(300):
            file.write(bytes([number % 251]) * MIB)
    tar = tmp_path / "layer.tar"
    subprocess.run(["tar", "--sparse", "-cf", tar, "-C", source, "sparse", "large"], check=True, timeout=120)
    disk = disk_of([tar.read_bytes()], tmp_path)
    assert disk.stat().st_size < 700 * MIB
    complaints_about(disk, tmp_path)
    with mounted(disk, tmp_path) as place:
        subprocess.run(["cmp", source / "large", place / "large"], check=True, timeout=120)
        found = place / "sparse"
        assert found.stat().st_size == 20 * GIB and found.stat().st_blocks * 512 < 20 * MIB
        with found.open("rb") as file:
            for number in range(0, 2000, 7):
                file.seek(number * 3 * MIB + number - 1 if number else 0)
                text = b"%d" % number
                assert file.read(len(text) + 2) == (b"\0" if number else b"") + text + (
                    b"\0" if number else b"\0\0"
                )


@pytest.mark.parametrize("how", ["gnu", "posix"])
@needs_mount
def test_archives_of_the_real_tar(how: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / ("long" * 40)).mkdir(parents=True)
    (source / ("long" * 40) / ("name" * 50)).write_text("x")
    (source / "caf\udce9").write_text("not UTF-8")
    (source / "link").symlink_to("t" * 200)
    os.link(source / ("long" * 40) / ("name" * 50), source / "hard")
    os.chown(source / "hard", 4_000_000, 3_000_000)
    tar = tmp_path / "layer.tar"
    subprocess.run(["tar", f"--format={how}", "-cf", tar, "-C", source, "."], check=True, timeout=60)
    disk = disk_of([tar.read_bytes()], tmp_path)
    with mounted(disk, tmp_path) as place:
        seen = {path: what for path, what in see(place).items() if path not in MOUNT_POINTS}
    wanted = see(source)
    if how == "gnu":  # whole seconds
        cut = lambda what: dataclasses.replace(what, mtime_ns=what.mtime_ns // 10**9)  # noqa: E731
        seen, wanted = {p: cut(w) for p, w in seen.items()}, {p: cut(w) for p, w in wanted.items()}
    assert seen == wanted


def test_the_same_image_has_the_same_disk(tmp_path: Path) -> None:
    layers = some_layers(3)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = image_of(layers, tmp_path / "one", config={"Cmd": ["/x"]})
    two = image_of(layers, tmp_path / "two", config={"Cmd": ["/y"]}, is_compressed=False)
    assert one.path.read_bytes() == two.path.read_bytes()
    assert (one.process.cmd, two.process.cmd) == (("/x",), ("/y",))
    assert one.virtual_bytes == 10 * GIB and one.path.stat().st_size < 16 * MIB


def test_nothing_stays_after_a_layer_that_makes_no_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    for layer in (
        tar_of(entry("x", b"y" * 300))[:600],
        tar_of(entry("a"), entry("a/b")),
        b"no archive" * 100,
    ):
        with pytest.raises(InvalidError) as caught:
            image_of([layer], tmp_path)
        assert caught.value.code == "image-layer-invalid", str(caught.value)
        shutil.rmtree(tmp_path / "image")
    assert not list((tmp_path / "temporary").iterdir())
