"""Private keys (EC P-256) and requests for a certificate (PKCS #10). Pure.

Of a request nothing counts but its public key: who the certificate speaks for is decided by who issues it.
"""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from vdc.model.errors import InvalidError

CURVE = ec.SECP256R1
_END = "-----END PRIVATE KEY-----"
MAX_PEM_BYTES = 16 * 1024  # of one certificate, key or request; ours have less than one


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh key."""
    return ec.generate_private_key(CURVE())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """PKCS #8, not encrypted: the file's mode protects it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def key_from_pem(pem: str) -> ec.EllipticCurvePrivateKey:
    """Read `key_to_pem`'s form; InvalidError (`key-invalid`), which does not quote it."""
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidError("this is not a private key in PEM form", code="key-invalid") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, CURVE):
        raise InvalidError("the private key is not one of EC P-256", code="key-invalid")
    return key


def keys_from_pem(text: str) -> tuple[ec.EllipticCurvePrivateKey, ...]:
    """One key or several, one after the other; InvalidError (`key-invalid`)."""
    parts = text.split(_END)
    if len(parts) < 2 or parts[-1].strip():
        return (key_from_pem(text),)
    return tuple(key_from_pem(part + _END) for part in parts[:-1])


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of a public key, hexadecimal: by it a record names a key."""
    return hashlib.sha256(public_bytes(key)).hexdigest()


def public_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    """A form in which two keys can be compared."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def make_request(key: ec.EllipticCurvePrivateKey, name: str = "vdc") -> str:
    """A request (PEM) for a certificate of this key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def read_request(pem: str) -> ec.EllipticCurvePublicKey:
    """The public key of a request whose maker holds the private one; InvalidError (`request-invalid`)."""
    try:
        if len(pem) > MAX_PEM_BYTES:
            raise ValueError("too long")
        request = x509.load_pem_x509_csr(pem.encode())
        key = request.public_key()
        is_signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion) as error:
        raise _refused("it is not a certificate request in PEM form") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVE):
        raise _refused("its key is not one of EC P-256")
    if not is_signed:
        raise _refused("its signature is not of its own key")
    return key


def _refused(why: str) -> InvalidError:
    return InvalidError(f"the certificate request cannot be used: {why}", code="request-invalid")
