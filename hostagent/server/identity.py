"""Who asks, and whether they may: before any handler, on every request.

Over TLS it is whom the connection's certificate speaks for; on the unix socket it is the kernel's word for who has
connected. A certificate is read once per connection. What can change while a connection is open is looked at anew with
each request: that the certificate has run out, was revoked, or is a host's that is used from another place.

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

from hostagent.server.http import Handler
from hostagent.supervisor.node import NodeContext
from vdc.api.routes import ROUTES, Route
from vdc.api.transport import ACTING_FOR
from vdc.model.errors import BugError, ForbiddenError, UnauthenticatedError, UnavailableError
from vdc.model.identity import Identity, Role
from vdc.security.certificates import Certificate, read_certificate

ROOT = "root"  # the name of the administrator at the unix socket
_UCRED = struct.Struct("3i")

_BY_PATH: dict[tuple[str, str], Route] = {(route.method, route.path): route for route in ROUTES}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end of a connection; `certificate` is None on the unix socket."""

    identity: Identity
    certificate: Certificate | None = None


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


class Gate:
    """One per agent; `middleware` goes around every handler."""

    def __init__(
        self,
        host: NodeContext,
        cluster: str,
        is_revoked: Callable[[str], bool],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`is_revoked`: of a serial number."""
        self._host = host
        self._cluster = cluster
        self._is_revoked = is_revoked
        self._now = now
        self._callers: WeakKeyDictionary[asyncio.Transport, Caller | None] = WeakKeyDictionary()

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
        request[IDENTITY] = identity = self._acting_for(request, caller.identity)
        if route is not None and not route.admits(identity.role):
            raise role_missing(identity, route.role)

    def drop_revoked(self) -> None:
        """End the open connections of certificates that were revoked: a stream has no next request."""
        for transport, caller in tuple(self._callers.items()):
            certificate = caller.certificate if caller is not None else None
            if certificate is not None and self._is_revoked(certificate.serial):
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
            caller = _of_certificate(shown) if shown else None
        else:
            caller = self._local(transport.get_extra_info("socket"))
        self._callers[transport] = caller
        return caller

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


def _of_certificate(der: bytes) -> Caller:
    certificate = read_certificate(der)
    return Caller(certificate.identity, certificate)
