"""HTTP around the handlers: bodies in, records out, errors as one Problem, streams of lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import structlog
from aiohttp import web
from pydantic import ValidationError

from vdc.api.models import PeerRequest
from vdc.model.base import Record
from vdc.model.errors import BugError, InvalidError, Problem, VdcError

MAX_BODY_BYTES = 1024 * 1024
WRITE_S = 30.0  # a reader that takes nothing for so long is gone, or stands still
BODY_S = 10.0  # a record has arrived by then, or its sender has no intention to send it
_MOST_DIGITS = 20
_log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[object]]


async def parse_body(request: web.Request) -> object:
    """The JSON body, at most MAX_BODY_BYTES, no duplicate keys, no NaN. Raises InvalidError."""
    try:
        async with asyncio.timeout(BODY_S):
            text = (await request.read()).decode()  # in no other encoding, whatever the header says
    except TimeoutError as error:
        raise InvalidError(f"the body did not come within {BODY_S:g} s", code="body-late") from error
    except UnicodeDecodeError as error:
        raise InvalidError("the body is not UTF-8", code="body-invalid") from error
    try:
        return json.loads(text or "{}", object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"the body is not JSON: {error}", code="body-invalid") from error


def number(text: str, least: int, most: int) -> int:
    """A number of a query. Raises InvalidError."""
    is_number = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    if not (is_number and least <= int(text) <= most):
        raise InvalidError(f"{text[:20]!r} is not a number from {least} to {most}", code="query-invalid")
    return int(text)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def problem_response(error: VdcError) -> web.Response:
    """An error as the client rebuilds it."""
    return web.Response(
        text=error.problem.to_json(), status=error.http_status, content_type="application/json"
    )


@web.middleware
async def errors_as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every answer is a record or a Problem; nothing else leaves this process."""
    try:
        answer = await handler(request)
    except VdcError as error:
        return problem_response(error)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        return problem_response(InvalidError(f"{path or 'body'}: {first['msg']}", code="body-invalid"))
    except web.HTTPException as error:
        code = {404: "no-such-route", 405: "method-not-allowed", 413: "body-too-large"}.get(
            error.status, "http"
        )
        problem = Problem(code=code, message=error.reason)
        return web.Response(text=problem.to_json(), status=error.status, content_type="application/json")
    except Exception as error:  # the boundary of a request: a defect must not end the server
        _log.exception("defect while answering", path=request.path)
        return problem_response(BugError(f"{type(error).__name__} while answering; see the agent's log"))
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


def calling_host(request: web.Request, body: PeerRequest) -> str:
    """The host whose agent asks: its certificate's, once connections carry one; until then what it says."""
    identity = request.get("identity")
    return str(identity.name) if identity is not None else body.from_host
