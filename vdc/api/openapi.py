"""The contract as an OpenAPI 3.1 document, made of `ROUTES` and the models; deterministic."""

from __future__ import annotations

import re
from typing import Any

from pydantic.json_schema import models_json_schema

from vdc.api.routes import ROUTES, Body, Route
from vdc.model.base import Record
from vdc.model.errors import Problem
from vdc.model.event import Event

CONTRACT_VERSION = "1.0"  # of the paths under /v1, not of the program

_REF_TEMPLATE = "#/components/schemas/{model}"
_STREAMED: dict[str, type[Record]] = {"watch_events": Event}
_STATUS_CODES = ("400", "401", "403", "404", "409", "412", "413", "422", "429", "503")
_IN_PATH: dict[str, dict[str, Any]] = {
    "name": {"pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", "maxLength": 63},
    "digest": {"pattern": "^sha256:[0-9a-f]{64}$"},
}
_PLACEHOLDER = re.compile(r"{(\w+)}")


def build_openapi(routes: tuple[Route, ...] = ROUTES) -> dict[str, Any]:
    """The document as plain values, in the order of the table."""
    used = sorted({model for route in routes for model in _models(route)}, key=lambda model: model.__name__)
    _, definitions = models_json_schema(
        [(model, "validation") for model in used], by_alias=True, ref_template=_REF_TEMPLATE
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Virtual Distributed Computer", "version": CONTRACT_VERSION},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(definitions.get("$defs", {}).items())),
            "responses": {"Problem": {"description": "An error", "content": _content(Body.JSON, Problem)}},
        },
    }


def _models(route: Route) -> set[type[Record]]:
    candidates = (route.request, _answer(route), Problem)
    return {model for model in candidates if model is not None}


def _answer(route: Route) -> type[Record] | None:
    return route.response or _STREAMED.get(route.name)


def _operation(route: Route) -> dict[str, Any]:
    success = "101" if route.body is Body.WEBSOCKET else "200"
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": ["peer" if route.is_peer else "client"],
        "x-role": route.role.value,  # the least that may call it; no member of the standard says that
    }
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if route.request is not None or route.request_body is not Body.JSON:
        content = _content(route.request_body, route.request)
        operation["requestBody"] = {"required": True, "content": content}
    answer: dict[str, Any] = {"description": route.summary}
    if route.body is not Body.WEBSOCKET and route.method != "HEAD":
        answer["content"] = _content(route.body, _answer(route))
    problem: dict[str, Any] = {"$ref": "#/components/responses/Problem"}
    if route.method == "HEAD":  # answers have no body
        problem = {"description": "An error"}
    operation["responses"] = {success: answer, **dict.fromkeys(_STATUS_CODES, problem)}
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    text: dict[str, Any] = {"type": "string"}
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {**text, **_IN_PATH.get(name, {})}}
        for name in _PLACEHOLDER.findall(route.path)
    ]
    return in_path + [
        {"name": name, "in": "query", "required": False, "schema": text} for name in route.query
    ]


def _content(body: Body, model: type[Record] | None) -> dict[str, Any]:
    if body is Body.BYTES:
        schema: dict[str, Any] = {"type": "string", "format": "binary"}
    elif model is not None:
        schema = {"$ref": _REF_TEMPLATE.format(model=model.__name__)}
    else:
        schema = {"type": "string" if body is Body.TEXT else "object"}
    return {body.value: {"schema": schema}}
