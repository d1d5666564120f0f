"""Certificates as this agent issues them: entered in the records first, handed out then.

Every full host has the authority's key. One that has not got it yet, and a witness, say that another one does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from ipaddress import IPv4Address

from vdc.api import identities as wire
from vdc.api.transport import DONE_ELSEWHERE
from vdc.control.identities import Identities
from vdc.model.credentials import Authorities, IssuedCertificate, Revocation
from vdc.model.errors import ConflictError, InvalidError, UnavailableError, VdcError
from vdc.model.identity import Identity, Role
from vdc.protection.rotation import Phase, advance, begin, holders, missing_trust, phase_of, retire
from vdc.security.authorities import believe, entry_of, sign
from vdc.security.authority import Authority, cluster_of
from vdc.security.certificates import parse_certificate, public_key_of, read_certificate
from vdc.security.cluster import enter_later
from vdc.security.folder import ISSUED, has_authority_key, read_private, write_authorities
from vdc.security.keyring import Keyring
from vdc.security.keys import key_digest, read_request
from vdc.store.mirror import Mirror
from vdc.store.protocol import KeyValue


class Issuer:
    """One per agent."""

    def __init__(
        self, host: str, keyring: Keyring, identities: Identities, mirror: Mirror, now: Callable[[], datetime]
    ) -> None:
        self._host = host
        self._mirror = mirror
        self.keyring = keyring
        self.identities = identities
        self.now = now
        self._rotating = asyncio.Lock()

    @property
    def authority(self) -> Authority:
        """The one that issues; UnavailableError where its key is not here."""
        return self._required(self.keyring.credentials.authority)

    def _required(self, found: Authority | None) -> Authority:
        if found is None:
            raise UnavailableError(
                f"{self._host} does not have the cluster's key",
                hint="ask a host that is no witness: vdc get nodes",
                code=DONE_ELSEWHERE,
            )
        return found

    async def issue(
        self,
        identity: Identity,
        request_pem: str,
        claim: KeyValue,
        *,
        addresses: Collection[str] = (),
        valid_for: timedelta | None = None,
    ) -> wire.Membership:
        """A certificate for the key of a request, recorded. Raises as `Authority.sign` and `Identities.enter`."""
        authority = self.authority
        certificate = authority.sign(
            request_pem, identity, self.now(), addresses=addresses, valid_for=valid_for
        )
        await self.identities.enter(self.record_of(certificate), claim)
        revoked = self.revocation_list() if identity.role.is_machine else ""
        bundle = self.keyring.credentials.bundle_pem
        return wire.Membership(certificate=certificate, bundle=bundle, revoked=revoked)

    def issue_early(
        self, identity: Identity, request_pem: str, *, addresses: Collection[str]
    ) -> wire.Membership:
        """As `issue`, for a cluster that has no records yet: what is issued is entered when it has.

        ConflictError (`host-known`) where this host has given the name to another key.
        """
        issued = self.keyring.folder / ISSUED
        for path in issued.glob("*.crt") if issued.is_dir() else ():
            known = self.record_of(read_private(path))
            is_same = (known.identity.name, known.identity.role.is_machine) == (identity.name, True)
            if is_same and known.key != self.key_of(request_pem):
                raise ConflictError(
                    f"{identity.name} has joined already, with another key", code="host-known"
                )
        if identity.name == self._host:
            raise ConflictError(f"this is {identity.name}", code="host-known")
        authority, now = self.authority, self.now()
        certificate = authority.sign(request_pem, identity, now, addresses=addresses)
        enter_later(self.keyring.folder, certificate)
        return wire.Membership(
            certificate=certificate,
            bundle=self.keyring.credentials.bundle_pem,
            revoked=authority.revocation_list([], now),
        )

    def record_of(self, certificate_pem: str) -> IssuedCertificate:
        """What is recorded of a certificate."""
        found = parse_certificate(certificate_pem)
        said = read_certificate(found)
        return IssuedCertificate(
            serial=said.serial,
            identity=said.identity,
            not_after=said.not_after,
            issued_at=self.now(),
            issuer=said.issuer,
            key=key_digest(public_key_of(found)),
            issued_by=self._host,
        )

    def revocation_list(self) -> str:
        """The signed list as of now; UnavailableError where the authority's key is not here."""
        found = []
        for serial, text in self._mirror.revocations.items():
            try:
                found.append((serial, Revocation.from_json(text).at))
            except ValueError:  # it counts, whatever it says
                found.append((serial, self.now()))
        return self.authority.revocation_list(found, self.now())

    def machine_addresses(self, name: str, addresses: Collection[str]) -> tuple[str, ...]:
        """Where a machine may serve; InvalidError (`address-invalid`), ConflictError (`address-taken`)."""
        for text in addresses:
            try:
                address = IPv4Address(text)
            except ValueError as error:
                raise InvalidError(f"{text[:40]!r} is not an IPv4 address", code="address-invalid") from error
            if address.is_unspecified or address.is_multicast:
                raise InvalidError(f"{text} is no host's address", code="address-invalid")
        self.identities.check_addresses(name, addresses)
        return tuple(addresses)

    def key_of(self, request_pem: str) -> str:
        """The digest of a request's key; InvalidError (`request-invalid`)."""
        return key_digest(read_request(request_pem))

    # ---- rotation

    async def rotation(self) -> tuple[Authorities, int]:
        """The record of the authorities, believed, and its revision."""
        record, revision = await self.identities.authorities()
        if record is None:
            raise UnavailableError(
                "no host has entered the cluster's authority yet",
                hint="try again in a moment",
                code="not-synced",
            )
        believe(record, self.keyring.credentials.bundle_pem)
        return record, revision

    async def holders(self, record: Authorities) -> tuple[Identity, ...]:
        """Who shows a certificate of an authority that does not issue any more: the newest one, or a host on record.

        A host that was given a new one may not have got it, and is heard by the one in its host record.
        """
        certificates = await self.identities.certificates()
        found = holders(record, certificates, await self.identities.revoked(), self.now())
        on_record = (
            Identity(
                cluster=cluster_of(self.keyring.credentials.authorities[0]),
                role=Role(host.value.role),
                name=name,
            )
            for name, host in self._mirror.hosts.items()
            if host.value.certificate and _issuer_of(host.value.certificate) != record.issuer.key_id
        )
        by_uri = {identity.uri: identity for identity in (*found, *on_record)}
        return tuple(identity for _, identity in sorted(by_uri.items()))

    def untrusting(self, record: Authorities) -> tuple[str, ...]:
        """The hosts that do not use every authority yet."""
        return missing_trust(record, self._mirror.trust, self._mirror.hosts)

    async def rotate(self) -> None:
        """Introduce a new authority; ConflictError (`rotation-running`, `contention`).

        One that is being introduced and whose key has not come here is taken for lost with the host that made it:
        agents fetch keys within seconds.
        """
        async with self._rotating:  # of two at once the second would replace the first one's key
            record, revision = await self.rotation()
            old = self._signer(record)
            new = Authority.create(old.cluster, self.now())
            newest = parse_certificate(record.entries[-1].certificate)
            is_key_lost = not has_authority_key(self.keyring.folder, newest)
            introduced = sign(begin(record, entry_of(new), is_key_lost=is_key_lost), old)
            write_authorities(self.keyring.folder, [*self.keyring.credentials.held, new])
            await self.identities.put_authorities(introduced, revision)

    async def advance(self) -> bool:
        """Let the new authority issue where every host trusts it; says whether it has just come to that."""
        record, revision = await self.identities.authorities()
        if record is None or phase_of(record) is not Phase.INTRODUCED:
            return False
        believe(record, self.keyring.credentials.bundle_pem)
        after = advance(record, self._mirror.trust, self._mirror.hosts)
        signer = self._held(record.issuing)
        if after is None or signer is None or self._held(after.issuing) is None:
            return False
        try:
            await self.identities.put_authorities(sign(after, signer), revision)
        except ConflictError:
            return False
        return True

    async def retire(self) -> None:
        """Give the old authority up; ConflictError (`no-rotation`), RefusedError (`authority-in-use`, ...)."""
        record, revision = await self.rotation()
        after = retire(record, await self.holders(record))
        await self.identities.put_authorities(sign(after, self._signer(record)), revision)

    def _signer(self, record: Authorities) -> Authority:
        return self._required(self._held(record.issuing))

    def _held(self, fingerprint: str) -> Authority | None:
        held = self.keyring.credentials.held
        return next((found for found in held if found.fingerprint == fingerprint), None)


def _issuer_of(certificate_pem: str) -> str:
    """By which authority it says that it is; empty where it cannot be read."""
    try:
        return read_certificate(certificate_pem).issuer
    except VdcError:
        return ""
