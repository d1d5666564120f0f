"""Clusters, hosts and users with certificates, for tests; times around one instant that is passed in."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from hostagent.drivers.trust import Trust
from vdc.model.identity import Identity, Role
from vdc.security.authority import Authority
from vdc.security.cluster import issue_host_folder
from vdc.security.folder import pki_folder
from vdc.security.keyring import Keyring
from vdc.security.keys import new_key

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CLUSTER = "0123456789ab"
DAY = timedelta(days=1)


@functools.cache
def authority(cluster: str = CLUSTER, number: int = 0) -> Authority:
    return Authority.create(cluster, NOW)


def identity(role: Role = Role.OPERATOR, name: str = "alice", cluster: str = CLUSTER) -> Identity:
    return Identity(cluster=cluster, role=role, name=name)


HOST = identity(Role.HOST, "h1")
ALICE = identity()


def certificate(who: Identity = ALICE, at: datetime = NOW, by: Authority | None = None) -> str:
    return (by or authority()).issue(who, new_key().public_key(), at)


def handmade(by: Authority, *names: x509.GeneralName, is_authority: bool = False) -> str:
    """A certificate that `by` signed and that does not look as it should."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject)
        .public_key(new_key().public_key())
        .serial_number(7)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(by.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def contradictory(by: Authority) -> str:
    """A certificate whose extensions are there twice: it can be loaded, and not looked at."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    issuer = by.certificate.subject
    builder = x509.CertificateBuilder(issuer, subject, new_key().public_key(), 7, NOW - DAY, NOW + DAY)
    once = x509.Extension(
        x509.BasicConstraints.oid, critical=True, value=x509.BasicConstraints(ca=True, path_length=0)
    )
    builder._extensions = [once, once]
    return builder.sign(by.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def make_member(state_dir: Path, name: str, *addresses: str, role: Role = Role.HOST) -> Trust:
    """The credentials of a host, valid now, in its state folder."""
    folder = pki_folder(state_dir)
    issue_host_folder(
        authority_now(), folder, name=name, addresses=addresses or ("127.0.0.1",), now=datetime.now(UTC), role=role
    )  # fmt: skip
    return Trust(Keyring(folder))


@functools.cache
def authority_now(cluster: str = CLUSTER) -> Authority:
    """One that is valid when the test runs."""
    return Authority.create(cluster, datetime.now(UTC))
