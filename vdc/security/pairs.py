"""Credentials of one lockstep: an authority that speaks for two copies of one guest, for one epoch. Pure.

The primary's host makes the authority, a certificate for itself and, from a request, the one of the secondary. QEMU
believes in this authority alone, so a copy of another pair, or of an earlier epoch of this one, is a stranger.

Both sides are server on some connections and client on others, and each side has one certificate for both. What
a certificate says beyond its authority is which side it belongs to (DNS name `primary` or `secondary`).

Dates say nothing here: an authority is forgotten with its epoch, and hosts whose clocks disagree have to be able
to protect each other's guests.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from vdc.model.errors import InvalidError
from vdc.security import building
from vdc.security.certificates import parse_certificate, public_key_of
from vdc.security.keys import key_from_pem, key_to_pem, make_request, new_key, public_bytes, read_request

_NOT_BEFORE: Final = datetime(2000, 1, 1, tzinfo=UTC)
_NOT_AFTER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280: no end


class Side(StrEnum):
    """Whose certificate it is; the value is its DNS name."""

    PRIMARY = "primary"
    SECONDARY = "secondary"


@dataclass(frozen=True, slots=True)
class KeyAndRequest:
    """A fresh key, which stays where it was made, and the request for its certificate. Both PEM."""

    key: str
    request: str

    @classmethod
    def make(cls) -> Self:
        """For either side: of a request nothing counts but its key."""
        key = new_key()
        return cls(key_to_pem(key), make_request(key))


class PairAuthority:
    """Signs for the two copies of one guest under one epoch."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, uid: str, epoch: int) -> Self:
        """A fresh one."""
        key = new_key()
        name = building.common_name(f"vdc {uid} epoch {epoch}")
        certificate = (
            building.begin(name, name, key.public_key(), _NOT_BEFORE, _NOT_AFTER)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(building.usage("key_cert_sign"), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def from_pem(cls, text: str) -> Self:
        """What `to_pem` gave; InvalidError (`certificate-invalid`, `key-invalid`, `key-mismatch`)."""
        certificate, key = parse_certificate(text), key_from_pem(text)
        if public_bytes(key.public_key()) != public_bytes(public_key_of(certificate)):
            raise InvalidError("key and certificate do not belong together", code="key-mismatch")
        return cls(certificate, key)

    def to_pem(self) -> str:
        """Key and certificate together. A secret."""
        return key_to_pem(self._key) + self.certificate

    @property
    def certificate(self) -> str:
        """What both sides believe in (PEM)."""
        return building.to_pem(self._certificate)

    def sign(self, request: str, side: Side) -> str:
        """A certificate (PEM) for the key of `request`; InvalidError (`request-invalid`)."""
        key = read_request(request)
        name = building.common_name(side)
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            building.begin(name, self._certificate.subject, key, _NOT_BEFORE, _NOT_AFTER)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(building.usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(side)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return building.to_pem(certificate)


def qemu_files(authority: str, certificate: str, key: str) -> dict[str, str]:
    """Name and content of each file that QEMU's `tls-creds-x509` looks for in its folder."""
    return {
        "ca-cert.pem": authority,
        "server-cert.pem": certificate,
        "server-key.pem": key,
        "client-cert.pem": certificate,
        "client-key.pem": key,
    }
