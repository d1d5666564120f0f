"""HTTP around the handlers: bodies in, records out, errors as one Problem, streams of lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import structlog
from aiohttp import web
from pydantic import ValidationError

from vdc.model.base import Record
from vdc.model.errors import BugError, InvalidError, Problem, VdcError
from vdc.model.ids import check_dns_label
from vdc.model.strict_yaml import StrictError, parse_json

MAX_BODY_BYTES = 1024 * 1024
WRITE_S = 30.0  # a reader that takes nothing for so long is gone, or stands still
BODY_S = 10.0  # a record has arrived by then, or its sender has no intention to send it
MAX_VALUES = 300_000  # the numbers of a peer's question about a large guest's memory
_MOST_DIGITS = 20
_log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[object]]


async def parse_body(request: web.Request) -> object:
    """The JSON body, read as strictly as a manifest. Raises InvalidError."""
    try:
        async with asyncio.timeout(BODY_S):
            text = await request.read()
    except TimeoutError as error:
        raise InvalidError(f"the body did not come within {BODY_S:g} s", code="body-late") from error
    try:
        value = parse_json(text, max_values=MAX_VALUES)  # UTF-8, whatever encoding the header says
    except StrictError as error:
        raise InvalidError(f"the body cannot be used: {error}", code="body-invalid") from error
    return {} if value is None else value


def number(text: str, least: int, most: int) -> int:
    """A number of a query. Raises InvalidError."""
    is_number = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    if not (is_number and least <= int(text) <= most):
        raise InvalidError(f"{text[:20]!r} is not a number from {least} to {most}", code="query-invalid")
    return int(text)


def check_path(request: web.Request) -> None:
    """The names in a path become keys of the store and names of files. Raises InvalidError (`name-invalid`)."""
    name = request.match_info.get("name")
    if name is None:
        return
    try:
        check_dns_label(name)
    except ValueError as error:
        raise InvalidError(str(error), code="name-invalid") from error


def problem_of(error: Exception) -> tuple[int, Problem]:
    """The status and the Problem with which an error is answered."""
    match error:
        case VdcError():
            return error.http_status, error.problem
        case ValidationError():
            first = error.errors(include_url=False, include_input=False)[0]
            path = ".".join(str(part)[:60] for part in first["loc"])
            invalid = InvalidError(f"{path or 'body'}: {first['msg']}", code="body-invalid")
            return invalid.http_status, invalid.problem
        case web.HTTPException():
            code = {404: "no-such-route", 405: "method-not-allowed", 413: "body-too-large"}.get(
                error.status, "http"
            )
            return error.status, Problem(code=code, message=error.reason)
        case _:
            bug = BugError(f"{type(error).__name__} while answering; see the agent's log")
            return bug.http_status, bug.problem


@web.middleware
async def errors_as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every answer is a record or a Problem; nothing else leaves this process."""
    try:
        check_path(request)
        answer = await handler(request)
    except Exception as error:  # the boundary of a request: a defect must not end the server
        status, problem = problem_of(error)
        if not isinstance(error, VdcError | ValidationError | web.HTTPException):
            _log.exception("defect while answering", path=request.path)
        return web.Response(text=problem.to_json(), status=status, content_type="application/json")
    if isinstance(answer, web.StreamResponse):
        return answer
    if isinstance(answer, Record):
        return web.Response(text=answer.to_json(), content_type="application/json")
    return web.json_response(answer)


async def stream_lines(request: web.Request, records: AsyncIterator[Record]) -> web.StreamResponse:
    """One JSON record a line until the client goes away or this agent stops."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    async with aclosing(records) as lines:  # type: ignore[type-var]
        async for record in lines:
            try:
                async with asyncio.timeout(WRITE_S):
                    await response.write(record.to_json().encode() + b"\n")
            except ConnectionResetError:
                break
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()
                break
    return response
