"""How one authority takes the place of another while everything goes on. Pure.

    STABLE      one authority, which issues
    INTRODUCED  a second one is trusted by ever more hosts; the first still issues
    ISSUING     every known host trusts the second, and it issues; certificates of the first are valid still
    STABLE      nobody has a certificate of the first as the newest one: it is retired

A host that does not answer holds this up, and is named: its certificate would be worth nothing when it is back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from enum import StrEnum

from vdc.model.credentials import Authorities, AuthorityEntry, IssuedCertificate
from vdc.model.errors import ConflictError, RefusedError
from vdc.model.identity import Identity


class Phase(StrEnum):
    """How far a rotation is."""

    STABLE = "stable"  # none is going on
    INTRODUCED = "introduced"  # not every host trusts the new one yet
    ISSUING = "issuing"  # the old one can be retired as soon as nobody uses it


def phase_of(authorities: Authorities) -> Phase:
    """How far it is."""
    if len(authorities.entries) == 1:
        return Phase.STABLE
    return Phase.ISSUING if authorities.issuing == authorities.entries[-1].fingerprint else Phase.INTRODUCED


def begin(authorities: Authorities, new: AuthorityEntry, *, is_key_lost: bool = False) -> Authorities:
    """STABLE -> INTRODUCED. ConflictError (`rotation-running`).

    `is_key_lost`: nobody has the key of the one that is being introduced; it has issued nothing, and `new` takes its
    place.
    """
    phase = phase_of(authorities)
    if phase is Phase.INTRODUCED and is_key_lost:
        return _next(authorities, entries=(*authorities.entries[:-1], new))
    if phase is not Phase.STABLE:
        raise ConflictError(
            "the cluster's authority is being rotated already",
            hint="vdc cluster ca show says what it waits for",
            code="rotation-running",
        )
    return _next(authorities, entries=(*authorities.entries, new))


def missing_trust(
    authorities: Authorities, trust: Mapping[str, Collection[str]], hosts: Iterable[str]
) -> tuple[str, ...]:
    """The hosts that do not trust every authority yet."""
    needed = {entry.fingerprint for entry in authorities.entries}
    return tuple(sorted(host for host in hosts if not needed <= set(trust.get(host, ()))))


def advance(
    authorities: Authorities, trust: Mapping[str, Collection[str]], hosts: Iterable[str]
) -> Authorities | None:
    """INTRODUCED -> ISSUING where every host trusts the new one; None where there is nothing to do yet."""
    if phase_of(authorities) is not Phase.INTRODUCED or missing_trust(authorities, trust, hosts):
        return None
    return _next(authorities, issuing=authorities.entries[-1].fingerprint)


def holders(
    authorities: Authorities,
    certificates: Iterable[IssuedCertificate],
    revoked: Collection[str],
    now: datetime,
) -> tuple[Identity, ...]:
    """Who has no valid certificate that is newer than one of an authority that does not issue any more."""
    issuer = authorities.issuer.key_id
    newest: dict[str, IssuedCertificate] = {}

    def rank(found: IssuedCertificate) -> tuple[datetime, bool]:
        return found.issued_at, found.issuer == issuer

    for found in certificates:
        if found.serial in revoked or not found.is_valid(now):
            continue
        present = newest.get(found.identity.uri)
        if present is None or rank(present) < rank(found):
            newest[found.identity.uri] = found
    return tuple(found.identity for _, found in sorted(newest.items()) if found.issuer != issuer)


def retire(authorities: Authorities, still_held_by: Collection[Identity]) -> Authorities:
    """ISSUING -> STABLE. ConflictError (`no-rotation`), RefusedError (`authority-in-use`, `authority-not-trusted`)."""
    phase = phase_of(authorities)
    if phase is Phase.STABLE:
        raise ConflictError(
            "there is no old authority to retire", hint="vdc cluster ca rotate begins", code="no-rotation"
        )
    if phase is Phase.INTRODUCED:
        raise RefusedError(
            "not every host trusts the new authority yet",
            hint="vdc cluster ca show names them; vdc node remove forgets one that is gone for good",
            code="authority-not-trusted",
        )
    if still_held_by:
        names = ", ".join(map(str, still_held_by))
        raise RefusedError(
            f"certificates of the old authority are still used by {names}",
            hint="hosts renew by themselves, users by vdc cluster renew; or vdc cluster user remove NAME",
            code="authority-in-use",
        )
    return _next(authorities, entries=authorities.entries[-1:])


def _next(authorities: Authorities, **changes: object) -> Authorities:
    return authorities.with_(number=authorities.number + 1, signed_by="", signature="", **changes)
