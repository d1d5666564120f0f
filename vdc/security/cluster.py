"""How a cluster begins: its authority, its first host and its first administrator, without anything running."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from vdc.model.errors import ConflictError, InvalidError
from vdc.model.identity import USER_ROLES, Identity, Role
from vdc.security import folder as pki
from vdc.security.authority import Authority, new_cluster_id
from vdc.security.certificates import read_certificate
from vdc.security.credentials import UserCredentials
from vdc.security.folder import HostCredentials
from vdc.security.keys import key_to_pem, new_key


@dataclass(frozen=True, slots=True)
class Founded:
    """A cluster that has just begun."""

    cluster: str
    authority: Authority
    host: HostCredentials
    admin: UserCredentials


def init(
    folder: Path,
    *,
    host: str,
    addresses: Iterable[str],
    now: datetime,
    admin: str = "admin",
    cluster: str | None = None,
) -> Founded:
    """Found a cluster whose first host has its credentials in `folder`; ConflictError (`already-a-member`)."""
    require_no_member(folder)
    authority = Authority.create(cluster or new_cluster_id(), now)
    credentials = issue_host_folder(authority, folder, name=host, addresses=addresses, now=now)
    user = issue_user(authority, name=admin, role=Role.ADMIN, now=now)
    enter_later(folder, user.certificate_pem)
    return Founded(authority.cluster, authority, credentials, user)


def issue_host_folder(
    authority: Authority,
    folder: Path,
    *,
    name: str,
    addresses: Iterable[str],
    now: datetime,
    role: Role = Role.HOST,
    bundle_pem: str = "",
) -> HostCredentials:
    """Make a whole host's (or witness's) folder where the authority's key is at hand: labs and provisioning.

    A witness gets no key of the authority. ConflictError (`already-a-member`).
    """
    if not role.is_machine:
        raise InvalidError(f"a host has the role host or witness, not {role}", code="role-invalid")
    require_no_member(folder)
    key = pki.own_key(folder)
    identity = Identity(cluster=authority.cluster, role=role, name=name)
    certificate_pem = authority.issue(identity, key.public_key(), now, addresses=addresses)
    if role is Role.HOST:
        pki.write_authorities(folder, [authority])
    pki.write_membership(
        folder,
        bundle_pem=bundle_pem or authority.pem,
        certificate_pem=certificate_pem,
        revoked_pem=authority.revocation_list([], now),
    )
    return pki.load_credentials(folder)


def issue_user(
    authority: Authority,
    *,
    name: str,
    role: Role,
    now: datetime,
    valid_for: timedelta | None = None,
    bundle_pem: str = "",
) -> UserCredentials:
    """A person's key and certificate; InvalidError (`role-invalid`)."""
    if role not in USER_ROLES:
        raise InvalidError(f"a person is {', '.join(USER_ROLES)}, not {role}", code="role-invalid")
    key = new_key()
    identity = Identity(cluster=authority.cluster, role=role, name=name)
    certificate_pem = authority.issue(identity, key.public_key(), now, valid_for=valid_for)
    return UserCredentials(bundle_pem or authority.pem, certificate_pem, key_to_pem(key))


def require_no_member(folder: Path) -> None:
    """ConflictError (`already-a-member`) where the folder has a certificate."""
    if not pki.is_member(folder):
        return
    identity = read_certificate(pki.read_public(folder / pki.CERTIFICATE)).identity
    raise ConflictError(
        f"this host is {identity.name} of cluster {identity.cluster} already",
        hint=f"to leave it for good: stop the agent, vdc node remove {identity.name}, then remove {folder}",
        code="already-a-member",
    )


def enter_later(folder: Path, certificate_pem: str) -> None:
    """Keep a certificate that was issued offline for the agent, which enters it in the cluster's records."""
    issued = folder / pki.ISSUED
    pki.prepare(issued)
    pki.write_private(issued / f"{read_certificate(certificate_pem).serial}.crt", certificate_pem)
