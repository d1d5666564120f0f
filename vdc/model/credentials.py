"""Records of who may speak: users, certificates that were issued and revoked, the authorities that issue them."""

from __future__ import annotations

from datetime import datetime

from pydantic import AwareDatetime, Field

from vdc.model.base import Record
from vdc.model.identity import Identity, Role
from vdc.model.ids import DnsLabel


class User(Record):
    """A person (or a script) with a certificate of its own."""

    name: DnsLabel
    role: Role
    created_at: AwareDatetime
    created_by: str = ""
    valid_for_s: int | None = None  # asked for when it was added: then it is not renewed


class IssuedCertificate(Record):
    """A certificate that was handed out, by serial number."""

    serial: str
    identity: Identity
    not_after: AwareDatetime
    issued_at: AwareDatetime
    issuer: str  # key identifier of the authority
    key: str  # SHA-256 of the public key
    issued_by: str = ""  # the host

    def is_valid(self, now: datetime) -> bool:
        """Whether it has not run out."""
        return now <= self.not_after


class Revocation(Record):
    """A certificate that counts no more; kept until it would have run out."""

    serial: str
    at: AwareDatetime
    until: AwareDatetime
    identity: Identity | None = None  # None: nobody knows whose it was
    by: str = ""


class AuthorityEntry(Record):
    """One authority that is trusted."""

    fingerprint: str  # SHA-256 of its certificate
    key_id: str  # by what its certificates name it
    certificate: str  # PEM


class Authorities(Record):
    """Whom every host has to trust, and which of them issues; one, but while they rotate.

    Whoever can write to the store could write this record as well, a witness for example: it counts only with
    the signature of an authority that is trusted already, and only if its number is not lower than one seen.
    """

    number: int
    entries: tuple[AuthorityEntry, ...] = Field(min_length=1)  # oldest first
    issuing: str  # fingerprint
    signed_by: str = ""  # fingerprint
    signature: str = ""

    def entry(self, fingerprint: str) -> AuthorityEntry | None:
        """The authority with this fingerprint."""
        return next((entry for entry in self.entries if entry.fingerprint == fingerprint), None)

    @property
    def issuer(self) -> AuthorityEntry:
        """The one that issues."""
        found = self.entry(self.issuing)
        assert found is not None
        return found

    @property
    def bundle(self) -> str:
        """All as PEM, the one that issues first."""
        ordered = sorted(self.entries, key=lambda entry: entry.fingerprint != self.issuing)
        return "".join(entry.certificate.strip() + "\n" for entry in ordered)


class Trust(Record):
    """Which authorities a host's agent really uses by now."""

    host: DnsLabel
    fingerprints: tuple[str, ...]
