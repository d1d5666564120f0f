"""Targets about who is who, who did what and who lives: certificates, tokens, the audit log, heartbeats."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

from hostagent.heartbeat import echo, message
from hostagent.heartbeat.seal import Seal
from tests.fuzz import seeds
from vdc.api import models as wire
from vdc.model.audit import ORIGIN, AuditEntry, canonical, hash_of, parse_entry
from vdc.model.audit_chain import check_export
from vdc.model.credentials import Authorities, AuthorityEntry
from vdc.model.errors import ForbiddenError, InvalidError, VdcError
from vdc.model.identity import Identity, Role
from vdc.security.authorities import sign, verify
from vdc.security.authority import Authority, cluster_of
from vdc.security.certificates import (
    check_certificate,
    key_identifier,
    parse_bundle,
    parse_certificate,
    public_key_of,
    read_certificate,
    read_revoked,
)
from vdc.security.keys import keys_from_pem, read_request
from vdc.security.pairs import PairAuthority, Side
from vdc.security.tokens import Token, parse_token

_NOW = datetime(2030, 1, 2, tzinfo=UTC)
_TRUSTED = parse_bundle(seeds.AUTHORITY.decode())
_SIGNER = Authority.create("0123456789ab", _NOW)
_PAIR = PairAuthority.create("uid", 1)
_SEAL = Seal(b"k" * 32, "h2", "h1", "management")
_KINDS = ("CERTIFICATE", "CERTIFICATE REQUEST", "X509 CRL")
HOST, AUTHORITY, REQUEST, REVOKED = (  # as DER: a change of that gets further than one of PEM
    base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    for pem in (seeds.HOST, seeds.AUTHORITY, seeds.REQUEST, seeds.REVOKED)
)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _forms(data: bytes) -> Iterator[str]:
    """As text, and as what the PEM of each kind may hold."""
    yield _text(data)
    packed = base64.encodebytes(data).decode()
    yield from (f"-----BEGIN {kind}-----\n{packed}-----END {kind}-----\n" for kind in _KINDS)


def certificate(data: bytes) -> None:
    for form in (data, *_forms(data)):
        with suppress(VdcError):
            found = parse_certificate(form)
            key_identifier(found)
            with suppress(InvalidError):
                public_key_of(found)
            with suppress(InvalidError):
                cluster_of(found)
            read_certificate(found)
        with suppress(VdcError):
            said = check_certificate(form, _TRUSTED, _NOW).identity
            assert said == Identity(cluster="0123456789ab", role=Role.HOST, name="h1"), "it was forged"


def bundle(data: bytes) -> None:
    for text in _forms(data):
        _bundle(text)


def _bundle(text: str) -> None:
    with suppress(InvalidError):
        for found in parse_bundle(text):
            key_identifier(found)
            cluster_of(found)
    with suppress(InvalidError):
        read_revoked(text)
    with suppress(InvalidError):
        keys_from_pem(text)
    entry = AuthorityEntry(fingerprint="a", key_id="b", certificate=text.encode("utf-8", "replace").decode())
    record = sign(Authorities(number=1, entries=(entry,), issuing="a"), _SIGNER)
    with suppress(ForbiddenError):
        verify(record, (_SIGNER.certificate,))


def request(data: bytes) -> None:
    for text in _forms(data):
        with suppress(InvalidError):
            read_request(text)
        with suppress(InvalidError):
            _PAIR.sign(text, Side.SECONDARY)


def token(data: bytes) -> None:
    text = _text(data)
    with suppress(InvalidError):
        found = parse_token(text)
        assert parse_token(found.text) == found and found.secret.hex() not in repr(found)
    with suppress(InvalidError):
        assert Identity.parse(text).uri == text


def heartbeat(data: bytes) -> None:
    assert message.decode(data, _SEAL) is None or data in _SEALED, "it was forged"
    content = message.parse(data)
    if content is not None:
        assert len(content.encode()) <= message.MAX_BYTES or not content.dead
    echo.payload_of_reply(data, 7)
    echo.Marks().asked_at_s("10.0.0.1", data)


def audit_log(data: bytes) -> None:
    """What passes for an entry can be handed on, printed and hashed as it is."""
    lines = data.decode("utf-8", "replace").splitlines()
    for line in lines:
        values = parse_entry(line)
        if values is not None:
            assert json.loads(wire.AuditPage(items=(values,), next=1).to_json())["items"] == [values]
            assert parse_entry(canonical(values)) == values and len(hash_of(values)) == 64
    check_export(lines)


def _entry() -> bytes:
    return AuditEntry(id="a", at="", host="h1", what="renew").sealed(1, ORIGIN, 0).text.encode()


_BEAT = message.Content(dead=(("uid", 3),), deaf_to=("h2",)).encode()
_SEALED = (message.encode(message.Heading(1, 2, 3), _BEAT, _SEAL),)
_ECHO = b"\x45" + b"\0" * 19 + struct.pack("!BBHHH", 0, 0, 0, 7, 1) + b"payload"

TARGETS = (
    ("certificate", certificate, (seeds.HOST, HOST, AUTHORITY)),
    ("bundle", bundle, (seeds.AUTHORITY, seeds.AUTHORITY + seeds.HOST, AUTHORITY, REVOKED)),
    ("request", request, (seeds.REQUEST, REQUEST)),
    (
        "token",
        token,
        (
            Token("ab" * 8, b"s" * 32, "cd" * 32, "https://h1:7400").text.encode(),
            b"vdc://0123456789ab/admin/a",
        ),
    ),
    ("heartbeat", heartbeat, (_BEAT, *_SEALED, _ECHO)),
    ("audit-log", audit_log, (_entry(), _entry() + b"\n" + _entry(), _entry()[:-1] + b',"new":[{"a":1}]}')),
)
