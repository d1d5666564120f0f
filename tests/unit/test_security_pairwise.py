"""The key that two hosts share."""

from __future__ import annotations

from itertools import combinations

from cryptography.hazmat.primitives.asymmetric import ec
from pki_support import identity

from vdc.model.identity import Role
from vdc.security.keys import new_key
from vdc.security.pairwise import KEY_BYTES, pairwise_key

H1, H2, H3 = (identity(Role.HOST, name) for name in ("h1", "h2", "h3"))
KEYS = {one: new_key() for one in (H1, H2, H3)}


def between(own, peer, purpose="heartbeat"):
    return pairwise_key(KEYS[own], own, KEYS[peer].public_key(), peer, purpose)


def test_both_sides_compute_the_same():
    assert between(H1, H2) == between(H2, H1)
    assert len(between(H1, H2)) == KEY_BYTES


def test_every_pair_and_every_purpose_has_its_own():
    keys = [between(own, peer) for own, peer in combinations(KEYS, 2)]
    assert len({*keys, between(H1, H2, "another")}) == 4


def test_the_names_matter_not_the_keys_alone():
    """A key that moved to another name or another cluster is another host's."""
    public = KEYS[H2].public_key()
    other = identity(Role.HOST, "h2", cluster="ba9876543210")
    witness = identity(Role.WITNESS, "h2")
    made = {pairwise_key(KEYS[H1], H1, public, peer, "heartbeat") for peer in (H2, H3, other, witness)}
    assert len(made) == 4


def test_it_is_what_it_was_when_it_was_written_down():
    """Agents of two versions have to agree on it. RFC 5869 by hand, over the x coordinate of 2G, gives this."""
    one, two = (ec.derive_private_key(number, ec.SECP256R1()) for number in (1, 2))
    found = pairwise_key(one, H1, two.public_key(), H2, "heartbeat")
    assert found.hex() == "fd907fa042f1765d61fbe1769cb97638f453b969919c9a89a10cf0500712cd3e"
