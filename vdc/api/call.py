"""One request of the API before an endpoint is chosen: its route, its path, its query and its body."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from vdc.api.routes import BY_NAME, Route
from vdc.model.errors import InvalidError

BodyFactory = Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class Call:
    """One request before an endpoint is chosen."""

    route: Route
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    json_body: str | None = None
    body: BodyFactory | None = None
    size_bytes: int | None = None  # of the whole, where `first_byte` says where the body begins
    first_byte: int | None = None
    first_byte_s: float | None = None

    @property
    def may_repeat(self) -> bool:
        """Whether sending it twice does the same as sending it once."""
        return self.route.method != "POST"

    @property
    def is_blob(self) -> bool:
        """Whether the body is a stream of bytes, which may take any time."""
        return self.body is not None


def make_call(
    route_name: str,
    path_values: Mapping[str, str] | None = None,
    query: Mapping[str, str | int | bool | None] | None = None,
    **more: Any,
) -> Call:
    """Fill a route's path and query; values are escaped, a query value of None is left out."""
    route = BY_NAME[route_name]
    path = route.path
    for key, value in (path_values or {}).items():
        if value in ("", ".", ".."):
            raise InvalidError(f"{value!r} is not a name", code="name-invalid")
        path = path.replace("{" + key + "}", quote(value, safe=":"))
    texts = {key: _query_text(value) for key, value in (query or {}).items() if value is not None}
    return Call(route, path, texts, **more)


def _query_text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
