"""What a person shows to a cluster; light to import, since every command does."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class UserCredentials:
    """What a context holds, as PEM: whom to trust, and what to show."""

    authority_pem: str
    certificate_pem: str
    key_pem: str = field(repr=False)
