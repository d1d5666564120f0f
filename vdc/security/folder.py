"""A host's credentials on its disk: `STATE_DIR/pki/`, a folder that only its owner may enter.

    ca.crt       the authorities that this host trusts, the one that issues first
    ca.key       their keys; on full hosts only
    host.crt     who this host is
    host.key     its private key, made here; it leaves this machine never
    revoked.crl  the list of revoked certificates, for etcd
    tokens/      join tokens that this host gave out (vdc.security.tokens)
    issued/      certificates that were issued without a cluster, to be entered in its records
    authorities.json  the newest record of whom to trust that was believed: an older one is not, whoever wrote it

Every file is replaced in one rename, 0600 from its first byte on. A key that others can read is no secret any
more: it is refused, not repaired.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from vdc.model.errors import InvalidError, NotFoundError, RefusedError, UnauthenticatedError
from vdc.model.identity import Identity
from vdc.security.authority import Authority
from vdc.security.certificates import (
    MAX_BUNDLE_BYTES,
    Certificate,
    fingerprint_of,
    is_issued_by,
    parse_bundle,
    parse_certificate,
    public_key_of,
    read_certificate,
)
from vdc.security.keys import key_from_pem, key_to_pem, keys_from_pem, new_key, public_bytes

FOLDER = "pki"
BUNDLE = "ca.crt"
AUTHORITY_KEY = "ca.key"
CERTIFICATE = "host.crt"
KEY = "host.key"
REVOKED = "revoked.crl"
TOKENS = "tokens"
ISSUED = "issued"
SEEN = "authorities.json"
_MODE = 0o600
_FOLDER_MODE = 0o700


@dataclass(frozen=True, slots=True)
class HostCredentials:
    """Everything by which a host shows who it is, and knows the others."""

    certificate: Certificate
    certificate_pem: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    bundle_pem: str
    held: tuple[Authority, ...] = field(default=(), repr=False)  # authorities whose keys are here

    @property
    def authority(self) -> Authority | None:
        """The one that issues, where its key is here."""
        first = fingerprint_of(self.authorities[0])
        return next((found for found in self.held if found.fingerprint == first), None)

    @property
    def identity(self) -> Identity:
        """Who this host is."""
        return self.certificate.identity

    @property
    def key_pem(self) -> str:
        """The private key."""
        return key_to_pem(self.key)

    @property
    def authorities(self) -> tuple[x509.Certificate, ...]:
        """Whom this host trusts to say who somebody is."""
        return parse_bundle(self.bundle_pem)


def pki_folder(state_dir: Path) -> Path:
    """Where the credentials of the agent with this state folder are."""
    return state_dir / FOLDER


def is_member(folder: Path) -> bool:
    """Whether there is a certificate at all."""
    return (folder / CERTIFICATE).exists()


def load_credentials(folder: Path) -> HostCredentials:
    """Read and judge the folder; whether the certificate is still valid is `certificate.check_time`'s to say.

    Raises NotFoundError (`not-a-member`), RefusedError (`key-exposed`), InvalidError (`key-mismatch`,
    `key-invalid`, `certificate-invalid`), UnauthenticatedError (`certificate-foreign`, `certificate-nameless`).
    """
    if not is_member(folder):
        raise NotFoundError(
            f"this host belongs to no cluster: there is no certificate in {folder}",
            hint="join one with hostagent join --token TOKEN, or found one with vdc cluster init",
            code="not-a-member",
        )
    _check_folder(folder)
    key = key_from_pem(read_private(folder / KEY))
    certificate_pem, bundle_pem = read_public(folder / CERTIFICATE), read_public(folder / BUNDLE)
    found = parse_certificate(certificate_pem)
    if public_bytes(public_key_of(found)) != public_bytes(key.public_key()):
        raise _mismatch(folder, KEY, CERTIFICATE)
    certificate = read_certificate(found)
    if not certificate.identity.role.is_machine:
        raise InvalidError(
            f"{folder / CERTIFICATE} is the certificate of {certificate.identity}, not of a host",
            code="certificate-invalid",
        )
    if not any(is_issued_by(authority, found) for authority in parse_bundle(bundle_pem)):
        raise UnauthenticatedError(
            f"{folder / CERTIFICATE} was not issued by an authority in {BUNDLE}",
            hint="restore both from the same backup, or remove the folder and join anew",
            code="certificate-foreign",
        )
    return HostCredentials(certificate, certificate_pem, key, bundle_pem, _load_held(folder, bundle_pem))


def _load_held(folder: Path, bundle_pem: str) -> tuple[Authority, ...]:
    if not (folder / AUTHORITY_KEY).exists():
        return ()
    keys = {
        public_bytes(key.public_key()): key for key in keys_from_pem(read_private(folder / AUTHORITY_KEY))
    }
    held = tuple(
        Authority(certificate, keys[public])
        for certificate in parse_bundle(bundle_pem)
        if (public := public_bytes(public_key_of(certificate))) in keys
    )
    if not held:
        raise _mismatch(folder, AUTHORITY_KEY, BUNDLE)
    return held


def has_authority_key(folder: Path, certificate: x509.Certificate) -> bool:
    """Whether the key of an authority is here, trusted already or not; raises as `load_credentials`."""
    if not (folder / AUTHORITY_KEY).exists():
        return False
    wanted = public_bytes(public_key_of(certificate))
    found = keys_from_pem(read_private(folder / AUTHORITY_KEY))
    return any(public_bytes(key.public_key()) == wanted for key in found)


def read_private(path: Path) -> str:
    """A file that nobody else can read; RefusedError (`key-exposed`), NotFoundError (`not-a-member`)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is missing", code="not-a-member") from error
    except OSError as error:
        raise RefusedError(f"{path} cannot be read: {error.strerror}", code="key-exposed") from error
    with os.fdopen(descriptor, "rb") as file:
        _check_private(path, os.fstat(file.fileno()))
        return file.read(MAX_BUNDLE_BYTES).decode(errors="replace")


