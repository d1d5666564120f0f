"""Endpoints have two forms; others are refused."""

from __future__ import annotations

import pytest

from vdc.api.endpoints import parse_endpoint
from vdc.model.errors import InvalidError


@pytest.mark.parametrize(
    ("text", "base", "unix"),
    [
        ("https://127.0.0.1:7777", "https://127.0.0.1:7777", ""),
        ("https://[fd00::1]:7777/", "https://[fd00::1]:7777", ""),
        ("unix:///run/a/api.sock", "http://localhost", "/run/a/api.sock"),
    ],
)
def test_endpoints_have_two_forms(text: str, base: str, unix: str) -> None:
    endpoint = parse_endpoint(text)
    assert (endpoint.base_url, endpoint.unix_path) == (base, unix)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h1",
        "http://h:1",
        "https://",
        "https://h1",
        "https://h1:99999",
        "https://u@h:1",
        "https://h:1/x",
        "https://h:1?q=1",
        "unix://a",
        "ftp://h:1",
        "https://[::1",
    ],
)
def test_other_endpoints_are_refused(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_endpoint(text)
    assert caught.value.code == "endpoint-invalid"
