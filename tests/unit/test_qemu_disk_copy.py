"""The record beside a copy's disks: what may be booted, and which files it consists of at each stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hostagent.drivers.disk.copy import (
    RECORD_FILE,
    CopyRecord,
    CopyState,
    DiskSet,
    DiskSource,
    disk_specs,
    older_copy,
    remove_but_older,
)
from hostagent.drivers.disk.images import DiskToolError, ImageInfo, QemuImg, require_self_contained
from vdc.model.errors import ConflictError, RefusedError

MIB = 1024**2


class PaperTool:
    """Makes empty files where qemu-img would make images, and writes down what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[Any, ...]] = []
        self.unsound: set[str] = set()

    async def create(self, name: str, size_bytes: int) -> None:
        self.asked.append(("create", name, size_bytes))
        (self.folder / name).touch()

    async def create_overlay(
        self, name: str, base: str, *, base_format: str = "qcow2", size_bytes: int | None = None
    ) -> None:
        self.asked.append(("overlay", name, base, size_bytes))
        (self.folder / name).touch()

    async def create_layer(self, name: str, below: str) -> None:
        self.asked.append(("layer", name, below))
        (self.folder / name).touch()

    async def commit(self, name: str) -> None:
        self.asked.append(("commit", name))

    async def check(self, name: str) -> None:
        self.asked.append(("check", name))
        if name in self.unsound:
            raise DiskToolError(f"{name} is damaged")


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.qcow2")}


async def test_a_new_vm_is_clean_and_boots_its_own_disks(tmp_path: Path) -> None:
    tool = PaperTool(tmp_path)
    disks = DiskSet(tool, tmp_path)  # type: ignore[arg-type]
    record = await disks.create_primary("u1", 1, [DiskSource(None, "sha256/abc"), DiskSource(64 * MIB)])
    assert (record.state, record.heads) == (CopyState.CLEAN, ("disk0.qcow2", "disk1.qcow2"))
    assert tool.asked == [("overlay", "disk0.qcow2", "sha256/abc", None), ("create", "disk1.qcow2", 64 * MIB)]
    assert await disks.bootable("u1") == record == await disks.load()
    assert [one.file for one in disk_specs(record)] == ["/vm/disk0.qcow2", "/vm/disk1.qcow2"]


async def test_a_secondary_is_dirty_until_in_sync(tmp_path: Path) -> None:
    disks = DiskSet(PaperTool(tmp_path), tmp_path)  # type: ignore[arg-type]
    await disks.create_secondary("u1", 2, [8 * MIB])
    with pytest.raises(ConflictError, match="incomplete"):
        await disks.bootable("u1")
    await disks.in_sync(1)
    assert (await disks.bootable("u1")).heads == ("parent0.qcow2",)


async def test_a_promoted_copy_is_its_layers_and_then_its_parents(tmp_path: Path) -> None:
    disks = DiskSet(PaperTool(tmp_path), tmp_path)  # type: ignore[arg-type]
    await disks.create_secondary("u1", 2, [8 * MIB, 8 * MIB])
    await disks.in_sync(2)
    record = await disks.promoted(3, 2)
    assert (record.epoch, record.state) == (3, CopyState.UNSETTLED)
    assert record.heads == ("active0.qcow2", "active1.qcow2")
    record = await disks.settled()
    assert (record.epoch, record.state) == (3, CopyState.CLEAN)
    assert record.heads == ("parent0.qcow2", "parent1.qcow2")
    assert files(tmp_path) == {"parent0.qcow2", "parent1.qcow2"}


async def test_layers_that_qemu_never_wrote_back_are_written_back_before_a_boot(tmp_path: Path) -> None:
    tool = PaperTool(tmp_path)
    disks = DiskSet(tool, tmp_path)  # type: ignore[arg-type]
    await disks.create_secondary("u1", 2, [8 * MIB])
    await disks.promoted(3, 1)
    tool.asked.clear()
    assert (await disks.bootable("u1")).heads == ("parent0.qcow2",)
    assert tool.asked == [("commit", "active0.qcow2"), ("commit", "hidden0.qcow2")]


