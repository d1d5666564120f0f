"""IPv4 addresses and networks as people write them: as text, and nothing else."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any

from pydantic import BeforeValidator


def _as_text(value: Any) -> Any:
    """`ipaddress` takes numbers too, and `false` for 0.0.0.0: nobody who writes these means an address."""
    if not isinstance(value, str | IPv4Address | IPv4Network):
        raise ValueError(
            f"{str(value)[:40]} is not an IPv4 address: write it as text, for example 10.77.0.20"
        )
    return value


def check_address(text: str) -> str:
    """Accept an IPv4 address; `ValueError` otherwise."""
    IPv4Address(text)
    return text


Ipv4Address = Annotated[IPv4Address, BeforeValidator(_as_text)]
Ipv4Network = Annotated[IPv4Network, BeforeValidator(_as_text)]
