"""Join tokens: `vdcjoin1.ID.SECRET.CAFINGERPRINT.ENDPOINT`, each part base64url.

A token says where to ask, which authority to find there, and a secret to show. Only the agent that made it knows
it: a file `tokens/ID.json` with the secret's hash. Using it renames that file to `ID.used`, which one of any
number of rivals succeeds in; the used one stays until the token would have expired, to tell used from forged.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from vdc.model.base import Record
from vdc.model.errors import ConflictError, InvalidError, NotFoundError, UnauthenticatedError
from vdc.model.identity import Role
from vdc.security.folder import flush_folder, prepare, read_private, write_private

PREFIX = "vdcjoin1"
DEFAULT_TTL = timedelta(hours=1)
MAX_TTL = timedelta(days=7)
MAX_TEXT = 1024
_ID_BYTES = 8
_SECRET_BYTES = 32
_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says. Its text is a secret until it has been used."""

    id: str
    secret: bytes = field(repr=False)
    authority: str  # fingerprint of the authority, hexadecimal
    endpoint: str

    def __str__(self) -> str:
        return f"token {self.id}"

    @property
    def text(self) -> str:
        """The form in which it is handed over."""
        parts = (bytes.fromhex(self.id), self.secret, bytes.fromhex(self.authority), self.endpoint.encode())
        return ".".join((PREFIX, *map(_encode, parts)))


class KnownToken(Record):
    """What the agent that made a token remembers of it."""

    id: str
    role: Role
    secret_hash: str
    expires_at: datetime
    created_by: str = ""


def parse_token(text: str) -> Token:
    """Read a token's text; InvalidError (`token-invalid`), which does not quote it."""
    try:
        if len(text) > MAX_TEXT:
            raise ValueError("too long")
        prefix, token_id, secret, authority, endpoint = text.strip().split(".")
        parts = (_decode(token_id), _decode(secret), _decode(authority))
        if prefix != PREFIX or tuple(map(len, parts)) != (
            _ID_BYTES,
            _SECRET_BYTES,
            hashlib.sha256().digest_size,
        ):
            raise ValueError("not of this form")
        return Token(parts[0].hex(), parts[1], parts[2].hex(), _decode(endpoint).decode())
    except (ValueError, binascii.Error) as error:
        raise InvalidError(
            "this is not a join token, or not all of it",
            hint="an admin makes one: vdc cluster token create",
            code="token-invalid",
        ) from error


class TokenFolder:
    """The tokens that one agent gave out. Its methods block for some file operations."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(
        self,
        *,
        role: Role,
        authority: str,
        endpoint: str,
        now: datetime,
        ttl: timedelta = DEFAULT_TTL,
        by: str = "",
    ) -> tuple[Token, KnownToken]:
        """Make one for a host or a witness; InvalidError (`role-invalid`, `ttl-invalid`)."""
        if not role.is_machine:
            raise InvalidError(f"a token is for a host or a witness, not for {role}", code="role-invalid")
        if not timedelta() < ttl <= MAX_TTL:
            raise InvalidError(f"a token may be valid for {MAX_TTL.days} days at most", code="ttl-invalid")
        secret = secrets.token_bytes(_SECRET_BYTES)
        token = Token(secrets.token_hex(_ID_BYTES), secret, authority, endpoint)
        known = KnownToken(
            id=token.id, role=role, secret_hash=_hash(secret), expires_at=now + ttl, created_by=by
        )
        prepare(self._folder)
        self._sweep(now)
        write_private(self._path(token.id), known.to_json())
        return token, known

    def check(self, token: Token, now: datetime) -> KnownToken:
        """Whether it would be accepted now; UnauthenticatedError: `token-invalid`, `token-expired`, `token-used`."""
        known, is_used = self._find(token.id)
        if known is None or not hmac.compare_digest(known.secret_hash, _hash(token.secret)):
            raise UnauthenticatedError(
                "the join token is not one of this host's",
                hint="tokens are good at the host that made them; an admin makes one: vdc cluster token create",
                code="token-invalid",
            )
        if now >= known.expires_at:
            raise UnauthenticatedError(
                f"the join token expired at {known.expires_at.isoformat(timespec='seconds')}",
                hint="an admin makes another: vdc cluster token create",
                code="token-expired",
            )
        if is_used:
            raise _used()
        return known

    def redeem(self, token: Token, now: datetime) -> KnownToken:
        """`check`, and use it up: of any number of rivals one gets this far, the others `token-used`."""
        known = self.check(token, now)
        try:
            self._path(token.id).rename(self._used(token.id))
        except FileNotFoundError as error:
            raise _used() from error
        flush_folder(self._folder)
        return known

    def list(self, now: datetime) -> tuple[KnownToken, ...]:
        """Those that can still be used, by expiry."""
        ids = (path.stem for path in self._folder.glob("*.json")) if self._folder.is_dir() else ()
        found = (self._find(each)[0] for each in ids if _ID.fullmatch(each))
        return tuple(
            sorted((k for k in found if k is not None and now < k.expires_at), key=lambda k: k.expires_at)
        )

    def revoke(self, token_id: str) -> None:
        """Forget one; NotFoundError (`token-not-found`)."""
        try:
            if not _ID.fullmatch(token_id):
                raise FileNotFoundError
            self._path(token_id).unlink()
        except FileNotFoundError as error:
            raise NotFoundError(
                f"there is no unused join token {token_id[:40]!r} here",
                hint="vdc cluster token ls",
                code="token-not-found",
            ) from error

    def _path(self, token_id: str) -> Path:
        return self._folder / f"{token_id}.json"

    def _used(self, token_id: str) -> Path:
        return self._folder / f"{token_id}.used"

    def _find(self, token_id: str) -> tuple[KnownToken | None, bool]:
        for path, is_used in ((self._path(token_id), False), (self._used(token_id), True)):
            try:
                return KnownToken.from_json(read_private(path)), is_used
            except NotFoundError:
                continue
            except ValidationError:  # nobody can use what cannot be read
                return None, is_used
        return None, False

    def _sweep(self, now: datetime) -> None:
        for path in (*self._folder.glob("*.json"), *self._folder.glob("*.used")):
            known, _ = self._find(path.stem)
            if known is None or now >= known.expires_at + MAX_TTL:
                path.unlink(missing_ok=True)


def _used() -> ConflictError:
    return ConflictError(
        "the join token has been used already",
        hint="if it was not you who used it: vdc get nodes, vdc cluster revoke; then make another token",
        code="token-used",
    )


def _hash(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
