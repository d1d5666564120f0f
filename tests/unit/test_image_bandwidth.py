"""The token bucket of images: no limit is no wait, and a limit holds over all that move bytes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hostagent.agent.images import image_bytes_per_s
from hostagent.drivers.images import Bandwidth
from vdc.model.units import MIB


class Time:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


async def moved_in(rate: int, sizes: list[int]) -> float:
    time = Time()
    bandwidth = Bandwidth(lambda: rate, clock=time, sleep=time.sleep)
    for size in sizes:
        await bandwidth.take(size)
    return time.now_s - 100.0


async def test_a_rate_is_kept_and_no_rate_is_no_wait() -> None:
    assert await moved_in(MIB, [MIB // 4] * 41) == pytest.approx(10.0)
    assert await moved_in(0, [MIB] * 1000) == 0.0


async def test_what_was_not_used_is_not_saved_up() -> None:
    time = Time()
    bandwidth = Bandwidth(lambda: MIB, clock=time, sleep=time.sleep)
    await bandwidth.take(MIB)
    time.now_s += 3600
    for _ in range(3):
        await bandwidth.take(MIB)
    assert time.now_s == pytest.approx(100.0 + 3600 + 2)


async def test_a_limit_ends_when_it_is_taken_away() -> None:
    time, rates = Time(), [MIB]
    bandwidth = Bandwidth(lambda: rates[0], clock=time, sleep=time.sleep)
    await bandwidth.take(10 * MIB)
    rates[0] = 0
    time.now_s += 1.0
    await bandwidth.take(MIB)
    assert time.now_s == pytest.approx(101.0)


def test_pieces_are_small_where_little_may_be_moved() -> None:
    sizes = [Bandwidth(lambda rate=rate: rate).piece_bytes() for rate in (0, 10**9, 2_000_000, 1)]  # type: ignore[misc]
    assert sizes == [512 * 1024, 512 * 1024, 100_000, 16 * 1024]


def host(*pairs: tuple[str, str | None], mbit: int = 400) -> Any:
    found = {
        str(index): SimpleNamespace(value=SimpleNamespace(primary=primary, secondary=secondary))
        for index, (primary, secondary) in enumerate(pairs)
    }
    config = SimpleNamespace(image_mbit=mbit)
    return SimpleNamespace(name="h1", config=config, mirror=SimpleNamespace(pairs=found))


@pytest.mark.parametrize(
    ("pairs", "is_limited"),
    [((), False), ((("h1", None),), False), ((("h2", "h3"),), False), ((("h1", "h2"),), True),
     ((("h3", None), ("h2", "h1")), True)],
)  # fmt: skip
def test_images_are_slow_while_a_guest_here_has_a_second_copy(pairs: Any, is_limited: bool) -> None:
    assert image_bytes_per_s(host(*pairs)) == (50_000_000 if is_limited else 0)
    assert image_bytes_per_s(host(*pairs, mbit=0)) == 0
