"""Who asks, and whether they may: before any handler, on every request.

Over TLS it is whom the connection's certificate speaks for; on the unix socket it is the kernel's word for who has
connected. A certificate is read once per connection. What can change while a connection is open is looked at anew with
each request: that the certificate has run out, was revoked, or is a host's that is used from another place. The
connections of an authority that is not trusted any more end with that trust.

A host that hands a person's request on names that person in a header. It is believed, and the person's role counts:
full hosts trust each other as root. Nobody else is believed.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from weakref import WeakKeyDictionary

from aiohttp import web
from cryptography import x509

from hostagent.drivers.trust import Trust
from hostagent.server.http import Handler
from hostagent.supervisor.node import NodeContext
from vdc.api.routes import ROUTES, Route
from vdc.api.transport import ACTING_FOR
from vdc.model.errors import BugError, ForbiddenError, UnauthenticatedError, UnavailableError
from vdc.model.identity import Identity, Role
from vdc.security.certificates import Certificate, parse_certificate, read_certificate
from vdc.security.keyring import Keyring
from vdc.store.mirror import Mirror

ROOT = "root"  # the name of the administrator at the unix socket
_UCRED = struct.Struct("3i")

_BY_PATH: dict[tuple[str, str], Route] = {(route.method, route.path): route for route in ROUTES}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end of a connection; both are None on the unix socket."""

    identity: Identity
    certificate: Certificate | None = None
    shown: x509.Certificate | None = None  # what `certificate` was read from


IDENTITY = web.RequestKey("identity", Identity)  # for whom the request is
CALLER = web.RequestKey("caller", Caller)


def identity_of(request: web.Request) -> Identity | None:
    """For whom the request is: whoever asks, or the person whose request a host hands on; None for nobody."""
    return request.get(IDENTITY)


def caller_of(request: web.Request) -> Identity | None:
    """Who is at the other end of the connection itself."""
    found = request.get(CALLER)
    return found.identity if found is not None else None


def person_of(request: web.Request) -> Identity | None:
    """The person to name where the request is handed on; None where a machine asks in its own name."""
    identity = identity_of(request)
    return None if identity is None or identity.role.is_machine else identity


def name_of(request: web.Request) -> str:
    """Whom records and events name as the one who asked; never what the request says of itself."""
    identity = identity_of(request)
    return identity.name if identity is not None else ""


def require_role(request: web.Request, role: Role) -> None:
    """Raises ForbiddenError (`role-missing`) unless the request's role includes this one."""
    identity = identity_of(request)
    if identity is None or not identity.role.includes(role):
        raise role_missing(identity, role)


def role_missing(identity: Identity | None, role: Role) -> ForbiddenError:
    """The refusal that names what is missing."""
    who = f"{identity.name} is {identity.role}" if identity is not None else "nobody is here"
    hint = "" if role.is_machine else f"an administrator gives it: vdc cluster user add NAME --role {role}"
    return ForbiddenError(f"this needs the role {role}; {who}", hint=hint)


def revoked_by(mirror: Mirror, keyring: Keyring) -> Callable[[str], bool]:
    """Who was revoked: by the records; until they have been read, by the list that this host signed or got last."""
    listed = keyring.listed()
    return lambda serial: serial in mirror.revoked or (not mirror.synced.is_set() and serial in listed)


