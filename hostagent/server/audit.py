"""Who did what: around every handler, into the spool, and from there into the audit log (hostagent.agent.audit).

An act is written down before its handler runs: a change, or the opening of a console, that a person asked for. So is
what a host asks for where the route table says so (keys of the cluster). A dry run changes nothing and is no act.
What is refused with 401 or 403 is written down whatever it was. Refusals, and requests that make no sense, are summed
up, and a person may act at a pace only (pace.py): nobody can push old entries out of the log within minutes.

Names alone are written: the route's, the object's, and what of the query a route tells (`Route.told`: a command, a
path). No body, no header, and nothing of what goes over a websocket is.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable

from aiohttp import web

from hostagent.drivers.audit.spool import Spool
from hostagent.server.audit_refusals import Refusals
from hostagent.server.http import Handler, parse_body, problem_of
from hostagent.server.identity import caller_of, identity_of
from hostagent.server.pace import AT_ONCE, PER_S, Pace
from hostagent.supervisor.node import NodeContext
from vdc.api.routes import ROUTES, Route
from vdc.api.transport import REQUEST_ID, request_id
from vdc.model.audit import CANCELLED, NOBODY, OK, AuditEntry, RememberedHead
from vdc.model.errors import TooManyError
from vdc.model.identity import Identity

REFUSED = (401, 403)
LOCAL = "unix"
NO_ROUTE = "none"
_ID = web.RequestKey("request-id", str)
_TOLD = web.RequestKey("audit-told", bool)
_OPEN = web.RequestKey("audit-open", AuditEntry)
_BY_PATH = {(route.method, route.path): route for route in ROUTES}
_FOREIGN = re.compile(r"[^-\w.:/@+]", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_HANDED_ON = re.compile(r"[0-9a-f]{16}")
_MOST_OBJECT, _MOST_DETAIL = 253, 1000
_SWITCHING = 101  # to a websocket


class Audit:
    """One per agent."""

    def __init__(self, spool: Spool, host: NodeContext) -> None:
        self.spool = spool
        self._host = host
        self._refusals = Refusals()
        self._pace = Pace()
        self.remembered = RememberedHead(host=host.name)  # the end of the log, as its keeper knows it

    # ---- around the handlers

    @property
    def middleware(self) -> Callable[[web.Request, Handler], Awaitable[object]]:
        """Outside of whatever finds out who asks: gives the request its id, and sees every refusal."""

        @web.middleware
        async def audited(request: web.Request, handler: Handler) -> object:
            request[_ID] = uuid.uuid4().hex[:16]
            request_id.set(request[_ID])
            try:
                return await handler(request)
            except Exception as error:
                status, problem = problem_of(error)
                if status in REFUSED and _TOLD not in request:
                    self._refused(request, self._entry(request), problem.code)
                raise

        return audited

    def recorded(self, handler: Handler, route: Route) -> Handler:
        """The handler, written down before and after where it is an act. It knows who asks."""
        if not route.is_act:
            return handler

        async def written(request: web.Request) -> object:
            entry = self._entry(request)
            try:
                body = await parse_body(request) if route.names_in_body or route.may_be_dry else None
            except Exception as error:  # the handler would raise the same
                self._failed(request, entry, problem_of(error)[1].code)
                raise
            if _is_dry(route, request, body):
                return await handler(request)
            if route.names_in_body:
                entry = entry.with_(object=_name_in(body))
            self._keep_pace(request, entry)
            if entry.who == NOBODY:  # whoever has no identity yet could fill the disk
                return await self._afterwards(request, handler, entry)
            return await self._around(request, handler, entry)

        return written

    async def answered(self, request: web.Request, response: web.StreamResponse) -> None:
        """For aiohttp's `on_response_prepare`: every answer names its request, and a console is open from here on."""
        response.headers[REQUEST_ID] = request.get(_ID, "")
        entry = request.get(_OPEN)
        if entry is not None and response.status == _SWITCHING:
            self._end(request, entry, OK, None)

    # ---- what is due later

    def sum_up(self) -> None:
        """Tell of the refusals that were only counted so far."""
        for entry in self._refusals.due(self._host.clock.boottime_s()):
            self.spool.end(entry)

    async def close(self) -> None:
        """Leave everything on the disk."""
        for entry in self._refusals.rest():
            self.spool.end(entry)
        await self.spool.flush()

    # ---- one act

    async def _around(self, request: web.Request, handler: Handler, entry: AuditEntry) -> object:
        request[_OPEN] = entry
        answer, result = None, CANCELLED
        try:
            await self.spool.begin(entry)
            answer = await handler(request)
            result = OK
            return answer
        except Exception as error:
            result = problem_of(error)[1].code
            raise
        finally:
            self._end(request, entry, result, answer)

    async def _afterwards(self, request: web.Request, handler: Handler, entry: AuditEntry) -> object:
        """Whatever fails is counted like a refusal; what is granted is on the disk before the answer leaves."""
        try:
            answer = await handler(request)
        except Exception as error:
            self._failed(request, entry, problem_of(error)[1].code)
            raise
        await self.spool.begin(entry)
        self._end(request, entry, OK, answer)
        return answer

    def _keep_pace(self, request: web.Request, entry: AuditEntry) -> None:
        identity = identity_of(request)
        if identity is None or identity.role.is_machine:
            return
        if not self._pace.take(entry.who, self._host.clock.boottime_s()):
            error = TooManyError(
                f"{identity.name} has asked for too many changes at once",
                hint=f"{PER_S:g} per second go on and on, {AT_ONCE} at once: wait a little",
            )
            self._refused(request, entry, error.code)
            raise error

    def _failed(self, request: web.Request, entry: AuditEntry, code: str) -> None:
        """What made no sense changed nothing: it is counted, or it could push out what did."""
        self._refused(request, entry, code)

    def _end(self, request: web.Request, entry: AuditEntry, result: str, answer: object) -> None:
        if _TOLD in request:
            return
        request[_TOLD] = True
        done = entry.with_(result=result, epoch=self._epoch(request, entry, answer))
        self.spool.end(done)
        self._log(done)

    def _refused(self, request: web.Request, entry: AuditEntry, code: str) -> None:
        request[_TOLD] = True
        told = self._refusals.note(entry.with_(result=code), self._host.clock.boottime_s())
        if told is not None:
            self.spool.end(told)
            self._log(told)

    # ---- what is known of a request

    def _entry(self, request: web.Request) -> AuditEntry:
        route = _route_of(request)
        identity, caller = _identities(request)
        via = ""
        if caller is not None and caller.role.is_machine:
            handed_on = request.headers.get(REQUEST_ID, "")
            if _HANDED_ON.fullmatch(handed_on):
                request[_ID] = handed_on
                request_id.set(handed_on)
            via = caller.name if caller != identity else ""
        return AuditEntry(
            id=request[_ID], at=self._host.clock.wall(), host=self._host.name,
            who=identity.uri if identity else NOBODY, via=via, address=_address_of(request),
            what=route.name if route else NO_ROUTE, object=_object_of(request, route),
            detail=_detail_of(request, route),
        )  # fmt: skip

    def _epoch(self, request: web.Request, entry: AuditEntry, answer: object) -> int:
        route = _route_of(request)
        if route is None or "/endophytes" not in route.path:
            return 0
        pair = self._host.mirror.pair(entry.object)
        return max(getattr(answer, "epoch", 0), pair.epoch if pair else 0)

    def _log(self, entry: AuditEntry) -> None:
        self._host.log.info(
            "audited", request=entry.id, who=entry.who, via=entry.via, address=entry.address, what=entry.what,
            object=entry.object, result=entry.result,
        )  # fmt: skip


