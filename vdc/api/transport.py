"""Requests to whichever agent answers: choice of the endpoint, retries, deadlines, errors, streams.

An endpoint is chosen by a race: every agent is asked for its health, each a little later than the one
before it, and the first that is well is remembered; one that answers 503 (alive, but without its store) is
taken only when no other answers. A request that may be repeated (everything but POST) goes to another agent
when its own does not answer in time or is itself unavailable. A POST is repeated only where it certainly
never left this machine; where its outcome is unknown the error says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self

import aiohttp

from vdc.api.answers import LOST_ERRORS, read_error
from vdc.api.call import Call
from vdc.api.endpoints import Endpoint, parse_endpoint
from vdc.api.learning import is_rotating, learn_authorities
from vdc.api.refusals import FOREIGN, refusal_of
from vdc.api.routes import BY_NAME, Body
from vdc.model.errors import (
    UnauthenticatedError,
    UnavailableError,
    VdcError,
)
from vdc.model.identity import Identity
from vdc.security.credentials import UserCredentials

_CONNECT_ERRORS = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_MAX_MESSAGE_BYTES = 1024**2
_STATUS_UNAVAILABLE = 503
ACTING_FOR = "Vdc-Acting-For"  # for whom a host hands a request on
DONE_ELSEWHERE = "is-witness"  # it was not done here, and another agent does it
REQUEST_ID = "Vdc-Request-Id"
RECEIVED = "Vdc-Received"  # bytes of a blob that were uploaded, and are not all
BUSY = "Vdc-Busy"  # somebody uploads it now

# The request on whose behalf this task asks on: the audit logs of both agents then name the same.
request_id: ContextVar[str] = ContextVar("request_id", default="")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long the transport waits, in seconds. `stagger_s` is the head start in the race for an endpoint."""

    connect_s: float = 1.0
    health_s: float = 2.0
    stagger_s: float = 0.15
    read_s: float = 5.0  # first byte of an answer that another agent could give as well
    last_s: float = 30.0  # first byte, where no other agent is left to ask, and of every POST
    idle_s: float = 5.0  # a stream without a line for so long: is its agent still there?
    reconnect_s: float = 0.2  # between the end of a stream and the next attempt


