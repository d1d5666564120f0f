"""How a host becomes a member: `hostagent join`. No agent runs here yet.

The token names the authority by its fingerprint. Whoever answers first is believed nothing: what it shows as the
authority counts only if it has that fingerprint, and the token is sent only over a connection that this authority
vouches for. Somebody in between sees neither the token nor gets a request to answer.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hostagent.config import AgentConfig
from hostagent.drivers.peers import NameResolver
from vdc.api import identities as wire
from vdc.api.client import ApiClient
from vdc.api.endpoints import parse_endpoint
from vdc.model.errors import ForbiddenError, InvalidError, UnauthenticatedError, UnavailableError
from vdc.model.identity import Identity, Role
from vdc.security import cluster
from vdc.security import folder as pki
from vdc.security.certificates import (
    fingerprint_of,
    parse_bundle,
    parse_certificate,
    public_key_of,
    read_certificate,
)
from vdc.security.keys import make_request, public_bytes
from vdc.security.tls import client_context, unverified_context
from vdc.security.tokens import Token, parse_token

CONNECT_S = 10.0


async def join(config: AgentConfig, token_text: str, *, anew: bool = False) -> Identity:
    """Become a member and keep the credentials; returns who this host is now.

    `anew`: in the place of a certificate that does not count any more. The host's own key stays; one of the
    authority goes, and comes back from the cluster.

    Raises InvalidError (`token-invalid`), ConflictError (`already-a-member`, `host-known`, `token-used`),
    UnauthenticatedError (`authority-mismatch`, `token-invalid`, `token-expired`), UnavailableError.
    """
    folder = pki.pki_folder(config.state_dir)
    if not anew:
        await asyncio.to_thread(cluster.require_no_member, folder)
    token = parse_token(token_text)
    anchor = await _authority(token)
    key = await asyncio.to_thread(pki.own_key, folder)
    request = wire.JoinRequest(
        token=token.text,
        name=config.host,
        role=Role.WITNESS if config.witness else Role.HOST,
        request=make_request(key, config.host),
        addresses=addresses_of(config),
    )
    trusted = anchor.public_bytes(Encoding.PEM).decode()
    membership = await _ask(token.endpoint, client_context(trusted), request)
    _check(membership, anchor, config, public_bytes(key.public_key()))
    await asyncio.to_thread(pki.forget_authorities, folder)
    await asyncio.to_thread(
        pki.write_membership,
        folder,
        bundle_pem=membership.bundle,
        certificate_pem=membership.certificate,
        revoked_pem=membership.revoked,
    )
    return (await asyncio.to_thread(pki.load_credentials, folder)).identity


def addresses_of(config: AgentConfig) -> tuple[str, ...]:
    """Where this host serves."""
    return tuple(sorted({str(config.management.address), str(config.replication.address)}))


async def _authority(token: Token) -> x509.Certificate:
    """The authority that the token names, as its agent shows it; UnauthenticatedError (`authority-mismatch`)."""
    async with _client(token.endpoint, unverified_context()) as api:
        bundle = (await api.identities.authority()).bundle
    found = next((one for one in parse_bundle(bundle) if fingerprint_of(one) == token.authority), None)
    if found is None:
        raise _mismatch(token.endpoint)
    return found


async def _ask(endpoint: str, context: ssl.SSLContext, request: wire.JoinRequest) -> wire.Membership:
    host = await _shake_hands(endpoint, context)
    async with _client(endpoint, context, host) as api:
        return await api.identities.join(request)


async def _shake_hands(endpoint: str, context: ssl.SSLContext) -> str:
    """Which full host of the cluster answers, before anything is sent to it; UnauthenticatedError.

    A witness gives no tokens. One that has gone bad and answers in a host's place would make itself a host by it.
    """
    parts = urlsplit(endpoint)
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
    except ssl.SSLError as error:
        raise _mismatch(endpoint) from error
    except (OSError, TimeoutError) as error:
        raise UnavailableError(
            f"no agent answers ({endpoint})",
            hint="is its agent running, and may this host reach it?",
            code="agent-unreachable",
        ) from error
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    identity = read_certificate(shown).identity
    if identity.role is not Role.HOST:
        raise _mismatch(endpoint)
    return identity.name


def _client(endpoint: str, context: ssl.SSLContext, host: str = "") -> _Client:
    """`host`: whose certificate it has to be, on this connection as on the one before."""
    try:
        is_remote = not parse_endpoint(endpoint).unix_path
    except InvalidError:
        is_remote = False
    if not is_remote:
        raise InvalidError(
            "the join token names no https endpoint",
            hint="an admin makes another: vdc cluster token create",
            code="token-invalid",
        )
    return _Client(endpoint, context, host)


class _Client:
    """An ApiClient of one endpoint over a session with one TLS context."""

    def __init__(self, endpoint: str, context: ssl.SSLContext, host: str) -> None:
        parts = urlsplit(endpoint)
        self._endpoint = f"https://{host}:{parts.port}" if host else endpoint
        self._connector: dict[str, Any] = {"ssl": context}
        if host:
            self._connector["resolver"] = NameResolver(lambda _: parts.hostname)

    async def __aenter__(self) -> ApiClient:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(**self._connector))
        return ApiClient([self._endpoint], session=self._session)

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()


def _mismatch(endpoint: str) -> UnauthenticatedError:
    return UnauthenticatedError(
        f"whoever answers at {endpoint} is no host of the cluster that the join token is of; the token was not sent",
        hint="somebody in between? make a new token on the cluster and compare the address",
        code="authority-mismatch",
    )


def _check(membership: wire.Membership, anchor: x509.Certificate, config: AgentConfig, key: bytes) -> None:
    """What came is what was asked for; a defect on the other side must not make a member of somebody else."""
    found = parse_certificate(membership.certificate)
    identity = read_certificate(found).identity
    wanted = Role.WITNESS if config.witness else Role.HOST
    is_mine = (identity.name, identity.role) == (config.host, wanted) and public_bytes(
        public_key_of(found)
    ) == key
    fingerprints = {fingerprint_of(one) for one in parse_bundle(membership.bundle)}
    if not is_mine or fingerprint_of(anchor) not in fingerprints:
        raise ForbiddenError(
            f"the certificate that came is of {identity}, not of this host", code="wrong-host"
        )