def _identities(request: web.Request) -> tuple[Identity | None, Identity | None]:
    """For whom it is, and who is at the other end; the second alone where the first was not believed."""
    caller = caller_of(request)
    return identity_of(request) or caller, caller


def _address_of(request: web.Request) -> str:
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return str(peer[0])[:64] if isinstance(peer, tuple) else LOCAL


def _route_of(request: web.Request) -> Route | None:
    resource = request.match_info.route.resource
    return _BY_PATH.get((request.method, resource.canonical)) if resource is not None else None


def _object_of(request: web.Request, route: Route | None) -> str:
    values = list(request.match_info.values())
    if not values and route is not None and "name" in route.query:
        values = [request.query.get("name", "")]
    return _plain("/".join(values))


def _detail_of(request: web.Request, route: Route | None) -> str:
    told = route.told if route is not None else ()
    found = [f"{name}={request.query[name]}" for name in told if request.query.get(name)]
    return _CONTROL.sub("?", " ".join(found)[:_MOST_DETAIL])


def _is_dry(route: Route, request: web.Request, body: object) -> bool:
    """Said where this route listens to it: elsewhere it would hide an act."""
    is_said = route.may_be_dry and isinstance(body, dict) and body.get("dry_run") is True
    return is_said or ("dry_run" in route.query and request.query.get("dry_run", "") in ("1", "true"))


def _name_in(body: object) -> str:
    """The object's name, where a body gives it: the only thing that is taken from one."""
    if not isinstance(body, dict):
        return ""
    metadata = body.get("metadata")
    name = body.get("name", metadata.get("name") if isinstance(metadata, dict) else None)
    return _plain(name) if isinstance(name, str) else ""


def _plain(text: str) -> str:
    return _FOREIGN.sub("?", text[:_MOST_OBJECT])
