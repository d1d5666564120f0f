"""The record of whom to trust, signed: what comes from the store counts only if an authority says so. Pure."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from vdc.model.credentials import Authorities, AuthorityEntry
from vdc.model.errors import ForbiddenError, InvalidError
from vdc.security.authority import Authority, cluster_of
from vdc.security.certificates import fingerprint_of, key_identifier, parse_bundle, public_key_of

_PURPOSE = b"vdc authorities 1\n"
_HASH = ec.ECDSA(hashes.SHA256())


def entry_of(authority: Authority) -> AuthorityEntry:
    """An authority as the record names it."""
    return AuthorityEntry(
        fingerprint=authority.fingerprint, key_id=authority.key_identifier, certificate=authority.pem
    )


def first_record(authority: Authority) -> Authorities:
    """The record of a cluster that has one authority."""
    unsigned = Authorities(number=1, entries=(entry_of(authority),), issuing=authority.fingerprint)
    return sign(unsigned, authority)


def sign(authorities: Authorities, by: Authority) -> Authorities:
    """The record with the signature of an authority that every host trusts already."""
    named = authorities.with_(signed_by=by.fingerprint, signature="")
    return named.with_(signature=by.key.sign(_signed_bytes(named), _HASH).hex())


def believe(authorities: Authorities, bundle_pem: str) -> None:
    """`verify` for who trusts a bundle. It is changed by the signature of the authority that issues, the first in
    it, or of one that came after: one that is about to be retired, perhaps because its key was stolen, has no say in
    who takes its place.
    """
    trusted = parse_bundle(bundle_pem)
    since = trusted[0].not_valid_before_utc
    if authorities.bundle != bundle_pem:
        trusted = (trusted[0], *(each for each in trusted[1:] if each.not_valid_before_utc > since))
    verify(authorities, trusted)


def verify(authorities: Authorities, trusted: tuple[x509.Certificate, ...]) -> None:
    """Whether it is signed by one of `trusted` and says of its authorities what they are; ForbiddenError."""
    signer = next((each for each in trusted if fingerprint_of(each) == authorities.signed_by), None)
    if signer is None:
        raise _refused("its signer is not trusted here")
    try:
        signature = bytes.fromhex(authorities.signature)
        public_key_of(signer).verify(signature, _signed_bytes(authorities), _HASH)
        cluster = cluster_of(signer)
        for entry in authorities.entries:
            (found,) = parse_bundle(entry.certificate)
            is_described = (fingerprint_of(found), key_identifier(found)) == (entry.fingerprint, entry.key_id)
            if not is_described or cluster_of(found) != cluster:
                raise _refused(f"it describes {entry.fingerprint[:16]} wrongly")
    except (ValueError, InvalidSignature, InvalidError) as error:
        raise _refused("its signature is wrong") from error
    if authorities.entry(authorities.issuing) is None:
        raise _refused("who issues is not among them")


def _signed_bytes(authorities: Authorities) -> bytes:
    return _PURPOSE + authorities.with_(signature="").to_json().encode()


def _refused(why: str) -> ForbiddenError:
    return ForbiddenError(
        f"the record of the cluster's authorities is not believed: {why}", code="authority-forged"
    )
