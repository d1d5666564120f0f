"""How far the tests with generated input search: quickly, or, with `VDC_FUZZ=deep`, as `make test` does."""

from __future__ import annotations

import os

IS_DEEP = os.environ.get("VDC_FUZZ") == "deep"


def examples(quick: int, deep: int) -> int:
    """How many inputs to try."""
    return deep if IS_DEEP else quick