def read_public(path: Path) -> str:
    """A certificate file; NotFoundError (`not-a-member`) where it is absent."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BUNDLE_BYTES).decode(errors="replace")
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is missing", code="not-a-member") from error


def _check_private(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise _exposed(path, f"belongs to user {status.st_uid}")
    if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o077:
        raise _exposed(path, f"has the mode {stat.S_IMODE(status.st_mode):04o}")


def _check_folder(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise _exposed(folder, f"has the mode {stat.S_IMODE(status.st_mode):04o} of user {status.st_uid}")


def _exposed(path: Path, how: str) -> RefusedError:
    return RefusedError(
        f"others may have read the keys of this host: {path} {how}",
        hint="find out who could; then either chmod go= it, or revoke the certificate and join anew",
        code="key-exposed",
    )


def _mismatch(folder: Path, key: str, certificate: str) -> InvalidError:
    return InvalidError(
        f"{folder / key} does not fit {certificate}",
        hint="restore both from the same backup, or remove the folder and join anew",
        code="key-mismatch",
    )


# ---- writing


def prepare(folder: Path) -> None:
    """Make the folder, 0700; RefusedError (`key-exposed`) where it is there and others may enter it."""
    folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    _check_folder(folder)


def own_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """The host's private key: the one that is here, else a new one, on the disk before it is used."""
    prepare(folder)
    if (folder / KEY).exists():
        return key_from_pem(read_private(folder / KEY))
    key = new_key()
    write_private(folder / KEY, key_to_pem(key))
    return key


def write_membership(folder: Path, *, bundle_pem: str, certificate_pem: str, revoked_pem: str) -> None:
    """What an authority answered to the request of `own_key`; the certificate last, since it makes a member."""
    prepare(folder)
    write_private(folder / REVOKED, revoked_pem)
    write_private(folder / BUNDLE, bundle_pem)
    write_private(folder / CERTIFICATE, certificate_pem)


def write_authorities(folder: Path, held: Iterable[Authority]) -> None:
    """Keep these authorities' keys here and no others. One that is not in the bundle is not used yet."""
    write_private(folder / AUTHORITY_KEY, "".join(authority.key_pem for authority in held))


def forget_authorities(folder: Path) -> None:
    """Keep no authority's key here."""
    (folder / AUTHORITY_KEY).unlink(missing_ok=True)


def write_private(path: Path, text: str, *, owner: int | None = None) -> None:
    """Replace a file in one rename, 0600, and have it on the disk when this returns.

    `owner`: the uid and gid whose it is from its first byte on, where that is somebody else.
    """
    descriptor, name = tempfile.mkstemp(
        prefix=f".{path.name}.", dir=path.parent
    )  # O_EXCL and 0600 by contract
    try:
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(file.fileno(), _MODE)
            if owner is not None:
                os.fchown(file.fileno(), owner, owner)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Have renames in it on the disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
