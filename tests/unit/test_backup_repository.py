"""A repository of backups: what is written once, what is found damaged, what a prune takes and what it must not."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import weakref
from datetime import UTC, datetime, timedelta

import pytest
from protection_world import endophyte

from vdc.backup.pruning import Kept, prune
from vdc.backup.reading import find, verify
from vdc.backup.record import CHUNK_BYTES, ZEROS, Backup, BackupDisk, BackupFile
from vdc.backup.repository import Repository, backup_key, chunk_key
from vdc.backup.storage import Folder, checked_key
from vdc.model.errors import InvalidError, NotFoundError, RefusedError
from vdc.model.image import Blob, Image, ImageKind

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def silent(*_):
    return None


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # half a second each on a busy machine
    return Repository.init(str(tmp_path / "backups"))[0]


def chunk(number):
    return number.to_bytes(4, "big") * (CHUNK_BYTES // 4)


def backup(repository, contents, *, days=0, name="web", nth=0):
    """One whose disk has these chunks; so many days old."""
    chunks = tuple(repository.put(content)[0] for content in contents)
    when = NOW - timedelta(days=days)
    made = Backup(
        id=f"{when:%Y%m%d-%H%M%S}-{nth:04x}", endophyte=name, uid="u", created_at=when.isoformat(),
        image=Image(kind=ImageKind.DISK), manifest=endophyte().manifest,
        disks=(BackupDisk(name="root", virtual_bytes=len(contents) * CHUNK_BYTES, chunks=chunks),),
    )  # fmt: skip
    repository.add(made)
    return made


def files(repository, prefix="chunks/"):
    return {one.key for one in repository.storage.list(prefix)}


def path_of(repository, key):
    return repository.storage._path(key)


def test_what_is_there_is_not_written_again_and_zeros_never(repository):
    digest, written = repository.put(chunk(7))
    assert 0 < written < CHUNK_BYTES, "it is packed"
    assert repository.put(chunk(7)) == (digest, 0)
    assert repository.put(bytes(CHUNK_BYTES)) == (ZEROS, 0)
    assert files(repository) == {chunk_key(digest)}
    assert repository.get(digest, CHUNK_BYTES) == chunk(7)
    assert repository.get(ZEROS, 5) == bytes(5)
    noise = os.urandom(CHUNK_BYTES)
    digest, written = repository.put(noise)
    assert written == CHUNK_BYTES + 1
    assert repository.get(digest, CHUNK_BYTES) == noise


@pytest.mark.parametrize(
    "damage", [b"", b"\x00other", b"\x01no deflate", b"\x02", b"\x00" + bytes(CHUNK_BYTES + 1)]
)
def test_a_damaged_chunk_is_found_and_a_full_backup_writes_it_anew(repository, damage):
    made = backup(repository, [chunk(1)])
    digest = made.disks[0].chunks[0]
    path_of(repository, chunk_key(digest)).write_bytes(damage)
    with pytest.raises(InvalidError) as caught:
        repository.get(digest, CHUNK_BYTES)
    assert caught.value.code == "chunk-damaged"
    found = verify(repository, silent)
    assert list(found.damaged) == [f"web@{made.id}"]
    assert repository.put(chunk(1)) == (digest, 0), "it is looked for by its name alone"
    assert repository.put(chunk(1), again=True)[1] > 0
    assert not verify(repository, silent).damaged


def test_a_missing_chunk_and_a_changed_description_are_found(repository):
    whole, lacking = backup(repository, [chunk(1)], days=2), backup(repository, [chunk(1), chunk(2)], days=1)
    path_of(repository, chunk_key(lacking.disks[0].chunks[1])).unlink()
    changed = backup(repository, [chunk(1)])
    path = path_of(repository, backup_key("web", changed.id))
    path.write_text(path.read_text().replace('"uid": "u"', '"uid": "v"'))
    found = verify(repository, silent)
    assert found.backups == 3
    assert set(found.damaged) == {f"web@{lacking.id}", f"web@{changed.id}"}
    assert find(repository, "web", None) == lacking, "the newest that can be read"
    assert verify(repository, silent, endophyte="web", backup_id=whole.id).damaged == {}
    with pytest.raises(InvalidError, match="checksum"):
        find(repository, "web", changed.id)
    for missing in ((("db"), None), ("web", "20200101-000000-0000")):
        with pytest.raises(NotFoundError):
            find(repository, *missing)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["disks"][0].update(chunks=["../../../etc/passwd"]),
        lambda body: body["disks"][0].update(chunks=[]),
        lambda body: body.update(created_at="yesterday"),
        lambda body: body.update(format=2),
        lambda body: body.pop("manifest"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused_though_its_checksum_is_right(repository, change):
    from vdc.backup.record import _checksum

    made = backup(repository, [chunk(1)])
    body = json.loads(made.to_text())["backup"]
    change(body)
    text = json.dumps({"sha256": _checksum(body), "backup": body})
    with pytest.raises(InvalidError):
        Backup.from_text(text.encode(), "it")


def test_a_prune_takes_what_no_backup_needs_and_nothing_else(repository):
    old, middle, new = (
        backup(repository, [chunk(1), chunk(100 + day)], days=day, nth=day) for day in (30, 10, 1)
    )
    other = backup(repository, [chunk(99)], days=40, name="db")
    repository.put(chunk(1234))  # of a backup that broke off
    done = prune(repository, Kept(count=2), NOW, is_dry=True)
    assert done.backups == (f"web@{old.id}",) and done.chunks == 2
    assert len(files(repository)) == 6
    done = prune(repository, Kept(count=2), NOW)
    assert done.chunks == 2 and done.kept == 3 and done.freed_bytes > 0
    assert repository.names() == [("db", other.id), ("web", middle.id), ("web", new.id)]
    assert not verify(repository, silent).damaged
    done = prune(repository, Kept(days=5), NOW, endophyte="web")
    assert done.backups == (f"web@{middle.id}",)
    assert len(files(repository)) == 3
    assert prune(repository, Kept(count=1, days=100), NOW).backups == ()
    assert prune(repository, Kept(days=5), NOW).backups == (f"db@{other.id}",)
    assert not files(repository, "locks/")


def test_a_prune_that_breaks_off_leaves_every_backup_whole(repository, monkeypatch):
    backup(repository, [chunk(1), chunk(2)], days=9)
    backup(repository, [chunk(2), chunk(3)])
    count = len(files(repository))
    for survived in range(4):
        deleted = []

        def delete(self, key, survived=survived, deleted=deleted, whole=Folder.delete):
            if not key.startswith("locks/"):
                if len(deleted) >= survived:
                    raise OSError(errno.EIO, "gone")
                deleted.append(key)
            whole(self, key)

        with monkeypatch.context() as patched:
            patched.setattr(Folder, "delete", delete)
            try:
                prune(repository, Kept(count=1), NOW)
            except OSError:
                assert survived < 2
        assert not verify(repository, silent).damaged
    assert len(files(repository)) == count - 1


@pytest.mark.parametrize(
    "work",
    [lambda one: prune(one, Kept(count=2), NOW), lambda one: verify(one, silent)],
    ids=["prune", "verify"],
)
def test_descriptions_are_not_held_all_at_once(repository, monkeypatch, work):
    """Each may be many megabytes."""
    for day in range(6):
        backup(repository, [chunk(1), chunk(day)], days=day)
    held, most, read = weakref.WeakSet(), [], Repository.read

    def watched(self, *which):
        found = read(self, *which)
        held.add(found)
        most.append(len(held))
        return found

    monkeypatch.setattr(Repository, "read", watched)
    monkeypatch.setattr(Backup, "__hash__", object.__hash__)
    work(repository)
    assert len(most) == 6 and max(most) <= 2


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(repository, monkeypatch):
    """A prune would remove the chunks of the backups in it."""
    made = backup(repository, [chunk(1)])
    scandir = os.scandir

    def failing(path):
        if str(path).endswith("backups/web"):
            raise PermissionError(errno.EACCES, "root made it")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(RefusedError) as caught:
        prune(repository, Kept(count=1), NOW)
    assert caught.value.code == "repository-denied"
    monkeypatch.undo()
    assert repository.get(made.disks[0].chunks[0], CHUNK_BYTES) == chunk(1)


def test_nothing_is_pruned_while_a_description_cannot_be_read(repository):
    backup(repository, [chunk(1)], days=9)
    made = backup(repository, [chunk(2)])
    path_of(repository, backup_key("web", made.id)).write_text("{")
    before = files(repository, "")
    with pytest.raises(RefusedError) as caught:
        prune(repository, Kept(count=1), NOW)
    assert caught.value.code == "backup-damaged"
    assert files(repository, "") == before


def test_only_a_repository_is_written_to(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("x")
    cases = {
        str(tmp_path / "home"): "not-empty",
        str(tmp_path / "missing" / "backups"): "no-folder",
        "https://example.org/x": "repository-invalid",
        "s3://": "repository-invalid",
    }
    for place, code in cases.items():
        with pytest.raises((RefusedError, NotFoundError, InvalidError)) as caught:
            Repository.init(place)
        assert caught.value.code == code
    with pytest.raises(NotFoundError) as missing:
        Repository.open(str(tmp_path / "home"))
    assert missing.value.code == "not-a-repository"
    new = str(tmp_path / "new")
    for is_new in (True, False):
        made, was_made = Repository.init(new)
        assert was_made is is_new and made.storage.name == Repository.open(new).storage.name == new


def test_a_repository_may_be_the_whole_of_a_disk(tmp_path):
    (tmp_path / "lost+found").mkdir()
    assert Repository.init(str(tmp_path))[1]


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a//b", "a/../b", ".hidden", "", "a\n", "chunks/"])
def test_no_key_leads_out_of_the_repository(key):
    with pytest.raises(InvalidError):
        checked_key(key)


def test_a_write_that_fails_leaves_nothing(repository, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(RefusedError) as caught:
        repository.put(chunk(1))
    assert caught.value.code == "repository-full"
    assert not [path for path in path_of(repository, "chunks").rglob("*") if path.is_file()]


def test_verify_finds_a_file_that_restore_would_refuse(repository):
    """Its chunks are whole, and another file's."""
    kernel, other = b"kernel", b"KERNEL"
    blob = Blob(digest="sha256:" + hashlib.sha256(kernel).hexdigest(), size_bytes=len(kernel))
    good, bad = backup(repository, [chunk(1)], days=1), backup(repository, [chunk(1)])
    for made, content in ((good, kernel), (bad, other)):
        file = BackupFile(blob=blob, chunks=(repository.put(content)[0],))
        repository.add(made.with_(files=(file,)))
    found = verify(repository, silent)
    assert found.backups == 2
    assert (
        list(found.damaged) == [f"web@{bad.id}"] and "file of the image" in found.damaged[f"web@{bad.id}"][0]
    )


