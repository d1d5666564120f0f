"""Sizes (`2GiB`, `512M`, `10Gi`) and durations (`90s`, `24h`) as people write them, to numbers and back."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4

_FACTORS = {
    "": 1, "b": 1,
    "k": KIB, "ki": KIB, "kib": KIB, "kb": 1000,
    "m": MIB, "mi": MIB, "mib": MIB, "mb": 1000**2,
    "g": GIB, "gi": GIB, "gib": GIB, "gb": 1000**3,
    "t": TIB, "ti": TIB, "tib": TIB, "tb": 1000**4,
}  # fmt: skip
_SIZE = re.compile(r"\s*([0-9]{1,15})(?:\.([0-9]{1,3}))?\s*([A-Za-z]*)\s*")


def parse_size(value: Any) -> int:
    """Bytes from an int or a text such as `2GiB`; raises `ValueError` for anything else, or a negative size."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is not a size: write for example 2GiB")
    if isinstance(value, int):
        if value < 0:
            raise ValueError(f"{value} is not a size: it is negative")
        return value
    match = _SIZE.fullmatch(value)
    factor = _FACTORS.get(match[3].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{value[:40]!r} is not a size: write for example 2GiB or 512MiB")
    thousandths = int(f"{match[1]}{(match[2] or '').ljust(3, '0')}")
    return thousandths * factor // 1000


def format_size(size_bytes: int) -> str:
    """The shortest binary form that loses nothing worth reading: `2GiB`, `1.5GiB`, `64MiB`."""
    for unit, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.2f}".rstrip("0").rstrip(".") + unit
    return f"{size_bytes}B"


SizeBytes = Annotated[int, BeforeValidator(parse_size)]


_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"\s*([1-9][0-9]{0,6})\s*([smhd])\s*")


def parse_duration(value: Any) -> int:
    """Seconds from an int or a text such as `24h`; raises `ValueError` for anything else, or none at all."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{str(value)[:40]!r} is not a duration: write for example 30m, 24h or 7d")
    return int(match[1]) * _SECONDS[match[2]]


DurationS = Annotated[int, BeforeValidator(parse_duration)]
