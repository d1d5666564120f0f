"""The upkeep of this host's credentials: renewed in time, authorities followed, revocations written out for etcd.

Each part looks at what is and does what is missing; one that fails is tried again, and holds up no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hostagent.drivers.etcd import EmbeddedMember
from hostagent.server.issuing import Issuer
from hostagent.supervisor.node import NodeContext
from vdc.api import identities as wire
from vdc.api.client import ApiClient
from vdc.model.credentials import Authorities, Trust, User
from vdc.model.errors import ConflictError, UnavailableError, VdcError
from vdc.model.event import Severity
from vdc.model.identity import Role
from vdc.protection.rotation import Phase, phase_of
from vdc.security import folder as pki
from vdc.security.authorities import believe, first_record
from vdc.security.authority import Authority
from vdc.security.certificates import (
    check_certificate,
    fingerprint_of,
    is_issued_by,
    is_serial,
    key_identifier,
    parse_bundle,
    parse_certificate,
    public_key_of,
    read_revoked,
)
from vdc.security.folder import HostCredentials
from vdc.security.keyring import Keyring
from vdc.security.keys import keys_from_pem, make_request, public_bytes
from vdc.store import keys

EVERY_S = 60.0
RETRY_S = 10.0
DEBOUNCE_S = 0.2
LIST_EVERY = timedelta(days=1)  # the list of the revoked is signed anew
TRIM_EVERY = timedelta(hours=1)
COMPLAIN_EVERY = timedelta(hours=12)


def open_keyring(folder: Path, now: datetime) -> Keyring:
    """This host's credentials, at the start of its agent; a full host renews what has run out meanwhile by itself.

    What has not run out is renewed by the upkeep, which asks the records whether this is a host still: a renewal
    has a serial number that nobody has revoked.

    Raises as `load_credentials`, and UnauthenticatedError (`certificate-expired`, `certificate-early`).
    """
    keyring = Keyring(folder)
    found = keyring.credentials
    has_ended = now > found.certificate.not_after and found.certificate.serial not in keyring.listed()
    if has_ended and found.authority is not None:
        pki.write_private(folder / pki.CERTIFICATE, found.authority.renew(found.certificate_pem, now))
        keyring.reload()
    keyring.credentials.certificate.check_time(now)
    return keyring


class CredentialsKeeper:
    """One per agent. Whoever uses the credentials subscribes to the keyring."""

    def __init__(
        self,
        host: NodeContext,
        issuer: Issuer,
        peer: Callable[[str], ApiClient],
        addresses: tuple[str, ...],
        member: EmbeddedMember | None = None,
    ) -> None:
        """`addresses`: where this host serves, which its certificate has to bear out; `member`: its member of etcd."""
        self._host = host
        self._member = member
        self._issuer = issuer
        self._keyring = issuer.keyring
        self._peer = peer
        self._addresses = addresses
        self._trimmed_at: datetime | None = None
        self._complained_at: datetime | None = None

    async def run(self) -> None:
        """For ever."""
        changed = asyncio.Event()
        self._host.mirror.subscribe(
            lambda key: changed.set() if not key or key.startswith((keys.SECURITY, keys.HOSTS)) else None
        )
        await self._host.mirror.synced.wait()
        await self._host.announced.wait()
        while True:
            changed.clear()
            went_well = await self.step()
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S if went_well else RETRY_S):
                    await changed.wait()
            await asyncio.sleep(DEBOUNCE_S)

    async def step(self) -> bool:
        """Everything that is due now; says whether all of it could be done."""
        went_well = True
        parts: tuple[Callable[[], Awaitable[None]], ...] = (
            self._enter_own, self._follow_authorities, self._fetch_keys, self._renew,
            self._say_trust, self._advance, self._write_revoked, self._trim,
        )  # fmt: skip
        for part in parts:
            try:
                await part()
            except VdcError as error:
                went_well = False
                self._host.log.warning("credentials", doing=part.__name__.strip("_"), why=str(error))
                if part == self._renew:
                    await self._complain(error)
            except OSError as error:
                went_well = False
                self._host.log.warning("credentials cannot be written", why=str(error))
            except Exception:  # what others wrote into the records must not end an agent that guests live by
                went_well = False
                self._host.log.exception(
                    "defect in the upkeep of credentials", doing=part.__name__.strip("_")
                )
        return went_well

    @property
    def _credentials(self) -> HostCredentials:
        return self._keyring.credentials

    # ---- what was issued without a cluster

    async def _enter_own(self) -> None:
        own = self._credentials.certificate
        if own.serial not in self._host.mirror.certificates and own.serial not in self._host.mirror.revoked:
            record = self._issuer.record_of(self._credentials.certificate_pem)
            if not self._keyring.is_founding:  # one that was removed does not come back by itself
                await self._issuer.identities.require_name(self._host.name, record.key)
            await self._issuer.identities.enter_machine(record)
        folder = self._keyring.folder / pki.ISSUED
        for path in sorted(folder.glob("*.crt")) if folder.is_dir() else ():
            await self._enter(pki.read_private(path))
            path.unlink(missing_ok=True)

    async def _enter(self, certificate_pem: str) -> None:
        now = self._issuer.now()
        identity = check_certificate(certificate_pem, self._credentials.authorities, now).identity
        record = self._issuer.record_of(certificate_pem)
        if identity.role.is_machine:
            await self._issuer.identities.enter_machine(record)
        else:
            user = User(name=identity.name, role=identity.role, created_at=now, created_by="vdc cluster init")
            await self._issuer.identities.enter_user(user, record)

    # ---- authorities

    async def _follow_authorities(self) -> None:
        found = self._host.mirror.authorities
        if found is None:
            if (authority := self._credentials.authority) is not None:
                with suppress(ConflictError):
                    await self._issuer.identities.put_authorities(first_record(authority), 0)
            return
        record, seen = found.value, self._keyring.authorities()
        if seen is not None and record.number < seen.number:
            await self._put_back(seen, record, found.revision)
            return
        if record.bundle == self._credentials.bundle_pem and record == seen:
            return
        believe(record, self._credentials.bundle_pem)
        await self._adopt(record)

    async def _put_back(self, seen: Authorities, found: Authorities, revision: int) -> None:
        """An older record is in the store: somebody's doing, or the records are those of an older backup."""
        if not self._credentials.held:
            raise UnavailableError(
                f"the record of authorities is number {found.number}; {seen.number} was seen before"
            )
        await self._issuer.identities.put_authorities(seen, revision)
        self._host.log.warning("an older record of authorities was replaced", number=seen.number)

    async def _adopt(self, record: Authorities) -> None:
        folder, trusted = self._keyring.folder, parse_bundle(record.bundle)
        own = parse_certificate(self._credentials.certificate_pem)
        if not any(is_issued_by(authority, own) for authority in trusted):
            raise UnavailableError("the authority of this host's certificate is retired: it has to join anew")
        fingerprints = {entry.fingerprint for entry in record.entries}
        pki.write_private(folder / pki.SEEN, record.to_json())
        if record.bundle != self._credentials.bundle_pem:
            pki.write_private(folder / pki.BUNDLE, record.bundle)
            self._keyring.reload()
            self._host.log.info("this host trusts these authorities now", authorities=sorted(fingerprints))
        if phase_of(record) is Phase.STABLE and self._credentials.held:
            pki.write_authorities(
                folder, [one for one in self._credentials.held if one.fingerprint in fingerprints]
            )

    async def _fetch_keys(self) -> None:
        """A full host may issue: it gets the keys from another one."""
        missing = {fingerprint_of(one) for one in self._credentials.authorities}
        missing -= {one.fingerprint for one in self._credentials.held}
        if self._credentials.identity.role is not Role.HOST or not missing:
            return
        for peer in self._full_peers():
            try:
                answer = await self._peer(peer).identities.peer_authority()
            except VdcError as error:
                self._host.log.info("the cluster's key was not handed over", by=peer, why=str(error))
                continue
            if self._keep_keys(answer):
                return
        raise UnavailableError("no host that answers has handed the cluster's key over yet")

    def _keep_keys(self, answer: wire.AuthorityKeys) -> bool:
        """Keep those of the authorities that are trusted; whether that is all of them."""
        held = {one.fingerprint: one for one in self._credentials.held}
        given = {public_bytes(key.public_key()): key for key in keys_from_pem(answer.keys)}
        for certificate in self._credentials.authorities:
            key = given.get(public_bytes(public_key_of(certificate)))
            if key is not None:
                held.setdefault(fingerprint_of(certificate), Authority(certificate, key))
        if len(held) > len(self._credentials.held):
            pki.write_authorities(self._keyring.folder, held.values())
            self._keyring.reload()
        return len(held) == len(self._credentials.authorities)

    async def _say_trust(self) -> None:
        if self._member is not None and not await self._member.knows_authorities():
            return  # it would refuse the others if the new one issued now; its start wakes this up
        used = tuple(sorted(fingerprint_of(one) for one in self._credentials.authorities))
        if self._host.mirror.trust.get(self._host.name) != used:
            await self._issuer.identities.put_trust(Trust(host=self._host.name, fingerprints=used))

    async def _advance(self) -> None:
        found = self._host.mirror.authorities
        if found is None or phase_of(found.value) is not Phase.INTRODUCED or not self._credentials.held:
            return
        if await self._issuer.advance():
            sentence = "every host trusts the new authority, which issues from now on"
            await self._host.tell_of_node("authority-issuing", sentence, Severity.NORMAL)

    # ---- the certificate

    def _why_renew(self) -> str:
        own, now = self._credentials.certificate, self._issuer.now()
        if own.serial in self._host.mirror.revoked:
            return ""
        if now >= own.renewal_at:
            return f"it runs out at {own.not_after.isoformat(timespec='seconds')}"
        if own.issuer != key_identifier(self._credentials.authorities[0]):
            return "another authority issues now"
        return "this host has other addresses now" if not set(self._addresses) <= set(own.addresses) else ""

    async def _renew(self) -> None:
        why = self._why_renew()
        if not why:
            return
        request = make_request(self._credentials.key, self._host.name)
        if self._credentials.authority is not None:
            membership = await self._renew_here(request)
        else:
            membership = await self._renew_elsewhere(request)
        check_certificate(membership.certificate, self._credentials.authorities, self._issuer.now())
        pki.write_private(self._keyring.folder / pki.CERTIFICATE, membership.certificate)
        self._keyring.reload()
        until = self._credentials.certificate.not_after.isoformat(timespec="seconds")
        await self._host.tell_of_node(
            "certificate-renewed",
            f"{self._host.name} renewed its certificate, until {until}: {why}",
            Severity.NORMAL,
        )

    async def _renew_here(self, request: str) -> wire.Membership:
        identity = self._credentials.identity
        addresses = self._issuer.machine_addresses(identity.name, self._addresses)
        claim = await self._issuer.identities.require_name(identity.name, self._issuer.key_of(request))
        return await self._issuer.issue(identity, request, claim, addresses=addresses)

    async def _renew_elsewhere(self, request: str) -> wire.Membership:
        failed: VdcError = UnavailableError("no host with the cluster's key answers")
        for peer in self._full_peers():
            try:
                body = wire.RenewRequest(request=request, addresses=self._addresses)
                return await self._peer(peer).identities.renew(body)
            except VdcError as error:
                failed = error
        raise failed

    async def _complain(self, error: VdcError) -> None:
        now = self._issuer.now()
        if self._complained_at is None or now - self._complained_at >= COMPLAIN_EVERY:
            self._complained_at = now
            await self._host.tell_of_node(
                "renewal-failed", f"{self._host.name} could not renew its certificate: {error}"
            )

    # ---- revocations

    async def _write_revoked(self) -> None:
        now, revoked = self._issuer.now(), frozenset(filter(is_serial, self._host.mirror.revoked))
        listed, at = self._listed()
        if listed == revoked and now - at < LIST_EVERY:
            return
        if self._credentials.authority is not None:
            text: str | None = self._issuer.revocation_list()
        else:
            text = await self._ask_revoked()
        if text is not None:
            pki.write_private(self._keyring.folder / pki.REVOKED, text)
            self._keyring.reload()

    def _listed(self) -> tuple[frozenset[str], datetime]:
        try:
            return read_revoked(pki.read_private(self._keyring.folder / pki.REVOKED))
        except VdcError:
            return frozenset(), datetime.min.replace(tzinfo=UTC)

    async def _ask_revoked(self) -> str | None:
        for peer in self._full_peers():
            with suppress(VdcError):
                return (await self._peer(peer).identities.peer_revoked()).revoked
        return None

    async def _trim(self) -> None:
        now = self._issuer.now()
        is_due = self._trimmed_at is None or now - self._trimmed_at >= TRIM_EVERY
        if self._host.mirror.leader == self._host.name and is_due:
            self._trimmed_at = now
            await self._issuer.identities.trim(now)

    def _full_peers(self) -> list[str]:
        mirror = self._host.mirror
        return sorted(
            name
            for name, found in mirror.hosts.items()
            if name != self._host.name and name in mirror.alive and not found.value.is_witness
        )
