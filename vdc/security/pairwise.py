"""A secret that two hosts share without ever having sent it: ECDH of the keys of their certificates. Pure.

A host's one P-256 key signs (TLS, certificate requests) and agrees on keys here. Either use leaves the other as
safe as it was: ECDSA and an ECDH whose result is only ever hashed are jointly secure on one curve and key
(Degabriele, Lehmann, Paterson, Smart, Strefler: "On the Joint Security of Encryption and Signature in EMV",
CT-RSA 2012, section 4). HKDF (RFC 5869) does the hashing, under a label that names both hosts and the purpose.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vdc.model.identity import Identity

KEY_BYTES = 32


def pairwise_key(
    own_key: ec.EllipticCurvePrivateKey,
    own: Identity,
    peer_key: ec.EllipticCurvePublicKey,
    peer: Identity,
    purpose: str,
) -> bytes:
    """The key for `purpose` between `own` and `peer`: both compute the same, and nobody else can.

    Both keys are on P-256; `peer_key` is that of a certificate which was verified to be `peer`'s.
    """
    names = "\n".join(sorted((own.uri, peer.uri)))
    label = f"vdc {purpose}\n{names}".encode()
    secret = own_key.exchange(ec.ECDH(), peer_key)
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=label).derive(secret)
