"""The OpenAPI document: complete, self-consistent, the same every time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from vdc.api.openapi import build_openapi
from vdc.api.routes import ROUTES


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_route_is_in_it_under_its_own_name() -> None:
    document = build_openapi()
    found = {
        (operation["operationId"], method.upper(), path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert found == {(route.name, route.method, route.path) for route in ROUTES}


def test_every_reference_leads_somewhere() -> None:
    document = build_openapi()
    targets = set(references(document))
    assert targets
    for target in targets:
        place: Any = document
        for part in target.removeprefix("#/").split("/"):
            place = place[part]


def test_each_operation_has_what_the_standard_requires() -> None:
    document = build_openapi()
    assert document["openapi"] == "3.1.0"
    assert {"title", "version"} <= document["info"].keys()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            placeholders = set(re.findall(r"{(\w+)}", path))
            declared = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert declared == placeholders
            assert all(
                answer.get("description") or "$ref" in answer for answer in operation["responses"].values()
            )
            assert {"400", "503"} <= operation["responses"].keys()


def test_manifests_appear_as_people_write_them() -> None:
    schemas = build_openapi()["components"]["schemas"]
    assert "virtualComputer" in schemas["EndophyteSpec"]["properties"]


def test_the_document_is_plain_json_and_deterministic() -> None:
    assert json.dumps(build_openapi()) == json.dumps(build_openapi())
