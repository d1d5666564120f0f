"""Files of one lockstep's credentials, and who is given a certificate."""

from __future__ import annotations

import os
import stat
from types import SimpleNamespace

import pytest
from protection_world import UID, pair

from hostagent.drivers.qemu.credentials import PairFiles, folder_name, sweep
from hostagent.supervisor import credentials
from vdc.api import models as wire
from vdc.model.errors import ForbiddenError, InvalidError, NotFoundError, UnavailableError
from vdc.security.pairs import KeyAndRequest

NAMES = {"ca-cert.pem", "server-cert.pem", "server-key.pem", "client-cert.pem", "client-key.pem"}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "web").mkdir()
    return PairFiles(tmp_path / "web", tmp_path / "pairs", UID)


def found(files, epoch):
    folder = files.vm_folder / folder_name(epoch)
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_the_primarys_files_are_there_as_a_whole_and_for_their_owner_alone(files):
    files.make(7)
    assert set(found(files, 7)) == NAMES
    assert [path.name for path in files.vm_folder.iterdir()] == ["tls-e7"]
    for path in (files.authorities, *files.authorities.iterdir(), *(files.vm_folder / "tls-e7").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) in (0o700, 0o600)


def test_what_qemu_may_have_loaded_is_not_made_anew(files):
    files.make(7)
    before = found(files, 7)
    files.make(7)
    assert found(files, 7) == before


@pytest.mark.parametrize("left", ["folder", "authority", "unfinished"])
def test_an_agent_that_died_while_it_made_them_leaves_nothing_in_the_way(files, left):
    files.make(7)
    if left == "folder":
        files.forget_authority()
    else:
        for path in sorted((files.vm_folder / "tls-e7").iterdir()):
            path.unlink()
        (files.vm_folder / "tls-e7").rmdir()
    if left == "unfinished":
        (files.vm_folder / ".tls-e7").mkdir()
        (files.vm_folder / ".tls-e7" / "ca-cert.pem").write_text("torn")
    files.make(7)
    assert set(found(files, 7)) == NAMES
    authority, _ = files.sign(7, KeyAndRequest.make().request)
    assert authority == found(files, 7)["ca-cert.pem"]


def test_the_authoritys_key_is_nowhere_in_the_vms_folder(files):
    files.make(7)
    (secret,) = files.authorities.iterdir()
    key = secret.read_text().partition("-----END PRIVATE KEY-----")[0]
    assert not any(key in text for text in found(files, 7).values())


def test_everything_goes_with_the_epoch_and_the_authority_before(files):
    files.make(7)
    files.forget_authority()
    with pytest.raises(UnavailableError):
        files.sign(7, KeyAndRequest.make().request)
    assert set(found(files, 7)) == NAMES
    files.forget()
    assert not list(files.vm_folder.iterdir())
    files.make(8)
    files.make(9)
    assert [path.name for path in files.vm_folder.iterdir()] == ["tls-e9"]
    assert [path.name for path in files.authorities.iterdir()] == [f"{UID}-e9.pem"]


def test_links_that_a_guests_qemu_left_are_not_followed(files, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "ca-cert.pem").write_text("mine")
    for name in (".tls-e7", "tls-e7"):
        (files.vm_folder / name).symlink_to(outside)
    files.make(7)
    assert not (files.vm_folder / "tls-e7").is_symlink()
    assert (outside / "ca-cert.pem").read_text() == "mine"
    files.forget()
    assert outside.is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_who_owns_the_vms_folder_may_read_them(files):
    os.chown(files.vm_folder, 12345, 12346)
    files.make(7)
    for path in (files.vm_folder / "tls-e7", *(files.vm_folder / "tls-e7").iterdir()):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)
    assert files.authorities.stat().st_uid == 0


def test_authorities_of_vms_that_are_gone_are_swept(files):
    files.make(7)
    PairFiles(files.vm_folder, files.authorities, "other").make(2)
    sweep(files.authorities, {UID})
    assert [path.name for path in files.authorities.iterdir()] == [f"{UID}-e7.pem"]
    sweep(files.authorities / "absent", set())


# ---- who is given one


def copy_on(files, **host):
    return SimpleNamespace(name="web", credentials=files, host=SimpleNamespace(name="h2", **host))


def asking(host="h2", epoch=3):
    return wire.CredentialsRequest(epoch=epoch, from_host=host, request=KeyAndRequest.make().request)


async def test_the_secondary_of_the_epoch_is_given_one(files):
    files.make(3)
    given = await credentials.sign(copy_on(files), pair(3, sync="syncing"), asking())
    assert given.authority == found(files, 3)["ca-cert.pem"]


@pytest.mark.parametrize(
    ("record", "caller"),
    [
        (pair(3), "h3"),
        (pair(3), "h1"),
        (pair(4), "h2"),
        (pair(3, secondary=None), "h2"),
        (None, "h2"),
    ],
    ids=["another host", "the primary itself", "another epoch", "no secondary", "no record"],
)
async def test_nobody_else_is(files, record, caller):
    files.make(3)
    with pytest.raises(ForbiddenError) as caught:
        await credentials.sign(copy_on(files), record, asking(host=caller))
    assert caught.value.code == "not-secondary"


async def test_a_request_that_is_none_is_refused_and_harms_nothing(files):
    files.make(3)
    bad = wire.CredentialsRequest(epoch=3, from_host="h2", request="rubbish")
    with pytest.raises(InvalidError):
        await credentials.sign(copy_on(files), pair(3), bad)
    await credentials.sign(copy_on(files), pair(3), asking())


async def test_a_primary_whose_agent_is_restarted_is_asked_again_with_the_same_key(files, monkeypatch):
    monkeypatch.setattr(credentials, "_AGAIN_S", 0)
    asked = []

    async def answer(_name, request):
        asked.append(request)
        if len(asked) < 4:
            raise (UnavailableError if len(asked) < 3 else NotFoundError)("not yet")
        return wire.Credentials(authority="A", certificate="C")

    clock = SimpleNamespace(boottime_s=lambda: 0.0)
    copy = copy_on(files, clock=clock, peer=lambda _host: SimpleNamespace(peer_credentials=answer))
    await credentials.obtain(copy, pair(3))
    assert len({request.request for request in asked}) == 1
    kept = found(files, 3)
    assert (kept["ca-cert.pem"], kept["client-cert.pem"]) == ("A", "C")
    assert "PRIVATE KEY" in kept["server-key.pem"]


async def test_a_primary_that_stays_away_is_given_up(files):
    now = iter((0.0, credentials.ANSWER_S + 1))

    async def answer(_name, _request):
        raise UnavailableError("nobody answers")

    clock = SimpleNamespace(boottime_s=lambda: next(now))
    copy = copy_on(files, clock=clock, peer=lambda _host: SimpleNamespace(peer_credentials=answer))
    with pytest.raises(UnavailableError):
        await credentials.obtain(copy, pair(3))
    assert not list(files.vm_folder.iterdir())
