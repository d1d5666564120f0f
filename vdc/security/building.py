"""What every certificate made here has: name, term, random serial number, and what its key is for. Pure."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

_USAGES: Final = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def common_name(text: str) -> x509.Name:
    """A name of nothing but this."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, since: datetime, until: datetime
) -> x509.CertificateBuilder:
    """A certificate for `key`, to be extended and signed."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(secrets.randbits(128) or 1)
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def usage(*allowed: str) -> x509.KeyUsage:
    """What the key may be used for, by the names of RFC 5280, 4.2.1.3."""
    return x509.KeyUsage(**{one: one in allowed for one in _USAGES})


def to_pem(certificate: x509.Certificate) -> str:
    """The form in which it is stored and sent."""
    return certificate.public_bytes(Encoding.PEM).decode()
