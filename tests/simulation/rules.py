"""Which rules of the steps are broken on purpose, for the tests that prove that the simulation notices.

Rules of the pure core are broken where they stand, by replacing the function; those of the step lists are asked
for here by name. `forget` empties what was remembered of the pure functions' answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_broken: set[str] = set()
_caches: list[Callable[[], None]] = []


def kept(rule: str) -> bool:
    """Whether a rule is in force."""
    return rule not in _broken


def remembers(clear: Callable[[], None]) -> None:
    """Register a cache that depends on the rules."""
    _caches.append(clear)


def forget() -> None:
    """Empty all caches."""
    for clear in _caches:
        clear()


@contextmanager
def without(*rules: str) -> Iterator[None]:
    """Break rules for a while."""
    _broken.update(rules)
    forget()
    try:
        yield
    finally:
        _broken.difference_update(rules)
        forget()
