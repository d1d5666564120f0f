"""What an agent's answer says where it is not what was asked for."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
from pydantic import ValidationError

from vdc.model.errors import BugError, Problem, VdcError, error_from_problem

LOST_ERRORS = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
_MAX_ERROR_BYTES = 64 * 1024


async def read_error(response: aiohttp.ClientResponse) -> VdcError:
    """The error of an unsuccessful answer, from its `Problem` body where it has one."""
    try:
        body = await response.content.read(_MAX_ERROR_BYTES)
        return error_from_problem(response.status, Problem.from_json(body))
    except (ValidationError, *LOST_ERRORS):
        method, path = response.method, response.url.path
        return BugError(
            f"the agent answered {method} {path} with {response.status} {response.reason}",
            hint="are the agent and this program of the same version? vdc version shows both",
            code="bad-answer",
        )
    finally:
        response.close()


def parse_json(body: bytes) -> Any:
    """The value of a JSON body; `BugError` where it is none."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise BugError("the agent's answer is not JSON", code="bad-answer") from error
