"""`vdc backup` over a repository that is there: what needs no cluster."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import click
import pytest
from protection_world import endophyte

from vdc.backup.record import Backup, BackupDisk
from vdc.backup.repository import Repository, chunk_key
from vdc.cli.completing import complete_backup
from vdc.cli.main import run
from vdc.model.image import Image, ImageKind

CONTENT = b"x" * 4096


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return str(tmp_path / "r")


@pytest.fixture
def ids(place):
    """Of three backups of web, the oldest first."""
    repository, _ = Repository.init(place)
    digest, _ = repository.put(CONTENT)
    found = []
    for days in (20, 10, 0):
        when = datetime.now(UTC) - timedelta(days=days)
        found.append(f"{when:%Y%m%d-%H%M%S}-0001")
        repository.add(
            Backup(
                id=found[-1],
                endophyte="web",
                uid="u",
                created_at=when.isoformat(),
                manifest=endophyte().manifest,
                image=Image(kind=ImageKind.DISK),
                disks=(BackupDisk(name="root", virtual_bytes=4096, chunks=(digest,)),),
            )
        )
    return found


def test_a_repository_is_made_once(place, capsys):
    for words, is_new in ((["-o", "json"], True), (["-o", "json"], False)):
        assert run(["backup", "init", place, *words]) == 0
        assert json.loads(capsys.readouterr().out) == {"repository": place, "created": is_new}
    assert run(["backup", "init", place]) == 0
    assert capsys.readouterr().out == f"repository {place} is there already\n"


def test_a_disk_that_is_not_mounted_becomes_no_repository(tmp_path, capsys):
    """An empty folder is what is left of it; nothing is asked of the cluster."""
    assert run(["backup", "create", "web", "--to", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "(not-a-repository)" in said and "mount" in said and "vdc backup init" in said
    assert not list(tmp_path.iterdir())


def test_they_are_listed(place, ids, capsys):
    assert run(["backup", "ls", place]) == 0
    table = capsys.readouterr().out
    assert all(one in table for one in ids)
    assert run(["backup", "ls", place, "-o", "name"]) == 0
    assert capsys.readouterr().out.split() == [f"backup/web@{one}" for one in ids]
    assert run(["backup", "ls", place, "db", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"items": []}
    assert run(["backup", "ls", place, "-o", "json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert [one["id"] for one in items] == ids and "manifest" not in items[0]


def test_damage_is_told_with_an_exit_code(place, ids, capsys):
    assert run(["backup", "verify", place]) == 0
    assert "3 of 3 backups are whole" in capsys.readouterr().out
    repository = Repository.open(place)
    digest, _ = repository.put(CONTENT)
    repository.storage.write(chunk_key(digest), b"\x00y")
    assert run(["backup", "verify", place, f"web@{ids[0]}"]) == 1
    assert "(backup-damaged)" in capsys.readouterr().err
    assert run(["backup", "verify", place, "-o", "json"]) == 1
    assert set(json.loads(capsys.readouterr().out)["damaged"]) == {f"web@{one}" for one in ids}


def test_pruning_says_what_goes_and_does_it(place, ids, capsys):
    assert run(["backup", "prune", place, "--keep-days", "15", "--dry-run"]) == 0
    assert f"backup/web@{ids[0]} would be removed" in capsys.readouterr().out
    assert run(["backup", "prune", place, "--keep", "1", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["backups"] == [f"web@{one}" for one in ids[:2]]
    assert [one for _, one in Repository.open(place).names()] == ids[2:]


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["prune", "{}"], 2, "usage"),
        (["prune", "{}", "--keep", "0"], 2, "usage"),
        (["verify", "{}", "web@yesterday"], 2, "usage"),
        (["verify", "{}", "db"], 1, "backup-not-found"),
        (["restore", "{}", "web@20200101-000000-0000"], 1, "backup-not-found"),
        (["restore", "{}", "../web"], 2, "usage"),
        (["ls", "{}/nothing"], 1, "not-a-repository"),
        (["ls", "http://x/y"], 1, "repository-invalid"),
        (["init", "{}/a/b"], 1, "no-folder"),
        (["init", "{}/chunks"], 1, "not-empty"),
    ],
)
def test_what_makes_no_sense_is_an_error(place, ids, capsys, words, status, code):
    assert run(["backup", *(word.replace("{}", place) for word in words)]) == status
    assert f"({code})" in capsys.readouterr().err


def test_a_shell_is_offered_what_there_is(place, ids):
    from vdc.cli.commands.backup import restore

    context = click.Context(restore)
    context.params["repository"] = place
    assert complete_backup(context, restore.params[1], "w") == ["web"]
    assert complete_backup(context, restore.params[1], "web@") == [f"web@{one}" for one in sorted(ids)]
    context.params["repository"] = f"{place}/nothing"
    assert complete_backup(context, restore.params[1], "") == []
