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
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vdc.model.errors import InvalidError

MAX_REQUEST_BYTES: Final = 4096  # ours have less than 500
_NOT_BEFORE: Final = datetime(2000, 1, 1, tzinfo=UTC)
_NOT_AFTER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280: no end
_USAGES: Final = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


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
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vdc")])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
        return cls(_key_to_pem(key), request.public_bytes(Encoding.PEM).decode())


class PairAuthority:
    """Signs for the two copies of one guest under one epoch."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, uid: str, epoch: int) -> Self:
        """A fresh one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"vdc {uid} epoch {epoch}")])
        certificate = (
            _builder(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage("key_cert_sign"), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def from_pem(cls, text: str) -> Self:
        """What `to_pem` gave; InvalidError (`authority-invalid`), which does not quote it."""
        try:
            key = load_pem_private_key(text.encode(), password=None)
            certificate = x509.load_pem_x509_certificate(text.encode())
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InvalidError("this is not a pair's authority", code="authority-invalid") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise InvalidError("key and certificate do not belong together", code="authority-invalid")
        return cls(certificate, key)

    def to_pem(self) -> str:
        """Key and certificate together. A secret."""
        return _key_to_pem(self._key) + self.certificate

    @property
    def certificate(self) -> str:
        """What both sides believe in (PEM)."""
        return self._certificate.public_bytes(Encoding.PEM).decode()

    def sign(self, request: str, side: Side) -> str:
        """A certificate (PEM) for the key of `request`; InvalidError (`request-invalid`)."""
        key = _read_request(request)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, side)])
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _builder(name, self._certificate.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(side)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM).decode()


def qemu_files(authority: str, certificate: str, key: str) -> dict[str, str]:
    """Name and content of each file that QEMU's `tls-creds-x509` looks for in its folder."""
    return {
        "ca-cert.pem": authority,
        "server-cert.pem": certificate,
        "server-key.pem": key,
        "client-cert.pem": certificate,
        "client-key.pem": key,
    }


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
    )


def _usage(*allowed: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in allowed for usage in _USAGES})


def _read_request(request: str) -> ec.EllipticCurvePublicKey:
    try:
        if len(request) > MAX_REQUEST_BYTES:
            raise ValueError("too long")
        found = x509.load_pem_x509_csr(request.encode())
        key = found.public_key()
        if not found.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("not signed by its own key")
        if not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("another curve")
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise InvalidError(
            "this is not a request for a pair's certificate", code="request-invalid"
        ) from error
    return key


def _key_to_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
