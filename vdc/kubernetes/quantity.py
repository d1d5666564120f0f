"""Kubernetes' quantities (`250m`, `1.5Gi`, `1e3`), exact. Pure."""

from __future__ import annotations

import re
from fractions import Fraction
from math import ceil
from typing import Annotated, Any

from pydantic import AfterValidator

_FACTORS = {
    "": Fraction(1), "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000),
    **{unit: Fraction(1000**power) for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Fraction(1024**power) for power, unit in enumerate("KMGTPE", 1)},
}  # fmt: skip
_QUANTITY = re.compile(
    r"(?P<number>[0-9]{1,24}(?:\.[0-9]{0,24})?|\.[0-9]{1,24})"
    r"(?:(?P<unit>[KMGTPE]i|[numkMGTPE])|[eE](?P<exponent>[+-]?[0-9]{1,2}))?"
)


def parse_quantity(value: Any) -> Fraction:
    """Raises `ValueError` where it is no quantity, or a negative one."""
    text = str(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
    match = _QUANTITY.fullmatch(text.removeprefix("+"))
    if match is None:
        raise ValueError(f"{str(value)[:40]!r} is not a quantity: write for example 500m, 2 or 512Mi")
    number = Fraction(match["number"].rstrip(".") if match["number"] != "." else "0")
    return number * _FACTORS[match["unit"] or ""] * Fraction(10) ** int(match["exponent"] or 0)


def whole(quantity: Fraction, step: int = 1) -> int:
    """Rounded up to a multiple of `step`."""
    return ceil(quantity / step) * step


def _check(value: Any) -> Any:
    parse_quantity(value)
    return value


Quantity = Annotated[Any, AfterValidator(_check)]  # as it is written