def test_verify_finds_a_chunk_of_another_length_whatever_the_others_say(repository):
    good, bad = backup(repository, [b"x" * 4096], days=1), backup(repository, [b"x" * 4096])
    repository.add(good.with_(disks=(good.disks[0].with_(virtual_bytes=4096),)))
    assert list(verify(repository, silent).damaged) == [f"web@{bad.id}"]


def test_nothing_is_added_that_could_not_be_read(repository):
    made = backup(repository, [chunk(1)])
    cut = BackupFile(blob=Blob(digest="sha256:" + "0" * 64, size_bytes=100), chunks=())
    with pytest.raises(InvalidError) as caught:
        repository.add(made.with_(id="20260131-120001-0000", files=(cut,)))
    assert caught.value.code == "backup-damaged"
    assert repository.names() == [("web", made.id)]


def test_what_lies_in_the_place_of_a_chunk_is_damage_whatever_it_is(repository, tmp_path):
    """A pipe would be waited for, a link leads elsewhere, and what is large would fill the memory."""
    made = backup(repository, [chunk(1), chunk(2), chunk(3)])
    pipe, link, large = (path_of(repository, chunk_key(digest)) for digest in made.disks[0].chunks)
    (tmp_path / "copy").write_bytes(link.read_bytes())
    for path in (pipe, link):
        path.unlink()
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "copy")
    os.truncate(large, 1 << 40)
    assert "and 2 more" in verify(repository, silent).damaged[f"web@{made.id}"][0]
    assert not any(repository.is_whole(digest) for digest in made.disks[0].chunks)


