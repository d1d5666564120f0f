"""Handlers of identities: joining, renewing, tokens, users, revocation, the authorities."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from urllib.parse import urlsplit

from aiohttp import web

from hostagent.server.context import ServerContext
from hostagent.server.http import parse_body
from hostagent.server.identity import IDENTITY, ROOT, name_of, person_of
from vdc.api import identities as wire
from vdc.api.models import Acknowledged
from vdc.model.credentials import User
from vdc.model.errors import ForbiddenError, InvalidError, NotFoundError, UnavailableError, VdcError
from vdc.model.identity import USER_ROLES, Identity, Role
from vdc.protection.rotation import phase_of
from vdc.security.certificates import fingerprint_of, is_issued_by, parse_certificate
from vdc.security.folder import TOKENS
from vdc.security.keys import key_to_pem
from vdc.security.tokens import KnownToken, TokenFolder, parse_token
from vdc.store.protocol import KeyValue


class IdentityHandlers:
    """One method per route, named like it."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._issuer = context.issuer
        self._identities = context.issuer.identities
        self._keyring = context.issuer.keyring
        self._tokens = TokenFolder(self._keyring.folder / TOKENS)

    # ---- machines

    async def authority(self, request: web.Request) -> wire.AuthorityBundle:
        """See the route table."""
        credentials = self._keyring.credentials
        return wire.AuthorityBundle(
            cluster=credentials.identity.cluster,
            bundle=credentials.bundle_pem,
            record=self._keyring.authorities(),
        )

    async def join(self, request: web.Request) -> wire.Membership:
        """See the route table. Whatever can be refused is refused before the token is used up."""
        body = wire.JoinRequest.model_validate(await parse_body(request))
        now = self._issuer.now()
        token = parse_token(body.token)
        known = self._tokens.check(token, now)
        if known.role is not body.role:
            raise ForbiddenError(
                f"the join token is for a {known.role}, and {body.name} is configured as a {body.role}",
                hint=f"vdc cluster token create --role {body.role}",
                code="role-mismatch",
            )
        key = self._issuer.key_of(body.request)
        addresses = self._issuer.machine_addresses(body.name, body.addresses)
        cluster = self._issuer.authority.cluster
        claim = await self._claim(body.name, key)
        self._tokens.redeem(token, now)
        identity = Identity(cluster=cluster, role=known.role, name=body.name)
        if claim is None:
            return self._issuer.issue_early(identity, body.request, addresses=addresses)
        membership = await self._issuer.issue(identity, body.request, claim, addresses=addresses)
        await self._log(
            body.name, "host-joined", f"{body.name} joined as {known.role}, by a token of {known.created_by}"
        )
        return membership

    async def _claim(self, name: str, key: str) -> KeyValue | None:
        """None where the cluster is only being founded, and this host's configuration expects that one."""
        try:
            return await self._identities.claim_name(name, key)
        except UnavailableError:
            embedded = self._context.host.config.etcd.embedded
            if self._keyring.is_founding and embedded is not None and name in embedded.members:
                return None
            raise

    async def renew(self, request: web.Request) -> wire.Membership:
        """See the route table."""
        body = wire.RenewRequest.model_validate(await parse_body(request))
        identity = request[IDENTITY]
        if identity.role.is_machine:
            addresses = self._issuer.machine_addresses(identity.name, body.addresses)
            claim = await self._identities.require_name(identity.name, self._issuer.key_of(body.request))
            return await self._issuer.issue(identity, body.request, claim, addresses=addresses)
        user, claim = await self._identities.user(identity.name)
        if user.role is not identity.role:
            raise ForbiddenError(f"{user.name} is {user.role} by now", code="role-changed")
        if user.valid_for_s is not None:
            raise ForbiddenError(
                f"{user.name} was added for a limited time, which is not extended",
                hint=f"an admin adds {user.name} anew: vdc cluster user remove, then add",
                code="not-renewable",
            )
        return await self._issuer.issue(identity, body.request, claim)

    # ---- join tokens

    async def create_token(self, request: web.Request) -> wire.TokenCreated:
        """See the route table."""
        body = wire.TokenRequest.model_validate(await parse_body(request))
        self._issuer.authority  # noqa: B018 - who cannot issue must not invite
        if not self._keyring.is_founding:
            # A minority has not heard who was revoked meanwhile, and a token outlives the partition.
            await self._identities.require_host(self._context.host.name)
        token, known = self._tokens.create(
            role=body.role,
            authority=self._own_authority(),
            endpoint=_endpoint(
                self._context.host.record.management_address, self._context.host.config.api_port
            ),
            now=self._issuer.now(),
            ttl=timedelta(seconds=min(body.ttl_s, 10**9)),
            by=name_of(request),
        )
        return wire.TokenCreated(**self._view(known).model_dump(), token=token.text)

    async def list_tokens(self, request: web.Request) -> wire.TokenList:
        """See the route table."""
        own = tuple(self._view(known) for known in self._tokens.list(self._issuer.now()))
        if _is_local(request):
            return wire.TokenList(items=own)
        hosts, person = self._others(), person_of(request)

        async def ask(host: str) -> tuple[wire.TokenView, ...] | None:
            try:
                return (await self._context.peer(host, person).identities.list_tokens(local=True)).items
            except VdcError:
                return None

        answers = await asyncio.gather(*(ask(host) for host in hosts))
        found = [*own, *(view for answer in answers for view in answer or ())]
        silent = tuple(host for host, answer in zip(hosts, answers, strict=True) if answer is None)
        return wire.TokenList(items=tuple(sorted(found, key=lambda view: view.expires_at)), silent=silent)

    async def revoke_token(self, request: web.Request) -> Acknowledged:
        """See the route table."""
        token_id = request.match_info["id"]
        try:
            self._tokens.revoke(token_id)
        except NotFoundError:
            if _is_local(request):
                raise
            for host in self._others():
                try:
                    peer = self._context.peer(host, person_of(request))
                    return await peer.identities.revoke_token(token_id, local=True)
                except VdcError:
                    continue
            raise
        return Acknowledged(sentence=f"join token {token_id} is worthless now")

    def _view(self, known: KnownToken) -> wire.TokenView:
        return wire.TokenView(
            id=known.id, role=known.role, expires_at=known.expires_at,
            created_by=known.created_by, host=self._context.host.name,
        )  # fmt: skip

    def _own_authority(self) -> str:
        """Whom this host's own certificate is of: the one that a joining host will find here."""
        credentials = self._keyring.credentials
        own = parse_certificate(credentials.certificate_pem)
        issuer = next(found for found in credentials.authorities if is_issued_by(found, own))
        return fingerprint_of(issuer)

    def _others(self) -> list[str]:
        mirror, me = self._context.host.mirror, self._context.host.name
        return sorted(
            name
            for name, found in mirror.hosts.items()
            if name != me and name in mirror.alive and not found.value.is_witness
        )

    # ---- users

    async def add_user(self, request: web.Request) -> wire.UserCreated:
        """See the route table."""
        body = wire.UserRequest.model_validate(await parse_body(request))
        if body.role not in USER_ROLES:
            raise InvalidError(f"a user is {', '.join(USER_ROLES)}, not {body.role}", code="role-invalid")
        if body.name == ROOT:
            raise InvalidError(
                f"{ROOT} is whoever administers a host, at its socket",
                hint="choose another name",
                code="name-reserved",
            )
        authority, now = self._issuer.authority, self._issuer.now()
        self._issuer.key_of(body.request)
        user = User(
            name=body.name, role=body.role, created_at=now, created_by=name_of(request), valid_for_s=body.valid_for_s
        )  # fmt: skip
        await self._identities.add_user(user)
        _, claim = await self._identities.user(body.name)
        identity = Identity(cluster=authority.cluster, role=body.role, name=body.name)
        valid_for = timedelta(seconds=body.valid_for_s) if body.valid_for_s else None
        membership = await self._issuer.issue(identity, body.request, claim, valid_for=valid_for)
        await self._log(
            body.name, "user-added", f"{user.created_by} added {body.name} as {body.role}", kind="user"
        )
        return wire.UserCreated(
            name=body.name, role=body.role, membership=membership, endpoints=self._endpoints()
        )

    async def list_users(self, request: web.Request) -> wire.UserList:
        """See the route table."""
        now, mirror = self._issuer.now(), self._context.host.mirror
        valid = [
            found.value
            for serial, found in sorted(mirror.certificates.items())
            if serial not in mirror.revoked and found.value.is_valid(now)
        ]
        return wire.UserList(
            items=tuple(
                wire.UserView(
                    name=name,
                    role=found.value.role,
                    created_at=found.value.created_at,
                    created_by=found.value.created_by,
                    certificates=tuple(
                        c for c in valid if c.identity.name == name and c.identity.role in USER_ROLES
                    ),
                )
                for name, found in sorted(mirror.users.items())
            )
        )

    async def remove_user(self, request: web.Request) -> Acknowledged:
        """See the route table."""
        name = request.match_info["name"]
        by = name_of(request)
        count = await self._identities.remove_user(name, now=self._issuer.now(), by=by)
        sentence = f"{by} removed {name}; {count} certificates revoked"
        await self._log(name, "user-removed", sentence, kind="user")
        return Acknowledged(sentence=sentence)

    # ---- certificates

    async def list_certificates(self, request: web.Request) -> wire.CertificateList:
        """See the route table."""
        now, mirror = self._issuer.now(), self._context.host.mirror
        found = sorted(
            (entry.value for entry in mirror.certificates.values() if entry.value.is_valid(now)),
            key=lambda c: (c.identity.uri, c.not_after),
        )
        return wire.CertificateList(
            items=tuple(
                wire.CertificateView(certificate=c, is_revoked=c.serial in mirror.revoked) for c in found
            )
        )

    async def revoke(self, request: web.Request) -> Acknowledged:
        """See the route table."""
        by = name_of(request)
        revoked = await self._identities.revoke(request.match_info["serial"], now=self._issuer.now(), by=by)
        whose = str(revoked.identity) if revoked.identity else "nobody who is known"
        sentence = f"{by} revoked the certificate {revoked.serial} of {whose}"
        name = revoked.identity.name if revoked.identity else revoked.serial[:16]
        await self._log(name, "certificate-revoked", sentence, kind="certificate")
        return Acknowledged(sentence=sentence)

    async def peer_revoked(self, request: web.Request) -> wire.RevokedList:
        """See the route table."""
        return wire.RevokedList(revoked=self._issuer.revocation_list())

    # ---- authorities

    async def peer_authority(self, request: web.Request) -> wire.AuthorityKeys:
        """See the route table. To full hosts alone: whoever has these keys is the cluster."""
        identity = request[IDENTITY]
        if identity.role is not Role.HOST:
            raise ForbiddenError(f"this needs the role host; {identity.name} is {identity.role}")
        self._issuer.authority  # noqa: B018 - one that lacks the issuing key has nothing to give
        await self._identities.require_host(identity.name)
        credentials = self._keyring.credentials
        await self._log(identity.name, "authority-handed-over", f"{identity.name} got the cluster's key")
        return wire.AuthorityKeys(
            keys="".join(key_to_pem(found.key) for found in credentials.held), bundle=credentials.bundle_pem
        )

    async def authority_status(self, request: web.Request) -> wire.AuthorityStatus:
        """See the route table."""
        record, _ = await self._issuer.rotation()
        views = (
            wire.AuthorityView(
                fingerprint=entry.fingerprint,
                is_issuing=entry.fingerprint == record.issuing,
                not_after=parse_certificate(entry.certificate).not_valid_after_utc,
            )
            for entry in record.entries
        )
        return wire.AuthorityStatus(
            cluster=self._keyring.credentials.identity.cluster,
            phase=phase_of(record),
            authorities=tuple(views),
            untrusting=self._issuer.untrusting(record),
            holders=await self._issuer.holders(record),
        )

    async def rotate_authority(self, request: web.Request) -> Acknowledged:
        """See the route table."""
        await self._issuer.rotate()
        by = name_of(request)
        await self._log(
            "authority",
            "authority-rotating",
            f"{by} began to replace the cluster's authority",
            kind="cluster",
        )
        return Acknowledged(sentence="a new authority is being introduced to every host; vdc cluster ca show")

    async def retire_authority(self, request: web.Request) -> Acknowledged:
        """See the route table."""
        await self._issuer.retire()
        by = name_of(request)
        await self._log(
            "authority", "authority-retired", f"{by} retired the cluster's old authority", kind="cluster"
        )
        return Acknowledged(sentence="the old authority is not trusted any more")

    # ---- helpers

    def _endpoints(self) -> tuple[str, ...]:
        """Where agents answer, this one first: it certainly does."""
        me = self._context.host.name
        hosts = [found.value for found in self._context.host.mirror.hosts.values()]
        hosts.sort(key=lambda host: (host.name != me, host.name))
        return tuple(_endpoint(host.management_address, urlsplit(host.api_url).port or 0) for host in hosts)

    async def _log(self, name: str, code: str, sentence: str, *, kind: str = "node") -> None:
        """What was done stays done where it cannot be told yet."""
        events = self._context.host.events
        event = events.make(name, code, sentence, kind=kind)
        try:
            await events.append(event)
        except UnavailableError:
            events.keep(event)


def _endpoint(address: str, port: int) -> str:
    return f"https://{address}:{port}"


def _is_local(request: web.Request) -> bool:
    return request.query.get("local", "") in ("1", "true")