async def test_disks_of_an_earlier_vm_of_the_same_name_are_not_booted(tmp_path: Path) -> None:
    disks = DiskSet(PaperTool(tmp_path), tmp_path)  # type: ignore[arg-type]
    await disks.create_primary("u1", 1, [DiskSource(MIB)])
    with pytest.raises(ConflictError, match="earlier VM"):
        await disks.bootable("u2")


async def test_without_a_record_there_is_no_copy(tmp_path: Path) -> None:
    disks = DiskSet(PaperTool(tmp_path), tmp_path)  # type: ignore[arg-type]
    assert await disks.load() is None
    assert disks.is_unmade(None)
    with pytest.raises(ConflictError, match="no copy"):
        await disks.bootable("u1")


@pytest.mark.parametrize("text", ["", "{", '{"uid": "u1"}'])
async def test_a_record_that_cannot_be_read_protects_the_disks_beside_it(tmp_path: Path, text: str) -> None:
    disks = DiskSet(PaperTool(tmp_path), tmp_path)  # type: ignore[arg-type]
    (tmp_path / RECORD_FILE).write_text(text)
    with pytest.raises(ConflictError) as caught:
        await disks.load()
    assert caught.value.code == "disk-record-unreadable"


async def test_disks_that_were_never_completed_may_be_made_again(tmp_path: Path) -> None:
    disks = DiskSet(PaperTool(tmp_path), tmp_path)  # type: ignore[arg-type]
    complete = await disks.create_primary("u1", 1, [DiskSource(MIB)])
    assert not disks.is_unmade(complete)
    assert disks.is_unmade(await disks.create_secondary("u1", 1, [MIB]))
    (tmp_path / "disk0.qcow2").touch()
    assert not disks.is_unmade(None)


async def test_a_crash_while_disks_are_made_leaves_a_dirty_copy(tmp_path: Path) -> None:
    class Broken(PaperTool):
        async def create(self, name: str, size_bytes: int) -> None:
            raise OSError("no space")

    disks = DiskSet(Broken(tmp_path), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="no space"):
        await disks.create_primary("u1", 1, [DiskSource(MIB)])
    with pytest.raises(ConflictError, match="incomplete"):
        await disks.bootable("u1")


async def test_renew_spoil_and_remove(tmp_path: Path) -> None:
    disks = DiskSet(PaperTool(tmp_path), tmp_path)  # type: ignore[arg-type]
    await disks.create_primary("u1", 1, [DiskSource(MIB)])
    assert (await disks.renew(5)).epoch == 5
    assert (await disks.spoil()).state is CopyState.DIRTY
    await disks.remove()
    await disks.remove()
    assert await disks.load() is None
    assert files(tmp_path) == set()


@pytest.mark.parametrize("name", ["", "..", "../disk0.qcow2", "/etc/shadow", "a/b"])
async def test_a_file_name_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a file name"):
        await QemuImg(None, tmp_path, tmp_path).create(name, MIB)


@pytest.mark.parametrize("base", ["/etc/shadow", "../../etc/shadow", "a/../../b"])
async def test_a_base_cannot_lead_out_of_the_image_store(tmp_path: Path, base: str) -> None:
    with pytest.raises(ValueError, match="leads out"):
        await QemuImg(None, tmp_path, tmp_path).create_overlay("disk0.qcow2", base)


@pytest.mark.parametrize("change", [{"backing_file": "/etc/shadow"}, {"data_file": "raw"}])
def test_an_image_that_refers_to_another_file_is_refused(change: dict[str, str]) -> None:
    info = ImageInfo("qcow2", MIB, 0, change.get("backing_file"), change.get("data_file"))
    with pytest.raises(RefusedError):
        require_self_contained(info)
    require_self_contained(ImageInfo("qcow2", MIB, 0, None, None))