class Gate:
    """One per agent; `middleware` goes around every handler."""

    def __init__(
        self,
        host: NodeContext,
        trust: Trust,
        is_revoked: Callable[[str], bool],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`is_revoked`: of a serial number."""
        self._host = host
        self._trust = trust
        self._cluster = trust.identity.cluster
        self._is_revoked = is_revoked
        self._now = now
        self._callers: WeakKeyDictionary[asyncio.Transport, Caller | None] = WeakKeyDictionary()
        trust.subscribe(self.drop_ended)

    @property
    def middleware(self) -> Callable[[web.Request, Handler], Awaitable[object]]:
        """For the aiohttp application."""

        @web.middleware
        async def admitted(request: web.Request, handler: Handler) -> object:
            self.admit(request)
            return await handler(request)

        return admitted

    def admit(self, request: web.Request) -> None:
        """Note who asks. Raises UnauthenticatedError, ForbiddenError, UnavailableError where it cannot be known yet."""
        _refuse_pages(request)
        resource = request.match_info.route.resource
        route = _BY_PATH.get((request.method, resource.canonical)) if resource is not None else None
        if route is None and request.match_info.http_exception is None:
            raise BugError(f"{request.method} {request.path} has a handler and no row in the table of routes")
        caller = self._caller(request)
        if caller is None:
            if route is not None and route.role is Role.NOBODY:
                return
            raise UnauthenticatedError(
                "this needs a certificate of the cluster", hint="vdc cluster user add NAME prints a context with one"
            )  # fmt: skip
        request[CALLER] = caller
        self._check_certificate(
            caller, request.remote or "", is_newcomer=route is None or route.from_newcomers
        )
        if caller.certificate is not None and request.method not in ("GET", "HEAD"):
            self._check_records()
        request[IDENTITY] = identity = self._acting_for(request, caller.identity)
        if route is not None and not route.admits(identity.role):
            raise role_missing(identity, route.role)

    def drop_ended(self) -> None:
        """End the open connections of certificates that count no more: a stream has no next request."""
        for transport, caller in tuple(self._callers.items()):
            if caller is None or caller.certificate is None or caller.shown is None:
                continue
            has_ended = self._now() > caller.certificate.not_after or self._is_revoked(
                caller.certificate.serial
            )
            if has_ended or not self._trust.believes(caller.shown):
                transport.abort()

    # ---- whose connection it is

    def _caller(self, request: web.Request) -> Caller | None:
        transport = request.transport
        if transport is None:
            raise UnavailableError("the connection is gone")
        try:
            return self._callers[transport]
        except KeyError:
            pass
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            shown = tls.getpeercert(binary_form=True)
            caller = self._of_certificate(shown) if shown else None
        else:
            caller = self._local(transport.get_extra_info("socket"))
        self._callers[transport] = caller
        return caller

    def _of_certificate(self, der: bytes) -> Caller:
        """The handshake may have been made when another authority was trusted still."""
        shown = parse_certificate(der)
        if not self._trust.believes(shown):
            raise UnauthenticatedError(
                "the certificate is of an authority that this cluster does not trust any more",
                hint="ask an administrator for a new one", code="certificate-foreign",
            )  # fmt: skip
        certificate = read_certificate(shown)
        return Caller(certificate.identity, certificate, shown)

    def _local(self, connection: socket.socket | None) -> Caller | None:
        """Whoever may open the unix socket as root is this host's administrator, and so the cluster's."""
        if connection is None or connection.family != socket.AF_UNIX:
            return None
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, user_id, _ = _UCRED.unpack(credentials)
        if user_id != 0:
            return None
        return Caller(Identity(cluster=self._cluster, role=Role.ADMIN, name=ROOT))

    # ---- whether it counts

    def _check_certificate(self, caller: Caller, remote: str, *, is_newcomer: bool) -> None:
        identity, certificate = caller.identity, caller.certificate
        if certificate is None:
            return
        if identity.cluster != self._cluster:
            raise UnauthenticatedError(
                f"the certificate is of cluster {identity.cluster}, this is {self._cluster}",
                code="certificate-foreign",
            )
        if self._is_revoked(certificate.serial):
            raise UnauthenticatedError(
                f"the certificate of {identity.name} was revoked", code="certificate-revoked",
                hint="ask an administrator for a new one",
            )  # fmt: skip
        certificate.check_time(self._now())
        if identity.role.is_machine:
            self._check_place(certificate, remote, is_newcomer=is_newcomer)

    def _check_records(self) -> None:
        """Nothing is changed for a certificate that may have been revoked without this host's knowing."""
        if not self._host.mirror.synced.is_set() and not self._trust.is_founding:
            raise UnavailableError(
                f"{self._host.name} has not read the records yet, and cannot tell who was revoked meanwhile",
                hint="ask another host; without a majority of etcd nothing can be changed", code="not-synced",
            )  # fmt: skip

    def _check_place(self, certificate: Certificate, remote: str, *, is_newcomer: bool) -> None:
        """A machine's certificate counts from that machine's own addresses alone."""
        identity = certificate.identity
        found = self._host.mirror.hosts.get(identity.name)
        if found is not None:
            addresses = {found.value.management_address, found.value.replication_address}
        elif is_newcomer:
            addresses = set(certificate.addresses)
        elif not self._host.mirror.synced.is_set():
            raise UnavailableError(f"{self._host.name} has not read the records yet", code="not-synced")
        else:
            raise ForbiddenError(f"the cluster knows no host {identity.name}", code="wrong-host")
        if remote not in addresses:
            raise ForbiddenError(f"{remote or '?'} is no address of {identity.name}", code="wrong-host")

    def _acting_for(self, request: web.Request, caller: Identity) -> Identity:
        named = request.headers.get(ACTING_FOR)
        if named is None:
            return caller
        if caller.role is not Role.HOST:
            raise ForbiddenError(
                f"{caller.name} is {caller.role}: only hosts hand requests on", code="acting-for"
            )
        person = Identity.parse(named)
        if person.role.is_machine or person.cluster != self._cluster:
            raise ForbiddenError(f"{caller.name} cannot speak for {person}", code="acting-for")
        return person


def _refuse_pages(request: web.Request) -> None:
    """A browser that holds somebody's certificate shows it with whatever any page asks for; the API has no pages."""
    headers = request.headers
    if "Origin" in headers or headers.get("Sec-Fetch-Site", "none") != "none":
        raise ForbiddenError(
            "a page in a browser may not use this", code="cross-site", hint="use vdc, or curl"
        )
