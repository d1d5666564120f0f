"""Kubernetes' quantities, exactly."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdc.kubernetes.quantity import parse_quantity, whole


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), (2, 2), (0.5, Fraction(1, 2)), ("250m", Fraction(1, 4)), ("1.5", Fraction(3, 2)),
        (".5", Fraction(1, 2)),
        ("5.", 5), ("+3", 3), ("128974848", 128974848), ("129e6", 129_000_000), ("129M", 129_000_000),
        ("128974848000m", 128974848), ("123Mi", 123 * 2**20), ("1E", 10**18), ("1e3", 1000), ("1E3", 1000),
        ("1e-3", Fraction(1, 1000)), ("1.5Gi", 3 * 2**29), ("100n", Fraction(1, 10**7)), ("7u", Fraction(7, 10**6)),
        ("2k", 2000), ("2Ki", 2048), ("1Ei", 2**60), (1e3, 1000), ("0", 0),
    ],
)  # fmt: skip
def test_what_they_stand_for(text: Any, value: Fraction | int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 Gi", "1GiB", "1GB", "-1", "1.2.3", ".", "1e", "0x1", "1,5", "1K", True, None, [], {}, "1" * 30,
     "1e999", "١", float("inf")],
)  # fmt: skip
def test_what_is_none(text: Any) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        parse_quantity(text)


@given(st.fractions(min_value=0, max_value=10**12), st.sampled_from([1, 512, 2**20]))
def test_rounding_up_is_the_least_that_is_enough(quantity: Fraction, step: int) -> None:
    size = whole(quantity, step)
    assert size % step == 0 and quantity <= size < quantity + step
