"""A host's credentials on disk, how a cluster begins, and TLS contexts of both."""

from __future__ import annotations

import os
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pki_support import ALICE, NOW, authority, certificate, identity

from vdc.model.errors import VdcError
from vdc.model.identity import Role
from vdc.security import cluster, tls
from vdc.security import folder as pki
from vdc.security.certificates import check_certificate, read_certificate
from vdc.security.keys import key_to_pem, new_key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "h1" / "pki"
    cluster.issue_host_folder(authority(), path, name="h1", addresses=["10.0.0.1"], now=NOW)
    return path


def code_of(folder: Path) -> str:
    with pytest.raises(VdcError) as caught:
        pki.load_credentials(folder)
    return caught.value.code


def test_a_cluster_begins_with_an_authority_a_host_and_an_administrator(tmp_path: Path) -> None:
    founded = cluster.init(tmp_path / "pki", host="h1", addresses=["10.0.0.1"], now=NOW)
    loaded = pki.load_credentials(tmp_path / "pki")
    assert loaded.identity.uri == f"vdc://{founded.cluster}/host/h1"
    assert loaded.authority is not None and loaded.authority.fingerprint == founded.authority.fingerprint
    admin = check_certificate(founded.admin.certificate_pem, loaded.authorities, NOW)
    assert admin.identity == identity(Role.ADMIN, "admin", founded.cluster)
    entered = list((tmp_path / "pki" / "issued").iterdir())
    assert [read_certificate(path.read_text()) for path in entered] == [admin]


