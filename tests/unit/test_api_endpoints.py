"""Endpoints have two forms; others are refused."""

from __future__ import annotations

import pytest

from vdc.api.endpoints import parse_context_endpoint, parse_endpoint
from vdc.model.errors import InvalidError


@pytest.mark.parametrize(
    ("text", "base", "unix"),
    [
        ("https://127.0.0.1:7777", "https://127.0.0.1:7777", ""),
        ("http://[fd00::1]:7777/", "http://[fd00::1]:7777", ""),
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
        "http://",
        "http://h1",
        "http://h1:99999",
        "http://u@h:1",
        "http://h:1/x",
        "http://h:1?q=1",
        "unix://a",
        "ftp://h:1",
        "https://h",
        "http://[::1",
    ],
)
def test_other_endpoints_are_refused(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_endpoint(text)
    assert caught.value.code == "endpoint-invalid"


def test_nothing_in_clear_for_people() -> None:
    assert parse_context_endpoint("https://h:1").base_url == "https://h:1"
    assert parse_context_endpoint("unix:///run/a").unix_path == "/run/a"
    with pytest.raises(InvalidError) as caught:
        parse_context_endpoint("http://h:1")
    assert caught.value.code == "endpoint-invalid"
