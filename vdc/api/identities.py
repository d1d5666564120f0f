"""What travels about identities: joining, renewing, users, tokens, the authorities."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from vdc.model.base import Record, StrictRecord
from vdc.model.credentials import Authorities, IssuedCertificate
from vdc.model.identity import Identity, Role
from vdc.model.ids import DnsLabel

_PEM = 16 * 1024
_YEAR_S = 366 * 86_400


class AuthorityBundle(Record):
    """Public: whom this cluster's hosts trust. Whoever asks over an unverified connection checks a fingerprint."""

    cluster: str
    bundle: str  # PEM, the one that issues first
    record: Authorities | None = None  # the same, signed: for whoever trusts an older one


class JoinRequest(StrictRecord):
    """A host that wants to become a member."""

    token: str = Field(max_length=1024, repr=False)
    name: DnsLabel
    role: Role
    request: str = Field(max_length=_PEM)  # PKCS #10, PEM
    addresses: tuple[str, ...] = Field(default=(), max_length=8)


class RenewRequest(StrictRecord):
    """The caller's own certificate once more."""

    request: str = Field(max_length=_PEM)
    addresses: tuple[str, ...] = Field(default=(), max_length=8)  # of a machine: where it serves now


class Membership(Record):
    """A certificate and what belongs to it."""

    certificate: str  # PEM
    bundle: str  # PEM
    revoked: str = ""  # PEM, for machines


class TokenRequest(StrictRecord):
    """A join token that is wanted."""

    role: Role = Role.HOST
    ttl_s: int = Field(default=3600, ge=1)


class TokenView(Record):
    """A join token that can still be used, without its secret."""

    id: str
    role: Role
    expires_at: datetime
    created_by: str = ""
    host: str = ""  # where it is good


class TokenCreated(TokenView):
    """A new join token. Its text is a secret and shown this once."""

    token: str = Field(repr=False)


class TokenList(Record):
    """`vdc cluster token ls -o json`. `silent`: hosts that did not answer."""

    items: tuple[TokenView, ...]
    silent: tuple[str, ...] = ()


class UserRequest(StrictRecord):
    """A user to add; the private key stays where the request was made."""

    name: DnsLabel
    role: Role
    request: str = Field(max_length=_PEM)
    valid_for_s: int | None = Field(default=None, ge=60, le=10 * _YEAR_S)


class UserCreated(Record):
    """What a new user's context is made of."""

    name: str
    role: Role
    membership: Membership
    endpoints: tuple[str, ...]


class UserView(Record):
    """A user and the certificates that are valid."""

    name: str
    role: Role
    created_at: datetime
    created_by: str = ""
    certificates: tuple[IssuedCertificate, ...] = ()


class UserList(Record):
    """`vdc cluster user ls -o json`."""

    items: tuple[UserView, ...]


class CertificateView(Record):
    """A certificate that has not run out."""

    certificate: IssuedCertificate
    is_revoked: bool


class CertificateList(Record):
    """`vdc cluster certificates -o json`."""

    items: tuple[CertificateView, ...]


class AuthorityView(Record):
    """One authority."""

    fingerprint: str
    is_issuing: bool
    not_after: datetime


class AuthorityStatus(Record):
    """`vdc cluster ca show`: the authorities, and what a rotation waits for."""

    cluster: str
    phase: str
    authorities: tuple[AuthorityView, ...]
    untrusting: tuple[str, ...] = ()  # hosts that do not use every authority yet
    holders: tuple[Identity, ...] = ()  # whose newest certificate is of an old one


class AuthorityKeys(Record):
    """From a full host to a full host: the authorities' private keys (PEM)."""

    keys: str = Field(repr=False)
    bundle: str


class RevokedList(Record):
    """The signed list of revoked certificates (PEM), for etcd."""

    revoked: str