class Transport:
    """Sends calls to one of several agents; used as an async context manager, or closed by `close`."""

    def __init__(
        self,
        endpoints: Sequence[str | Endpoint],
        *,
        session: aiohttp.ClientSession | None = None,
        deadlines: Deadlines | None = None,
        credentials: UserCredentials | None = None,
        acting_for: Identity | None = None,
    ) -> None:
        """`credentials`: for https endpoints, unless `session` has them; `acting_for`: whose request a host hands on.

        InvalidError where the credentials cannot be read.
        """
        self.endpoints = tuple(e if isinstance(e, Endpoint) else parse_endpoint(e) for e in endpoints)
        self.deadlines = deadlines or Deadlines()
        self.credentials = credentials
        self._ssl = _context_of(credentials) if credentials is not None else None
        self._headers = {ACTING_FOR: acting_for.uri} if acting_for is not None else {}
        self._given_session = session
        self._sessions: dict[tuple[str, bool], aiohttp.ClientSession] = {}
        self._good: Endpoint | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the sessions that this object opened; a session that was passed in stays open."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def choose(self, excluded: frozenset[Endpoint] = frozenset()) -> Endpoint:
        """The remembered endpoint, or the winner of a race; `UnavailableError` where nobody answers."""
        if self._good is not None and self._good not in excluded:
            return self._good
        left = [endpoint for endpoint in self.endpoints if endpoint not in excluded]
        if not left:
            raise self._unreachable()
        self._good = left[0] if len(self.endpoints) == 1 else await self._race(left)
        return self._good

    async def _race(self, candidates: Sequence[Endpoint]) -> Endpoint:
        async def answer(place: int, endpoint: Endpoint) -> tuple[Endpoint, int]:
            await asyncio.sleep(place * self.deadlines.stagger_s)
            async with asyncio.timeout(self.deadlines.health_s):
                try:
                    async with self._session(endpoint).get(_health_url(endpoint)) as response:
                        return endpoint, response.status
                except LOST_ERRORS as error:
                    raise refusal_of(endpoint, error, self.credentials) or error from error

        tasks = [
            asyncio.create_task(answer(place, endpoint), name=f"health-{endpoint}")
            for place, endpoint in enumerate(candidates)
        ]
        unwell: Endpoint | None = None
        refusal: VdcError | None = None
        try:
            for next_done in asyncio.as_completed(tasks):
                try:
                    endpoint, status = await next_done
                except UnauthenticatedError as error:
                    refusal = refusal or error
                    continue
                except (*LOST_ERRORS, OSError):
                    continue
                if status < 500:
                    return endpoint
                unwell = unwell or endpoint
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if unwell is None:
            raise refusal or self._unreachable()
        return unwell

    async def follow_rotation(self) -> None:
        """Trust no authority longer than the cluster does: the agent that answered knows."""
        if self.credentials is not None and self._good is not None and is_rotating(self.credentials):
            learned = await learn_authorities([self._good], self.credentials)
            self.credentials = learned or self.credentials

    async def request(self, call: Call) -> bytes:
        """The body of a successful answer; `vdc.model.errors` otherwise."""
        async with self.open(call) as response:
            try:
                return await response.read()
            except LOST_ERRORS as error:
                raise self._lost(call, error) from error

    async def head(self, call: Call) -> tuple[int, Mapping[str, str]]:
        """The status of an answer to a HEAD request, whatever it is, and its headers."""
        response = await self._send(call, check=False)
        response.release()
        return response.status, response.headers

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful answer whose body has not been read."""
        response = await self._send(call)
        try:
            yield response
        finally:
            response.close()

    async def _send(self, call: Call, *, check: bool = True) -> aiohttp.ClientResponse:
        """An agent that shows the certificate of an authority unknown here got nothing: it can be asked again."""
        try:
            return await self._send_to_any(call, check=check)
        except UnauthenticatedError as error:
            if error.code != FOREIGN or self.credentials is None:
                raise
            learned = await learn_authorities(self.endpoints, self.credentials)
            if learned is None:
                raise
            await self.close()
            self.credentials, self._ssl = learned, _context_of(learned)
        return await self._send_to_any(call, check=check)

    async def _send_to_any(self, call: Call, *, check: bool) -> aiohttp.ClientResponse:
        failed: set[Endpoint] = set()
        last_error: VdcError | None = None
        while len(failed) < len(self.endpoints):
            try:
                endpoint = await self.choose(frozenset(failed))
            except (UnavailableError, UnauthenticatedError) as error:
                raise last_error or error from None
            is_last = len(failed) + 1 == len(self.endpoints)
            try:
                response = await self._send_to(endpoint, call, is_last=is_last)
            except _CONNECT_ERRORS as error:
                last_error = refusal_of(endpoint, error, self.credentials)
            except (*LOST_ERRORS, OSError) as error:
                refusal = refusal_of(endpoint, error, self.credentials)
                last_error = refusal or self._lost(call, error)
                if refusal is None and not call.may_repeat:
                    self._good = None
                    raise last_error from error
            else:
                if response.status < 400 or not check:
                    return response
                last_error = await read_error(response)
                may_ask_on = call.may_repeat or last_error.code == DONE_ELSEWHERE
                if not (response.status == _STATUS_UNAVAILABLE and may_ask_on) or is_last:
                    raise last_error
            failed.add(endpoint)
            self._good = None
        raise last_error or self._unreachable()

    async def _send_to(self, endpoint: Endpoint, call: Call, *, is_last: bool) -> aiohttp.ClientResponse:
        patient = is_last or not call.may_repeat or call.is_blob
        first_byte_s = call.first_byte_s or (self.deadlines.last_s if patient else self.deadlines.read_s)
        headers = self._headers | _passed_on()
        data: Any = None
        if call.json_body is not None:
            headers["Content-Type"] = "application/json"
            data = call.json_body.encode()
        elif call.body is not None:
            headers["Content-Type"] = "application/octet-stream"
            data = call.body()
            if call.size_bytes is not None:
                headers["Content-Length"] = str(call.size_bytes - (call.first_byte or 0))
            if call.first_byte is not None:
                headers["Content-Range"] = (
                    f"bytes {call.first_byte}-{(call.size_bytes or 0) - 1}/{call.size_bytes}"
                )
        # On a kept connection that the agent closed meanwhile nobody can tell whether a POST arrived.
        request = self._session(endpoint, fresh=not call.may_repeat).request(
            call.route.method,
            endpoint.base_url + call.path,
            params=call.query,
            headers=headers,
            data=data,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(
                sock_connect=self.deadlines.connect_s,
                sock_read=None if call.route.body is Body.LINES else first_byte_s,
            ),
        )
        if call.is_blob:  # sending takes as long as it takes; silence after it is bounded by sock_read
            return await request
        async with asyncio.timeout(self.deadlines.connect_s + first_byte_s):
            return await request

    async def follow(self, call: Call) -> AsyncIterator[bytes]:
        """The lines of a stream, for ever: when it ends it is opened again, with another agent if need be."""
        while True:
            async for line in self.lines(call):
                yield line
            await asyncio.sleep(self.deadlines.reconnect_s)

    async def lines(self, call: Call) -> AsyncIterator[bytes]:
        """The lines of one stream until it ends or its agent turns out to be dead; empty ones are skipped."""
        async with self.open(call) as response:
            endpoint = await self.choose()
            while line := await self._next_line(response, endpoint):
                if line.strip():
                    yield line

    async def _next_line(self, response: aiohttp.ClientResponse, endpoint: Endpoint) -> bytes:
        reader = asyncio.create_task(response.content.readline(), name="stream-line")
        try:
            while True:
                done, _ = await asyncio.wait({reader}, timeout=self.deadlines.idle_s)
                if done:
                    return reader.result()
                if not await self._is_alive(endpoint):
                    return b""
        except (*LOST_ERRORS, OSError):
            self.forget(endpoint)
            return b""
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _is_alive(self, endpoint: Endpoint) -> bool:
        try:
            async with asyncio.timeout(self.deadlines.health_s):
                async with self._session(endpoint).get(_health_url(endpoint)):
                    return True
        except (*LOST_ERRORS, OSError):
            self.forget(endpoint)
            return False

    def forget(self, endpoint: Endpoint | None = None) -> None:
        """Choose anew for the next call (if `endpoint` is given: only where that was the chosen one)."""
        if endpoint is None or self._good == endpoint:
            self._good = None

    @asynccontextmanager
    async def websocket(self, call: Call) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A websocket; pinged, so that a dead agent ends it. Errors of the opening are those of `request`."""
        async with await self._open_websocket(call, frozenset()) as socket:
            yield socket

    async def _open_websocket(
        self, call: Call, failed: frozenset[Endpoint]
    ) -> aiohttp.ClientWebSocketResponse:
        endpoint = await self.choose(failed)
        try:
            return await self._session(endpoint).ws_connect(
                endpoint.base_url + call.path,
                params=call.query,
                headers=self._headers | _passed_on(),
                heartbeat=self.deadlines.idle_s,
                max_msg_size=_MAX_MESSAGE_BYTES,
            )
        except aiohttp.WSServerHandshakeError as error:
            if error.status == _STATUS_UNAVAILABLE and len(failed) + 1 < len(self.endpoints):
                return await self._open_websocket(call, failed | {endpoint})
            await self.request(call)  # a failed handshake has no body: the plain request says what is wrong
            raise UnavailableError(f"{endpoint} did not open the stream", code="stream-refused") from error
        except (*LOST_ERRORS, OSError) as error:
            self.forget(endpoint)
            refusal = refusal_of(endpoint, error, self.credentials)
            raise refusal or self._unreachable() from error

    def _session(self, endpoint: Endpoint, *, fresh: bool = False) -> aiohttp.ClientSession:
        if self._given_session is not None and not endpoint.unix_path:
            return self._given_session
        key = (endpoint.unix_path, fresh)
        if key not in self._sessions:
            path = endpoint.unix_path
            connector: aiohttp.BaseConnector = (
                aiohttp.UnixConnector(path=path, force_close=fresh)
                if path
                else aiohttp.TCPConnector(force_close=fresh, ssl=self._ssl or True)
            )
            self._sessions[key] = aiohttp.ClientSession(connector=connector)
        return self._sessions[key]

    def _unreachable(self) -> UnavailableError:
        where = ", ".join(str(endpoint) for endpoint in self.endpoints) or "no endpoint is configured"
        return UnavailableError(
            f"no agent answers ({where})",
            hint="start one (vdc lab up), or choose another cluster with --context",
            code="agent-unreachable",
        )

    def _lost(self, call: Call, error: Exception) -> UnavailableError:
        if call.may_repeat:
            return self._unreachable()
        return UnavailableError(
            f"the agent did not answer ({type(error).__name__}); whether it did what was asked is unknown",
            hint="look with vdc get before asking again",
            code="outcome-unknown",
        )


def _passed_on() -> dict[str, str]:
    return {REQUEST_ID: known} if (known := request_id.get()) else {}


def _context_of(credentials: UserCredentials) -> SSLContext:
    from vdc.security.tls import client_context

    return client_context(credentials.authority_pem, credentials.certificate_pem, credentials.key_pem)


def _health_url(endpoint: Endpoint) -> str:
    return endpoint.base_url + BY_NAME["health"].path