async def test_a_secondary_stands_on_the_base_where_there_is_one(tmp_path: Path) -> None:
    tool = PaperTool(tmp_path)
    disks = DiskSet(tool, tmp_path)  # type: ignore[arg-type]
    await disks.create_secondary("u1", 2, [8 * MIB, MIB], [DiskSource(None, "sha256/abc"), None])
    assert [one for one in tool.asked if one[0] != "layer"] == [
        ("overlay", "parent0.qcow2", "sha256/abc", 8 * MIB),
        ("create", "parent1.qcow2", MIB),
    ]


async def kept(folder: Path, tool: PaperTool) -> DiskSet:
    disks = DiskSet(tool, folder)  # type: ignore[arg-type]
    await disks.create_secondary("u1", 2, [8 * MIB, MIB])
    await disks.in_sync(2)
    await disks.keep_older()
    return disks


async def test_an_older_copy_is_its_parents_and_is_never_booted(tmp_path: Path) -> None:
    disks = await kept(tmp_path, PaperTool(tmp_path))
    older = older_copy(tmp_path)
    assert older is not None
    assert (older.epoch, older.state) == (2, CopyState.OLDER)
    assert files(tmp_path) == {"parent0.qcow2", "parent1.qcow2"}
    assert not disks.is_unmade(older)
    with pytest.raises(ConflictError, match="not the newest"):
        await disks.bootable("u1")


async def test_an_older_copy_is_dirty_from_its_reuse_on(tmp_path: Path) -> None:
    disks = await kept(tmp_path, PaperTool(tmp_path))
    record = await disks.reuse_older(5)
    assert (record.epoch, record.state, record.heads) == (5, CopyState.DIRTY, ())
    assert older_copy(tmp_path) is None
    assert {"active0.qcow2", "hidden1.qcow2"} <= files(tmp_path)
    with pytest.raises(ConflictError, match="incomplete"):
        await disks.bootable("u1")
    with pytest.raises(ConflictError, match="cannot be kept"):
        await disks.keep_older()
    await disks.in_sync(2)
    assert (await disks.keep_older()).epoch == 5


async def test_a_damaged_or_unfinished_or_promoted_copy_is_not_kept(tmp_path: Path) -> None:
    tool = PaperTool(tmp_path)
    disks = DiskSet(tool, tmp_path)  # type: ignore[arg-type]
    await disks.create_secondary("u1", 2, [8 * MIB])
    with pytest.raises(ConflictError, match="dirty"):
        await disks.keep_older()
    await disks.in_sync(1)
    tool.unsound.add("parent0.qcow2")
    with pytest.raises(DiskToolError):
        await disks.keep_older()
    assert older_copy(tmp_path) is None
    await disks.promoted(3, 1)
    with pytest.raises(ConflictError, match="unsettled"):
        await disks.keep_older()


def test_what_is_no_older_copy_is_none(tmp_path: Path) -> None:
    assert older_copy(tmp_path) is None
    (tmp_path / RECORD_FILE).write_text("{")
    assert older_copy(tmp_path) is None


def test_of_a_folder_an_older_copy_stays_and_nothing_else(tmp_path: Path) -> None:
    folder, guest, outside = tmp_path / "web", tmp_path / "web" / "guest", tmp_path / "outside"
    guest.mkdir(parents=True)
    outside.write_text("another's")
    (folder / "tpm").mkdir()
    for path in (folder / RECORD_FILE, folder / "agent.json", guest / "parent0.qcow2", guest / "vars.fd"):
        path.touch()
    (guest / "planted").symlink_to(outside)
    record = CopyRecord(uid="u1", epoch=2, state=CopyState.OLDER, heads=("parent0.qcow2",))
    remove_but_older(folder, guest, record)
    left = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert left == {RECORD_FILE, "guest", "guest/parent0.qcow2"}
    (guest / "planted").symlink_to(outside)
    remove_but_older(folder, guest, None)
    assert not folder.exists()
    assert outside.read_text() == "another's"
