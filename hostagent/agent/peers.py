"""Whom this agent hears: the hosts on record, each by the key that follows from its certificate there.

The store is not trusted with it: a certificate counts only if this cluster's authority issued it to that very host.
Whether it has expired is not asked: a clock that is wrong would make every peer look dead, and decisions read no
clock of that kind. Who may not be a peer any more is revoked, and has no record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from hostagent.heartbeat.order import NetworkKind
from hostagent.heartbeat.peer import Introduction
from hostagent.supervisor.node import NodeContext
from vdc.model.errors import UnauthenticatedError, VdcError
from vdc.model.host import Host, HostRole
from vdc.model.identity import Identity, Role
from vdc.security.certificates import is_issued_by, parse_certificate, public_key_of, read_certificate
from vdc.security.keyring import Keyring
from vdc.security.pairwise import pairwise_key
from vdc.store import keys

PURPOSE = "heartbeat"
_Asked = tuple[str, HostRole, str]  # name, role, certificate


class PeerKeys:
    """The keys that this host shares with its peers; each is computed once for a certificate."""

    def __init__(self, keyring: Keyring, warn: Callable[[str], object]) -> None:
        self._keyring = keyring
        self._warn = warn
        self._credentials = keyring.credentials  # that `_known` was found with
        self._known: dict[_Asked, tuple[bytes, str]] = {}  # the key, and the certificate's serial number
        self._said: dict[str, str] = {}

    def introduce(self, name: str, record: Host, revoked: Collection[str] = ()) -> Introduction:
        """What the record of `name` says; said once in the log where that is not enough to hear it.

        `revoked`: serial numbers of certificates.
        """
        addresses: dict[NetworkKind, str] = {"management": record.management_address}
        if record.replication_address:
            addresses["replication"] = record.replication_address
        try:
            key, why = self._key_of((name, record.role, record.certificate), revoked), ""
        except VdcError as error:
            key, why = b"", str(error)
            if self._said.get(name) != why:
                self._warn(f"{name} cannot be heard: {why}")
        self._said[name] = why
        return Introduction(addresses, key, record.incarnation, why)

    def _key_of(self, asked: _Asked, revoked: Collection[str]) -> bytes:
        if self._credentials is not self._keyring.credentials:
            self._credentials = self._keyring.credentials
            self._known.clear()
        if asked not in self._known:
            found = self._derive(*asked)
            self._known = {one: known for one, known in self._known.items() if one[0] != asked[0]}
            self._known[asked] = found
        key, serial = self._known[asked]
        if serial in revoked:
            raise UnauthenticatedError(
                "the certificate in its host record was revoked", code="certificate-revoked"
            )
        return key

    def _derive(self, name: str, role: HostRole, certificate: str) -> tuple[bytes, str]:
        own = self._credentials
        if not certificate:
            raise UnauthenticatedError("its host record has no certificate", code="certificate-missing")
        found = parse_certificate(certificate)
        if not any(is_issued_by(authority, found) for authority in own.authorities):
            raise UnauthenticatedError(
                "the certificate in its host record was not issued by this cluster's authority",
                code="certificate-foreign",
            )
        said = read_certificate(found)
        wanted = Identity(cluster=own.identity.cluster, role=Role(role), name=name)
        if said.identity != wanted:
            raise UnauthenticatedError(
                f"the certificate in its host record is that of {said.identity.uri}, not of {wanted.uri}",
                code="certificate-foreign",
            )
        return pairwise_key(own.key, own.identity, public_key_of(found), wanted, PURPOSE), said.serial


def when_peers_change(host: NodeContext, keyring: Keyring) -> asyncio.Event:
    """Set whenever `follow_peers` might find something else: records, revocations, own credentials."""
    changed = asyncio.Event()
    prefixes = (keys.HOSTS, keys.REVOKED)
    host.mirror.subscribe(lambda key: changed.set() if not key or key.startswith(prefixes) else None)
    keyring.subscribe(lambda _: changed.set())
    return changed


def follow_peers(host: NodeContext, peer_keys: PeerKeys) -> None:
    """Heartbeats go to every other host, on the networks that it has."""
    mirror = host.mirror
    others = {name: found.value for name, found in mirror.hosts.items() if name != host.name}
    host.heartbeats.set_peers(
        {name: peer_keys.introduce(name, record, mirror.revoked) for name, record in others.items()}
    )
