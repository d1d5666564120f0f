"""Where an agent answers: `https://host:port` on a network, `unix:///path/api.sock` on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from vdc.model.errors import InvalidError

_PLACEHOLDER_HOST = "http://localhost"  # the URL of a request over a unix socket needs some authority


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of one agent. `unix_path` is empty for TCP; `base_url` has no slash at its end."""

    text: str
    base_url: str
    unix_path: str = ""

    def __str__(self) -> str:
        return self.text


def parse_endpoint(text: str) -> Endpoint:
    """Read one of the two forms; raises `InvalidError` (`endpoint-invalid`) for everything else."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _invalid(text) from error
    if parts.query or parts.fragment:
        raise _invalid(text)
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return Endpoint(text, _PLACEHOLDER_HOST, parts.path)
    is_plain = parts.path in ("", "/") and parts.username is None and parts.hostname
    if parts.scheme == "https" and is_plain and port:
        return Endpoint(text, f"https://{parts.netloc}")
    raise _invalid(text)


def _invalid(text: str) -> InvalidError:
    return InvalidError(
        f"{text[:120]!r} is not an endpoint",
        hint="write https://HOST:PORT or unix:///PATH/api.sock",
        code="endpoint-invalid",
    )
