"""The embedded etcd member: its command line (golden), its log, and its timing rules."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from pki_support import make_member

from hostagent.config import EmbeddedEtcd
from hostagent.drivers.etcd.argv import client_urls, member_argv, sandboxed
from hostagent.drivers.etcd.credentials import (
    FOLDER,
    MemberFiles,
    copy_credentials,
    copy_for_start,
    files_in,
    is_start_due,
)
from hostagent.drivers.etcd.member import EmbeddedMember, last_complaint
from hostagent.drivers.etcd.timing import timing_warnings
from hostagent.drivers.process import User
from vdc.model.errors import RefusedError
from vdc.security.folder import AUTHORITY_KEY, BUNDLE, CERTIFICATE, KEY, REVOKED, write_private

CONFIG = EmbeddedEtcd.model_validate({"members": {"b": "10.0.0.2", "a": "10.0.0.1", "c": "10.0.0.3"}})
OWN = os.geteuid()
FILES = MemberFiles(Path("/seen"), has_revoked=True)

GOLDEN = """\
etcd
--name b
--data-dir /state/etcd
--listen-client-http-urls https://10.0.0.2:7379
--listen-client-urls unix:///state/etcd/client.sock
--advertise-client-urls https://10.0.0.2:7379
--listen-peer-urls https://10.0.0.2:7380
--initial-advertise-peer-urls https://10.0.0.2:7380
--cert-file /seen/host.crt
--key-file /seen/host.key
--trusted-ca-file /seen/ca.crt
--client-cert-auth
--client-cert-allowed-hostname member.vdc.internal
--client-crl-file /seen/revoked.crl
--peer-cert-file /seen/host.crt
--peer-key-file /seen/host.key
--peer-trusted-ca-file /seen/ca.crt
--peer-client-cert-auth
--peer-cert-allowed-hostname member.vdc.internal
--peer-crl-file /seen/revoked.crl
--tls-min-version TLS1.3
--initial-cluster a=https://10.0.0.1:7380,b=https://10.0.0.2:7380,c=https://10.0.0.3:7380
--initial-cluster-token vdc
--initial-cluster-state new
--heartbeat-interval 20
--election-timeout 150
--auto-compaction-mode periodic
--auto-compaction-retention 1h
--quota-backend-bytes 2147483648
--snapshot-count 10000
--log-level info"""

GOLDEN_SANDBOX = """\
bwrap
--ro-bind /root-of-runtime /
--dev /dev
--proc /proc
--perms 1777
--size 16777216
--tmpfs /tmp
--perms 0755
--size 65536
--tmpfs /run
--ro-bind /usr/bin/setpriv /run/setpriv
--bind /state/etcd /vm
--ro-bind /state/pki/etcd /tmp/credentials
--chdir /
--new-session
--unshare-pid
--as-pid-1
--unshare-ipc
--unshare-uts
--unshare-cgroup-try
--cap-drop ALL
--cap-add CAP_SETUID
--cap-add CAP_SETGID
--cap-add CAP_SETPCAP
-- /run/setpriv
--reuid 7
--regid 7
--clear-groups
--inh-caps=-all
--bounding-set=-all
--no-new-privs
-- etcd"""


def rendered(argv: Sequence[str]) -> str:
    """One option a line."""
    return " ".join(argv).replace(" --", "\n--")


def test_command_line() -> None:
    assert rendered(member_argv("b", CONFIG, Path("/state/etcd"), FILES)) == GOLDEN


def test_command_line_of_a_member_that_rejoins() -> None:
    argv = member_argv("b", CONFIG, Path("/state/etcd"), FILES, is_rejoining=True)
    assert rendered(argv) == GOLDEN.replace("-state new", "-state existing")


def test_sandbox() -> None:
    argv = sandboxed(
        ("etcd",), User(7), Path("/root-of-runtime"), Path("/state/etcd"), Path("/state/pki/etcd")
    )
    assert rendered(argv) == GOLDEN_SANDBOX


def test_the_own_member_is_asked_first() -> None:
    assert client_urls("b", CONFIG) == tuple(f"https://10.0.0.{number}:7379" for number in (2, 1, 3))


@pytest.mark.parametrize(
    ("log", "complaint"),
    [
        ("", ""),
        ('{"level":"info","msg":"fine"}\n', ""),
        (
            '{"level":"fatal","msg":"discovery failed","error":"listen tcp: address in use"}\nnoise\n',
            "discovery failed: listen tcp: address in use",
        ),
        ('{"level":"panic","msg":"corrupt"}\n{"level":"info","msg":"x"}\n', "corrupt"),
    ],
)
def test_the_last_complaint_is_found(log: str, complaint: str) -> None:
    assert last_complaint(log) == complaint


def test_members_that_are_too_far_away_are_named() -> None:
    assert timing_warnings(CONFIG, {"a": 1.0, "c": None}) == ()
    assert timing_warnings(CONFIG, {"a": 16.2, "c": 15.0}) == (
        "etcd's heartbeat of 20 ms and election timeout of 150 ms are too short for the 16.2 ms round trip "
        "to a: use at least 17 and 162 ms",
    )
    assert len(timing_warnings(CONFIG, {"a": 21.0, "c": 30.0})) == 2


def test_a_member_that_lost_its_data_is_refused(tmp_path: Path) -> None:
    trust = make_member(tmp_path, "b")
    member = EmbeddedMember("b", CONFIG, state_dir=tmp_path, runtime=None, user=User(1), trust=trust)
    member.check_data()
    member.mark_path.write_text('{"joined": true}')
    with pytest.raises(RefusedError, match="must not vote again"):
        member.check_data()
    member.mark_path.write_text("torn")
    with pytest.raises(RefusedError):
        member.check_data()
    (member.data_dir / "member").mkdir(parents=True)
    member.check_data()


def test_what_a_member_sees_is_neither_the_clusters_key_nor_out_of_date(tmp_path: Path) -> None:
    source = make_member(tmp_path, "b").folder
    assert copy_credentials(source, OWN) and copy_credentials(source, OWN)  # there is nothing until it starts
    copy_for_start(source, OWN)
    assert not copy_credentials(source, OWN)
    assert {path.name for path in (source / FOLDER).iterdir()} == {
        BUNDLE, CERTIFICATE, KEY, REVOKED
    } and (source / AUTHORITY_KEY).exists()  # fmt: skip
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (source / FOLDER).iterdir())
    write_private(source / REVOKED, "another list")
    assert not copy_credentials(source, OWN)  # which etcd reads by itself
    assert (source / FOLDER / REVOKED).read_text() == "another list"
    write_private(source / BUNDLE, "another authority")
    assert is_start_due(source)
    assert copy_credentials(source, OWN), "its agent was killed before it ended the member, say"
    assert (source / FOLDER / BUNDLE).read_text() != "another authority", "which the member does not know yet"
    copy_for_start(source, OWN)
    assert not is_start_due(source)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_copies_are_etcds_own_users_and_the_originals_are_not(tmp_path: Path) -> None:
    source = make_member(tmp_path, "b").folder
    copy_for_start(source, 0)  # as an agent did that ran etcd as root
    assert not copy_credentials(source, 1_900_000_007)
    write_private(source / KEY, "a new key")
    assert not copy_credentials(source, 1_900_000_007)
    copies = source / FOLDER
    assert {path.stat().st_uid for path in (copies, *copies.iterdir())} == {1_900_000_007}
    assert (copies / KEY).read_text() == "a new key"
    assert (source / KEY).stat().st_uid == source.stat().st_uid == 0


def test_a_list_that_is_not_there_is_not_asked_for(tmp_path: Path) -> None:
    source = make_member(tmp_path, "b").folder
    (source / REVOKED).unlink()
    copy_for_start(source, OWN)
    assert not any("crl" in option for option in files_in(source, Path("/seen")).options)