def test_every_file_is_private_and_nothing_temporary_stays(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == dict.fromkeys(
        ["ca.crt", "ca.key", "host.crt", "host.key", "revoked.crl"], 0o600
    )


def test_a_umask_that_is_open_changes_nothing(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        cluster.issue_host_folder(authority(), tmp_path / "pki", name="h1", addresses=[], now=NOW)
    finally:
        os.umask(old)
    pki.load_credentials(tmp_path / "pki")


def test_a_witness_gets_no_key_of_the_authority(tmp_path: Path) -> None:
    found = cluster.issue_host_folder(
        authority(), tmp_path / "pki", name="w", addresses=[], now=NOW, role=Role.WITNESS
    )
    assert found.authority is None
    assert not (tmp_path / "pki" / "ca.key").exists()
    assert found.identity.role is Role.WITNESS


def test_a_member_is_not_made_one_again(folder: Path) -> None:
    for again in (
        lambda: cluster.init(folder, host="h1", addresses=[], now=NOW),
        lambda: cluster.issue_host_folder(authority(), folder, name="h2", addresses=[], now=NOW),
    ):
        with pytest.raises(VdcError, match="h1 of cluster") as caught:
            again()
        assert caught.value.code == "already-a-member"


@pytest.mark.parametrize("role", [Role.VIEWER, Role.ADMIN, Role.NOBODY])
def test_a_host_is_no_person_and_a_person_no_host(tmp_path: Path, role: Role) -> None:
    with pytest.raises(VdcError) as host:
        cluster.issue_host_folder(authority(), tmp_path, name="h1", addresses=[], now=NOW, role=role)
    with pytest.raises(VdcError) as person:
        cluster.issue_user(authority(), name="h1", role=Role.HOST, now=NOW)
    assert host.value.code == person.value.code == "role-invalid"


def test_no_certificate_is_no_member_and_the_hint_says_how_to_become_one(tmp_path: Path) -> None:
    with pytest.raises(VdcError) as caught:
        pki.load_credentials(tmp_path)
    assert caught.value.code == "not-a-member"
    assert "hostagent join" in caught.value.problem.hint
    assert "vdc cluster init" in caught.value.problem.hint


@pytest.mark.parametrize("name", ["host.key", "ca.key"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_key_that_others_can_reach_is_refused(folder: Path, name: str, mode: int) -> None:
    (folder / name).chmod(mode)
    assert code_of(folder) == "key-exposed"


def test_a_folder_that_others_can_enter_is_refused(folder: Path) -> None:
    folder.chmod(0o755)
    assert code_of(folder) == "key-exposed"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_key_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder / "host.key", 12345, -1)
    assert code_of(folder) == "key-exposed"


def test_a_key_behind_a_link_is_refused(folder: Path) -> None:
    (folder / "host.key").rename(folder / "elsewhere")
    (folder / "host.key").symlink_to("elsewhere")
    assert code_of(folder) == "key-exposed"


def test_keys_that_do_not_fit_are_named(folder: Path) -> None:
    right = (folder / "host.key").read_text()
    pki.write_private(folder / "host.key", key_to_pem(new_key()))
    assert code_of(folder) == "key-mismatch"
    pki.write_private(folder / "host.key", right)
    pki.write_private(folder / "ca.key", key_to_pem(new_key()))
    assert code_of(folder) == "key-mismatch"
    pki.write_private(folder / "ca.key", "nonsense")
    assert code_of(folder) == "key-invalid"


def test_a_certificate_of_another_authority_or_of_a_person_is_refused(folder: Path) -> None:
    (folder / "ca.key").unlink()
    pki.write_private(folder / "ca.crt", authority(number=1).pem)
    assert code_of(folder) == "certificate-foreign"
    pki.write_private(folder / "ca.crt", authority().pem)
    key = pki.own_key(folder)
    pki.write_private(folder / "host.crt", authority().issue(ALICE, key.public_key(), NOW))
    assert code_of(folder) == "certificate-invalid"


@pytest.mark.parametrize("name", ["host.key", "ca.crt"])
def test_a_folder_with_a_part_missing_is_no_membership(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert code_of(folder) == "not-a-member"


def test_the_key_that_was_made_for_a_lost_answer_is_used_again(tmp_path: Path) -> None:
    assert key_to_pem(pki.own_key(tmp_path / "pki")) == key_to_pem(pki.own_key(tmp_path / "pki"))


def test_a_failed_write_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(_descriptor: int) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        pki.write_private(folder / "host.crt", "x")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# ---- TLS: a handshake in memory, by the machine's clock as OpenSSL reads it


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client.wrap_bio(to_client, to_server, server_hostname=name)
    listener = server.wrap_bio(to_server, to_client, server_side=True)
    left = [caller, listener]
    for _ in range(6):
        for side in tuple(left):
            try:
                side.do_handshake()
                left.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert not left
    return caller, listener


@pytest.fixture
def today() -> datetime:
    return datetime.now(UTC)


def test_both_sides_know_who_the_other_one_is(tmp_path: Path, today: datetime) -> None:
    founded = cluster.init(tmp_path / "pki", host="h1", addresses=["10.0.0.1"], now=today)
    admin = founded.admin
    client = tls.client_context(admin.authority_pem, admin.certificate_pem, admin.key_pem)
    for name in ("10.0.0.1", "127.0.0.1", "h1"):
        caller, listener = shake(tls.server_context(founded.host), client, name)
        assert caller.version() == "TLSv1.3"
        shown = listener.getpeercert(binary_form=True)
        assert shown is not None
        assert read_certificate(shown).identity.name == "admin"
    _, listener = shake(tls.server_context(founded.host), tls.client_context(admin.authority_pem), "h1")
    assert listener.getpeercert(binary_form=True) is None


def test_a_server_of_another_name_or_authority_is_not_talked_to(tmp_path: Path, today: datetime) -> None:
    founded = cluster.init(tmp_path / "pki", host="h1", addresses=[], now=today)
    server = tls.server_context(founded.host)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"10\.0\.0\.2"):
        shake(server, tls.client_context(founded.authority.pem), "10.0.0.2")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server, tls.client_context(authority().pem), "h1")


def test_a_client_s_certificate_of_another_authority_ends_the_handshake(
    tmp_path: Path, today: datetime
) -> None:
    founded = cluster.init(tmp_path / "pki", host="h1", addresses=[], now=today)
    user = cluster.issue_user(authority(number=1), name="eve", role=Role.ADMIN, now=today)
    client = tls.client_context(founded.authority.pem, user.certificate_pem, user.key_pem)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(tls.server_context(founded.host), client, "h1")


@pytest.mark.parametrize(("years", "code"), [(-2, "certificate-expired"), (1, "certificate-early")])
def test_whether_a_client_s_certificate_is_valid_now_is_for_the_server_to_say(
    tmp_path: Path, today: datetime, years: int, code: str
) -> None:
    founded = cluster.init(tmp_path / "pki", host="h1", addresses=[], now=today)
    at = today + timedelta(days=365 * years)
    user = cluster.issue_user(founded.authority, name="eve", role=Role.ADMIN, now=at)
    client = tls.client_context(founded.authority.pem, user.certificate_pem, user.key_pem)
    _, listener = shake(tls.server_context(founded.host), client, "h1")
    shown = listener.getpeercert(binary_form=True)
    assert shown is not None
    with pytest.raises(VdcError) as caught:
        read_certificate(shown).check_time(today)
    assert caught.value.code == code


def test_a_server_s_expired_certificate_is_not_accepted(tmp_path: Path, today: datetime) -> None:
    founded = cluster.init(tmp_path / "pki", host="h1", addresses=[], now=today - timedelta(days=100))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake(tls.server_context(founded.host), tls.client_context(founded.authority.pem), "h1")


def test_a_person_s_certificate_is_no_server_s(tmp_path: Path, today: datetime) -> None:
    founded = cluster.init(tmp_path / "pki", host="h1", addresses=[], now=today)
    server = tls.server_context(founded.host)
    admin = founded.admin
    server.load_cert_chain(write(tmp_path, admin.certificate_pem + admin.key_pem))
    client = tls.client_context(founded.authority.pem)
    client.check_hostname = False
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        shake(server, client, "h1")


def write(folder: Path, text: str) -> Path:
    path = folder / "both.pem"
    pki.write_private(path, text)
    return path


def test_no_older_protocol_is_spoken(tmp_path: Path, today: datetime) -> None:
    founded = cluster.init(tmp_path / "pki", host="h1", addresses=[], now=today)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=founded.authority.pem)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake(tls.server_context(founded.host), client, "h1")


def test_credentials_that_do_not_fit_are_refused_before_a_call() -> None:
    with pytest.raises(VdcError) as key:
        tls.client_context(authority().pem, certificate(), key_to_pem(new_key()))
    with pytest.raises(VdcError) as bundle:
        tls.client_context("nonsense")
    with pytest.raises(VdcError) as text:
        tls.client_context(authority().pem, "nonsense", "nonsense")
    assert [caught.value.code for caught in (key, bundle, text)] == [
        "key-mismatch", "certificate-invalid", "certificate-invalid",
    ]  # fmt: skip
