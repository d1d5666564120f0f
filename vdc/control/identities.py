"""The records of who may speak: users, issued and revoked certificates, names of machines, whom to trust.

Nothing here knows what a certificate is; whoever issues one enters it here before it is handed out, so that
whatever is out can be revoked.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from pydantic import ValidationError

from vdc.model.credentials import Authorities, IssuedCertificate, Revocation, Trust, User
from vdc.model.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from vdc.model.identity import USER_ROLES, Role
from vdc.store import keys
from vdc.store.mirror import Mirror
from vdc.store.protocol import Delete, KeyValue, Put, StateStore, Unchanged

UNKNOWN_FOR = timedelta(days=3650)  # a revocation of a certificate that nobody knows outlives every authority
KEPT_AFTER = timedelta(days=1)  # records of certificates that have run out: clocks differ
BATCH = 100
ATTEMPTS = 8
MOST_VALID = 16  # certificates of one person: each is a record for a year, in the store and in every agent
_HEX = frozenset("0123456789abcdef")
_SERIAL_DIGITS = 32
_LEAST_DIGITS = 8


class Identities:
    """Reads are of the store, not of the mirror: what is decided here must not be decided by old news."""

    def __init__(self, store: StateStore, mirror: Mirror) -> None:
        self._store = store
        self._mirror = mirror

    # ---- machines

    async def claim_name(self, name: str, key: str) -> KeyValue:
        """Take a host's name for the holder of `key`; ConflictError (`host-known`) where another one has it."""
        record = keys.machine(name)
        if await self._store.get(record) is None and await self._store.get(keys.host(name)) is None:
            await self._store.commit([Unchanged(record, 0)], [Put(record, key)])
        found = await self._store.get(record)
        if found is None or found.value != key:
            raise ConflictError(
                f"the cluster knows a host {name} already, with another key",
                hint=f"if that one is gone for good: vdc node remove {name}; else give this one another name",
                code="host-known",
            )
        return found

    async def require_name(self, name: str, key: str) -> KeyValue:
        """The claim of a machine that is known, by this key; ForbiddenError (`wrong-host`)."""
        found = await self._store.get(keys.machine(name))
        if found is None or found.value != key:
            raise ForbiddenError(
                f"the cluster knows no host {name} with this key",
                hint="it may have been removed: hostagent join --token TOKEN",
                code="wrong-host",
            )
        return found

    async def require_host(self, name: str) -> None:
        """ForbiddenError (`wrong-host`) where it is not, or not any more, a host of the cluster."""
        if (
            await self._store.get(keys.host(name)) is None
            or await self._store.get(keys.machine(name)) is None
        ):
            raise ForbiddenError(f"the cluster knows no host {name}", code="wrong-host")

    async def enter_machine(self, certificate: IssuedCertificate) -> None:
        """Enter a machine that got its certificate without a running cluster; idempotent."""
        key, record = keys.machine(certificate.identity.name), keys.certificate(certificate.serial)
        await self._store.commit([Unchanged(key, 0)], [Put(key, certificate.key)])
        await self._store.commit([Unchanged(record, 0)], [Put(record, certificate.to_json())])

    def check_addresses(self, name: str, addresses: Collection[str]) -> None:
        """ConflictError (`address-taken`) where another host has one of them: who serves there must be clear."""
        for other, found in self._mirror.hosts.items():
            taken = {found.value.management_address, found.value.replication_address} & set(addresses)
            if other != name and taken:
                raise ConflictError(
                    f"{min(taken)} is the address of {other}", hint="vdc get nodes", code="address-taken"
                )

    # ---- certificates

    async def enter(self, certificate: IssuedCertificate, claim: KeyValue) -> None:
        """Record a certificate before it is handed out.

        `claim` is the record of the user or machine that it is for. Touching it makes whoever removes that record
        look for certificates again: ConflictError (`contention`) where it was removed or touched meanwhile,
        `certificates-many` where a person has MOST_VALID that count.
        """
        if certificate.identity.role in USER_ROLES:
            await self._check_count(certificate)
        put = Put(keys.certificate(certificate.serial), certificate.to_json())
        compare = Unchanged(claim.key, claim.mod_revision)
        if not (await self._store.commit([compare], [put, Put(claim.key, claim.value)])).succeeded:
            raise ConflictError(
                f"{certificate.identity} was changed by somebody else", hint="try again", code="contention"
            )

    async def _check_count(self, new: IssuedCertificate) -> None:
        """A person who renews without end would fill the store, and then nobody is promoted any more."""
        revoked = await self.revoked()
        whose = new.identity
        count = sum(
            found.identity == whose and found.is_valid(new.issued_at) and found.serial not in revoked
            for found in await self.certificates()
        )
        if count >= MOST_VALID:
            raise ConflictError(
                f"{whose.name} has {count} certificates that count already",
                hint="an admin revokes those that nobody uses: vdc cluster certificates, vdc cluster revoke",
                code="certificates-many",
            )

    async def certificates(self) -> tuple[IssuedCertificate, ...]:
        """All that are recorded; what cannot be read is not among them."""
        found = []
        for item in (await self._store.list(keys.CERTIFICATES)).items:
            try:
                found.append(IssuedCertificate.from_json(item.value))
            except ValidationError:
                continue
        return tuple(found)

    async def revoked(self) -> frozenset[str]:
        """Serial numbers of what was revoked."""
        return frozenset(keys.last_part(item.key) for item in (await self._store.list(keys.REVOKED)).items)

    async def revoke(self, wanted: str, *, now: datetime, by: str) -> Revocation:
        """Revoke by serial number, or by its first digits where they name one.

        InvalidError (`serial-invalid`), NotFoundError (`certificate-not-found`).
        """
        serial = wanted.lower().replace(":", "")
        is_none = not (_LEAST_DIGITS <= len(serial) <= _SERIAL_DIGITS and set(serial) <= _HEX)
        if (
            is_none or serial == "0" * _SERIAL_DIGITS
        ):  # which no certificate has, and no list of them can hold
            raise InvalidError(
                f"{wanted[:60]!r} is not a serial number: {_LEAST_DIGITS} to {_SERIAL_DIGITS} hexadecimal digits",
                hint="vdc cluster certificates",
                code="serial-invalid",
            )
        named = [found for found in await self.certificates() if found.serial.startswith(serial)]
        if len(named) > 1:
            raise InvalidError(f"{serial} begins {len(named)} serial numbers", code="serial-invalid")
        if not named and len(serial) < _SERIAL_DIGITS:
            raise NotFoundError(
                f"no certificate has a serial number that begins with {serial}",
                hint="vdc cluster certificates",
                code="certificate-not-found",
            )
        if named:
            revocation = _revocation(named[0], now, by)
        else:
            revocation = Revocation(serial=serial, at=now, until=now + UNKNOWN_FOR, by=by)
        await self._store.commit([], [Put(keys.revoked(revocation.serial), revocation.to_json())])
        return revocation

    # ---- users

    async def add_user(self, user: User) -> None:
        """ConflictError (`user-exists`)."""
        key = keys.user(user.name)
        if not (await self._store.commit([Unchanged(key, 0)], [Put(key, user.to_json())])).succeeded:
            raise ConflictError(
                f"there is a user {user.name} already",
                hint=f"vdc cluster user remove {user.name} takes the present certificates back",
                code="user-exists",
            )

    async def enter_user(self, user: User, certificate: IssuedCertificate) -> None:
        """Enter a user who got a certificate without a running cluster; idempotent."""
        key, record = keys.user(user.name), keys.certificate(certificate.serial)
        await self._store.commit([Unchanged(key, 0)], [Put(key, user.to_json())])
        await self._store.commit([Unchanged(record, 0)], [Put(record, certificate.to_json())])

    async def user(self, name: str) -> tuple[User, KeyValue]:
        """The record, also as the claim that `enter` asks for; NotFoundError (`user-not-found`)."""
        item = await self._store.get(keys.user(name))
        if item is None:
            raise NotFoundError(
                f"there is no user {name[:63]!r}", hint="vdc cluster user ls", code="user-not-found"
            )
        return User.from_json(item.value), item

    async def remove_user(self, name: str, *, now: datetime, by: str) -> int:
        """Forget a user and revoke every certificate; says how many. NotFoundError (`user-not-found`)."""
        count = 0
        for _ in range(ATTEMPTS):
            _, claim = await self.user(name)
            operations = await revocations_of(self._store, name, USER_ROLES, now=now, by=by)
            await self._in_batches(operations)
            count += len(operations)
            unchanged = Unchanged(claim.key, claim.mod_revision)
            if (await self._store.commit([unchanged], [Delete(claim.key)])).succeeded:
                return count
        raise ConflictError(f"{name} is being changed by others", hint="try again", code="contention")

    # ---- authorities

    async def authorities(self) -> tuple[Authorities | None, int]:
        """The record of whom to trust, not judged, and its revision (0: there is none)."""
        item = await self._store.get(keys.AUTHORITIES)
        return (Authorities.from_json(item.value), item.mod_revision) if item else (None, 0)

    async def put_authorities(self, authorities: Authorities, revision: int) -> None:
        """Replace the record that had `revision`; ConflictError (`contention`)."""
        compare = Unchanged(keys.AUTHORITIES, revision)
        if not (
            await self._store.commit([compare], [Put(keys.AUTHORITIES, authorities.to_json())])
        ).succeeded:
            raise ConflictError(
                "the authorities were changed by somebody else", hint="try again", code="contention"
            )

    async def put_trust(self, trust: Trust) -> None:
        """Say which authorities a host uses by now."""
        await self._store.commit([], [Put(keys.trust(trust.host), trust.to_json())])

    # ---- upkeep

    async def trim(self, now: datetime) -> int:
        """Remove records of certificates that ran out and of their revocation; says how many."""
        old = [
            Delete(keys.certificate(found.serial))
            for found in await self.certificates()
            if not found.is_valid(now - KEPT_AFTER)
        ]
        for item in (await self._store.list(keys.REVOKED)).items:
            try:
                if Revocation.from_json(item.value).until < now - KEPT_AFTER:
                    old.append(Delete(item.key))
            except ValidationError:
                continue  # whatever it says, it counts
        await self._in_batches(old)
        return len(old)

    async def _in_batches(self, operations: Collection[Put | Delete]) -> None:
        left = list(operations)
        for start in range(0, len(left), BATCH):
            await self._store.commit([], left[start : start + BATCH])


async def revocations_of(
    store: StateStore, name: str, roles: Collection[Role], *, now: datetime, by: str
) -> list[Put | Delete]:
    """What revokes every certificate of `name` in these roles that has not run out."""
    made: list[Put | Delete] = []
    revoked = {keys.last_part(item.key) for item in (await store.list(keys.REVOKED)).items}
    for item in (await store.list(keys.CERTIFICATES)).items:
        try:
            found = IssuedCertificate.from_json(item.value)
        except ValidationError:
            continue
        who = found.identity
        if who.name == name and who.role in roles and found.is_valid(now) and found.serial not in revoked:
            made.append(Put(keys.revoked(found.serial), _revocation(found, now, by).to_json()))
    return made


def _revocation(found: IssuedCertificate, now: datetime, by: str) -> Revocation:
    return Revocation(serial=found.serial, at=now, until=found.not_after, identity=found.identity, by=by)
