"""Who is at the other end: the one identity that a certificate speaks for, and what its role may do. Pure.

A certificate names it in its only SAN URI, `vdc://CLUSTER/ROLE/NAME`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Self

from vdc.model.base import Record
from vdc.model.errors import InvalidError
from vdc.model.ids import DnsLabel

_URI = re.compile(r"vdc://([0-9a-f]{12})/([a-z]{4,8})/([-a-z0-9]{1,63})")


class Role(StrEnum):
    """What a route asks for, and what an identity is. People's roles include those before them."""

    NOBODY = "nobody"  # asked for by what is there before one has an identity
    VIEWER = "viewer"  # reads
    OPERATOR = "operator"  # creates, promotes, drains
    ADMIN = "admin"  # users, hosts, and what is forced
    WITNESS = "witness"  # votes; as a caller it is a host without the cluster's key
    HOST = "host"

    def includes(self, wanted: Role) -> bool:
        """Whether who has this role may do what `wanted` is needed for."""
        if wanted is Role.NOBODY:
            return True
        if self in _PEOPLE and wanted in _PEOPLE:
            return _PEOPLE.index(self) >= _PEOPLE.index(wanted)
        return self is wanted or (self is Role.HOST and wanted is Role.WITNESS)

    @property
    def is_machine(self) -> bool:
        """Whether it is a host's or a witness's, not a person's."""
        return self in (Role.HOST, Role.WITNESS)


_PEOPLE = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)
USER_ROLES = _PEOPLE


class Identity(Record):
    """Somebody in a cluster."""

    cluster: str
    role: Role
    name: DnsLabel

    @property
    def uri(self) -> str:
        """The SAN URI of its certificate."""
        return f"vdc://{self.cluster}/{self.role}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Read `uri`. Raises InvalidError (`identity-invalid`)."""
        match = _URI.fullmatch(uri)
        try:
            if match is not None and match[2] != Role.NOBODY:
                return cls(cluster=match[1], role=Role(match[2]), name=match[3])
        except ValueError:
            pass
        raise InvalidError(f"{uri[:120]!r} names nobody", code="identity-invalid")

    def __str__(self) -> str:
        return f"{self.role} {self.name}"
