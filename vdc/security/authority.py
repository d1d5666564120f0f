"""The cluster's certificate authority: who holds its key decides who is who. Pure; the time is passed in."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vdc.model.errors import InvalidError
from vdc.model.identity import Identity, Role
from vdc.security import building
from vdc.security.certificates import (
    MAKES_NO_SENSE,
    fingerprint_of,
    is_serial,
    key_identifier,
    parse_certificate,
    public_key_of,
    read_certificate,
)
from vdc.security.keys import key_from_pem, key_to_pem, new_key, public_bytes, read_request

AUTHORITY_FOR = timedelta(days=3650)
MACHINE_FOR = timedelta(days=90)
USER_FOR = timedelta(days=365)
BACKDATED = timedelta(minutes=5)  # for whoever's clock is a little behind
CRL_FOR = timedelta(days=30)
_FIRST_YEAR = 1950  # of a UTCTime (RFC 5280)
MEMBER_NAME = "member.vdc.internal"  # etcd admits only certificates with this name
LOOPBACK = "127.0.0.1"
_COMMON_NAME = re.compile(r"VDC cluster ([0-9a-f]{12})")


def new_cluster_id() -> str:
    """Twelve random hexadecimal characters."""
    return secrets.token_hex(6)


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority's certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(cls, cluster: str, now: datetime) -> Self:
        """A new one for `cluster`."""
        key = new_key()
        name = building.common_name(f"VDC cluster {cluster}")
        builder = building.begin(name, name, key.public_key(), now - BACKDATED, now + AUTHORITY_FOR)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(building.usage("key_cert_sign", "crl_sign"), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, certificate_pem: str, key_pem: str) -> Self:
        """From what `pem` and `key_pem` gave; InvalidError (`certificate-invalid`, `key-invalid`, `key-mismatch`)."""
        certificate, key = parse_certificate(certificate_pem), key_from_pem(key_pem)
        if public_bytes(public_key_of(certificate)) != public_bytes(key.public_key()):
            raise InvalidError("the key is not that of the authority's certificate", code="key-mismatch")
        cluster_of(certificate)
        return cls(certificate, key)

    @property
    def cluster(self) -> str:
        """The cluster's id."""
        return cluster_of(self.certificate)

    @property
    def pem(self) -> str:
        """Its certificate."""
        return building.to_pem(self.certificate)

    @property
    def key_pem(self) -> str:
        """Its private key: whoever has this is the cluster."""
        return key_to_pem(self.key)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its certificate, hexadecimal."""
        return fingerprint_of(self.certificate)

    def issue(
        self,
        identity: Identity,
        key: ec.EllipticCurvePublicKey,
        now: datetime,
        *,
        addresses: Iterable[str] = (),
        valid_for: timedelta | None = None,
    ) -> str:
        """A certificate (PEM) that says that whoever has the private part of `key` is `identity`.

        `addresses` (of machines only): where it serves. It never outlives the authority.
        """
        if identity.cluster != self.cluster or identity.role is Role.NOBODY:
            raise InvalidError(f"{identity.uri} is not of cluster {self.cluster}", code="identity-invalid")
        is_machine = identity.role.is_machine
        wanted = valid_for or (MACHINE_FOR if is_machine else USER_FOR)
        wanted = min(wanted, self.certificate.not_valid_after_utc - now)
        subject, issuer_name = building.common_name(identity.name), self.certificate.subject
        builder = building.begin(subject, issuer_name, key, now - BACKDATED, now + wanted)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
        if is_machine:
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
            names += [x509.DNSName(name) for name in (identity.name, MEMBER_NAME)]
            names += [x509.IPAddress(ip_address(text)) for text in sorted({LOOPBACK, *addresses})]
        for extension, is_critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (building.usage("digital_signature"), True),
            (x509.ExtendedKeyUsage(purposes), False),
            (x509.SubjectAlternativeName(names), False),
            (issuer, False),
        ):
            builder = builder.add_extension(extension, critical=is_critical)
        return building.to_pem(builder.sign(self.key, hashes.SHA256()))

    def sign(
        self,
        request_pem: str,
        identity: Identity,
        now: datetime,
        *,
        addresses: Iterable[str] = (),
        valid_for: timedelta | None = None,
    ) -> str:
        """Answer a certificate request as `issue`; its key alone is taken from it. InvalidError (`request-invalid`)."""
        return self.issue(identity, read_request(request_pem), now, addresses=addresses, valid_for=valid_for)

    def renew(self, certificate_pem: str, now: datetime, *, addresses: Iterable[str] | None = None) -> str:
        """The same for a new term: identity, key and length as they were, addresses unless others are given."""
        old = parse_certificate(certificate_pem)
        said = read_certificate(old)
        return self.issue(
            said.identity,
            public_key_of(old),
            now,
            addresses=said.addresses if addresses is None else addresses,
            valid_for=said.not_after - said.not_before - BACKDATED,
        )

    def revocation_list(self, revoked: Iterable[tuple[str, datetime]], now: datetime) -> str:
        """The signed list (PEM) of serial numbers and when each was revoked.

        Whatever is among them that no list can hold (anybody who writes to the store can put it there) hinders none.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now)
            .next_update(now + CRL_FOR)
            .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )
        for serial, at in sorted((serial, at) for serial, at in revoked if is_serial(serial)):
            entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16))
            entry = entry.revocation_date(at if at.year >= _FIRST_YEAR else now)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    @property
    def key_identifier(self) -> str:
        """By what its certificates name it (`Certificate.issuer`)."""
        return key_identifier(self.certificate)


def cluster_of(authority: x509.Certificate) -> str:
    """The id of the cluster whose authority this is; InvalidError (`certificate-invalid`)."""
    try:
        names = authority.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except MAKES_NO_SENSE:
        names = []
    match = _COMMON_NAME.fullmatch(str(names[0].value)) if len(names) == 1 else None
    if match is None:
        raise InvalidError("the certificate is not a cluster's authority's", code="certificate-invalid")
    return match[1]
