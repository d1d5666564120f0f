"""What a certificate says, and whether it is to be believed: against a bundle of authorities, at a time. Pure."""

from __future__ import annotations

import re
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from vdc.model.base import Record
from vdc.model.errors import InvalidError, UnauthenticatedError
from vdc.model.identity import Identity
from vdc.security.keys import CURVE, MAX_PEM_BYTES

MAX_BUNDLE_BYTES = 8 * MAX_PEM_BYTES
_PEM_BEGIN = b"-----BEGIN"
_SERIAL = re.compile(r"[0-9a-f]{32}")
MAKES_NO_SENSE = (  # what `cryptography` raises, some of it only when a part is looked at
    ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)  # fmt: skip


class Certificate(Record):
    """What a certificate of a cluster says. Not yet that it is true, see `check_certificate`."""

    identity: Identity
    serial: str  # 32 hexadecimal digits
    not_before: datetime
    not_after: datetime
    fingerprint: str  # SHA-256 of the DER form, hexadecimal
    issuer: str = ""  # key identifier of the authority that signed it, hexadecimal
    addresses: tuple[str, ...] = ()

    @property
    def renewal_at(self) -> datetime:
        """When two thirds of its time are over."""
        return self.not_before + (self.not_after - self.not_before) * 2 / 3

    def check_time(self, now: datetime) -> None:
        """UnauthenticatedError (`certificate-expired`, `certificate-early`) where it is not valid now."""
        if now > self.not_after:
            raise UnauthenticatedError(
                f"the certificate of {self.identity} expired at {_text(self.not_after)}",
                hint="an admin issues another: vdc cluster user add, vdc cluster token create for a host",
                code="certificate-expired",
            )
        if now < self.not_before:
            raise UnauthenticatedError(
                f"the certificate of {self.identity} is valid from {_text(self.not_before)} on",
                hint="are both clocks right?",
                code="certificate-early",
            )


def parse_certificate(data: str | bytes) -> x509.Certificate:
    """One certificate, PEM or DER; InvalidError (`certificate-invalid`)."""
    try:
        raw = data.encode() if isinstance(data, str) else data
        if len(raw) > MAX_PEM_BYTES:
            raise ValueError("too long")
        is_pem = raw.lstrip().startswith(_PEM_BEGIN)
        return x509.load_pem_x509_certificate(raw) if is_pem else x509.load_der_x509_certificate(raw)
    except MAKES_NO_SENSE as error:
        raise InvalidError("this is not a certificate", code="certificate-invalid") from error


def parse_bundle(pem: str) -> tuple[x509.Certificate, ...]:
    """The authorities of a bundle, at least one; InvalidError (`certificate-invalid`)."""
    try:
        if len(pem) > MAX_BUNDLE_BYTES:
            raise ValueError("too long")
        found = tuple(x509.load_pem_x509_certificates(pem.encode()))
        if found and all(_is_authority(each) for each in found):
            return found
    except MAKES_NO_SENSE as error:
        raise InvalidError("this is not a bundle of certificates", code="certificate-invalid") from error
    raise InvalidError("a certificate of the bundle is not an authority's", code="certificate-invalid")


def fingerprint_of(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER form, hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def serial_of(certificate: x509.Certificate) -> str:
    """The serial number as it is written everywhere: 32 hexadecimal digits."""
    return f"{certificate.serial_number:032x}"


def is_serial(text: str) -> bool:
    """Whether a certificate can have this serial number: what else is in the records revokes nothing."""
    return _SERIAL.fullmatch(text) is not None and int(text, 16) > 0


def public_key_of(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Its key; InvalidError (`certificate-invalid`) where it is not of EC P-256."""
    try:
        key = certificate.public_key()
    except MAKES_NO_SENSE as error:
        raise InvalidError("the certificate's key makes no sense", code="certificate-invalid") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVE):
        raise InvalidError("the certificate's key is not one of EC P-256", code="certificate-invalid")
    return key


def key_identifier(authority: x509.Certificate) -> str:
    """By what the certificates that an authority issued name it (`Certificate.issuer`)."""
    try:
        return authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()
    except (x509.ExtensionNotFound, *MAKES_NO_SENSE):
        return ""


def read_certificate(data: str | bytes | x509.Certificate) -> Certificate:
    """What it says; InvalidError (`certificate-invalid`), UnauthenticatedError (`certificate-nameless`)."""
    found = data if isinstance(data, x509.Certificate) else parse_certificate(data)
    try:
        extensions = found.extensions
    except MAKES_NO_SENSE as error:
        raise InvalidError(
            "the certificate's extensions make no sense", code="certificate-invalid"
        ) from error
    names = _alternative_names(extensions)
    return Certificate(
        identity=_identity(names),
        serial=serial_of(found),
        not_before=found.not_valid_before_utc,
        not_after=found.not_valid_after_utc,
        fingerprint=fingerprint_of(found),
        issuer=_issuer(extensions),
        addresses=tuple(sorted(map(str, names.get_values_for_type(x509.IPAddress)))) if names else (),
    )


def check_certificate(
    data: str | bytes | x509.Certificate, authorities: tuple[x509.Certificate, ...], now: datetime
) -> Certificate:
    """What a certificate says, where it is true: issued by one of `authorities` directly, and valid now.

    Raises UnauthenticatedError: `certificate-foreign`, `certificate-nameless`, `certificate-expired`,
    `certificate-early`; InvalidError (`certificate-invalid`). Whether it was revoked the caller knows.
    """
    found = data if isinstance(data, x509.Certificate) else parse_certificate(data)
    if not any(is_issued_by(authority, found) and _is_current(authority, now) for authority in authorities):
        raise UnauthenticatedError(
            "the certificate was not issued by this cluster's authority",
            hint="is this the context of another cluster? vdc context ls",
            code="certificate-foreign",
        )
    certificate = read_certificate(found)
    certificate.check_time(now)
    return certificate


def read_revoked(pem: str) -> tuple[frozenset[str], datetime]:
    """Serial numbers in a list of revoked certificates, and when it was signed; InvalidError (`list-invalid`)."""
    try:
        found = x509.load_pem_x509_crl(pem.encode())
        return frozenset(f"{entry.serial_number:032x}" for entry in found), found.last_update_utc
    except MAKES_NO_SENSE as error:
        raise InvalidError("this is not a list of revoked certificates", code="list-invalid") from error


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, *MAKES_NO_SENSE):
        return False


def is_issued_by(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether `authority` signed it, as that of somebody: an authority's own speaks for nobody."""
    if _is_authority(certificate):
        return False
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, *MAKES_NO_SENSE):
        return False
    return True


def _is_current(authority: x509.Certificate, now: datetime) -> bool:
    return authority.not_valid_before_utc <= now <= authority.not_valid_after_utc


def _alternative_names(extensions: x509.Extensions) -> x509.SubjectAlternativeName | None:
    try:
        return extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _issuer(extensions: x509.Extensions) -> str:
    try:
        found = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return ""
    return found.hex() if found else ""


def _identity(names: x509.SubjectAlternativeName | None) -> Identity:
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    if len(uris) == 1:
        try:
            return Identity.parse(uris[0])
        except InvalidError:
            pass
    raise UnauthenticatedError(
        f"the certificate names {uris[0][:120]!r}"
        if len(uris) == 1
        else f"the certificate has {len(uris)} names",
        hint="a certificate of this cluster names exactly one vdc://CLUSTER/ROLE/NAME",
        code="certificate-nameless",
    )


def _text(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
