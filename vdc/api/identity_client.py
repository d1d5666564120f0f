"""The typed client's part about identities: `ApiClient.identities`."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol, TypeVar

from vdc.api import identities as wire
from vdc.api.call import Call, make_call
from vdc.api.models import Acknowledged
from vdc.model.base import Record

R = TypeVar("R", bound=Record)


class Send(Protocol):
    """How a call is made."""

    def __call__(self, model: type[R], call: Call, /) -> Awaitable[R]:
        """Send it; the answer as a record."""
        ...


class IdentityClient:
    """One method per route."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def authority(self) -> wire.AuthorityBundle:
        """Whom the hosts of this cluster trust; public."""
        return await self._send(wire.AuthorityBundle, make_call("authority"))

    async def join(self, request: wire.JoinRequest) -> wire.Membership:
        """Become a member by a token; UnauthenticatedError (`token-...`), ConflictError (`host-known`)."""
        return await self._send(wire.Membership, make_call("join", json_body=request.to_json()))

    async def renew(self, request: wire.RenewRequest) -> wire.Membership:
        """The caller's own certificate once more."""
        return await self._send(wire.Membership, make_call("renew", json_body=request.to_json()))

    async def create_token(self, request: wire.TokenRequest) -> wire.TokenCreated:
        """A join token; its text is shown this once."""
        return await self._send(wire.TokenCreated, make_call("create_token", json_body=request.to_json()))

    async def list_tokens(self, *, local: bool = False) -> wire.TokenList:
        """Join tokens that can be used; `local`: those of the answering host alone."""
        return await self._send(wire.TokenList, make_call("list_tokens", query={"local": local or None}))

    async def revoke_token(self, token_id: str, *, local: bool = False) -> Acknowledged:
        """Make a join token worthless; NotFoundError (`token-not-found`)."""
        call = make_call("revoke_token", {"id": token_id}, {"local": local or None})
        return await self._send(Acknowledged, call)

    async def add_user(self, request: wire.UserRequest) -> wire.UserCreated:
        """Certify a person's key; ConflictError (`user-exists`)."""
        return await self._send(wire.UserCreated, make_call("add_user", json_body=request.to_json()))

    async def list_users(self) -> wire.UserList:
        """All users."""
        return await self._send(wire.UserList, make_call("list_users"))

    async def remove_user(self, name: str) -> Acknowledged:
        """Forget a user and revoke the certificates; NotFoundError (`user-not-found`)."""
        return await self._send(Acknowledged, make_call("remove_user", {"name": name}))

    async def list_certificates(self) -> wire.CertificateList:
        """Certificates that have not run out."""
        return await self._send(wire.CertificateList, make_call("list_certificates"))

    async def revoke(self, serial: str) -> Acknowledged:
        """Revoke one certificate by serial number, or its first digits; NotFoundError, InvalidError."""
        return await self._send(Acknowledged, make_call("revoke", {"serial": serial}))

    async def authority_status(self) -> wire.AuthorityStatus:
        """The authorities, and what a rotation waits for."""
        return await self._send(wire.AuthorityStatus, make_call("authority_status"))

    async def rotate_authority(self) -> Acknowledged:
        """Begin to replace the authority; ConflictError (`rotation-running`)."""
        return await self._send(Acknowledged, make_call("rotate_authority"))

    async def retire_authority(self) -> Acknowledged:
        """Give up the old authority; RefusedError (`authority-in-use`)."""
        return await self._send(Acknowledged, make_call("retire_authority"))

    async def peer_authority(self) -> wire.AuthorityKeys:
        """The authorities' private keys, from a full host to a full host."""
        return await self._send(wire.AuthorityKeys, make_call("peer_authority"))

    async def peer_revoked(self) -> wire.RevokedList:
        """The signed list of revoked certificates, for a witness's etcd."""
        return await self._send(wire.RevokedList, make_call("peer_revoked"))