def test_a_description_that_is_no_file_hides_no_other(repository):
    good = backup(repository, [chunk(1)])
    os.mkfifo(path_of(repository, backup_key("web", "20260131-120001-0000")))
    assert repository.newest("web") == good


def test_a_prune_leaves_what_is_no_chunk(repository):
    """Files that a file manager left; their names are no keys even."""
    made = backup(repository, [chunk(1)], days=9)
    others = [path_of(repository, "chunks/ab/x").with_name(".DS_Store"), path_of(repository, "chunks/notes")]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert prune(repository, Kept(count=0), NOW).backups == (f"web@{made.id}",)
    assert all(path.exists() for path in others) and files(repository) <= {
        "chunks/ab/.DS_Store",
        "chunks/notes",
    }


@pytest.mark.parametrize(
    "change",
    [
        {
            "files": (
                BackupFile(
                    blob=Blob(digest="sha256:" + "0" * 64, size_bytes=1 << 40), chunks=(ZEROS,) * (1 << 18)
                ),
            )
        },
        {"disks": (BackupDisk(name="\x1b]0;x\x07", virtual_bytes=1, chunks=(ZEROS,)),)},
        {"since": "\x1b[2J"},
    ],
    ids=["memory", "terminal", "terminal too"],
)
def test_a_hostile_description_is_refused_though_its_checksum_is_right(repository, change):
    made = backup(repository, [chunk(1)]).with_(**change)
    with pytest.raises(InvalidError):
        Backup.from_text(made.to_text().encode(), "it")
