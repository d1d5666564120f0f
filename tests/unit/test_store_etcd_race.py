"""Which member is asked when, and what is concluded from the answers. Members are played."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from vdc.store.etcd_client import Endpoints
from vdc.store.etcd_errors import CallError, Meaning
from vdc.store.etcd_race import Race

Member = Callable[[], Awaitable[str]]


def answers(text: str) -> Member:
    async def member() -> str:
        return text

    return member


def fails(meaning: Meaning, *then: str) -> Member:
    left = [None, *then]

    async def member() -> str:
        text = left.pop(0) if len(left) > 1 else left[0]
        if text is None:
            raise CallError("", meaning, "trouble")
        return text

    return member


async def hangs() -> str:
    await asyncio.Event().wait()
    return "never"


async def race(
    *members: Member, hedge_s: float = 0.01, deadline_s: float = 0.1
) -> tuple[str, list[str], Endpoints]:
    endpoints = Endpoints([f"m{number}" for number in range(len(members))])
    asked: list[str] = []

    async def attempt(endpoint: str, timeout_s: float) -> str:
        asked.append(endpoint)
        try:
            return await members[int(endpoint[1:])]()
        except CallError as error:
            endpoints.failed(endpoint)
            raise CallError(endpoint, error.meaning, error.text) from error

    answer = await Race(endpoints, attempt, hedge_s=hedge_s, deadline_s=deadline_s).winner()
    return answer, asked, endpoints


async def test_one_answer_asks_one_member() -> None:
    assert (await race(answers("a"), answers("b")))[:2] == ("a", ["m0"])


async def test_a_member_that_hangs_is_hedged_and_asked_last_next_time() -> None:
    answer, asked, endpoints = await race(hangs, answers("b"), hedge_s=0.11, deadline_s=5)
    assert (answer, asked) == ("b", ["m0", "m1"])
    assert endpoints.in_order() == ("m1", "m0")


async def test_a_failure_asks_the_next_at_once() -> None:
    answer, asked, _ = await race(fails(Meaning.UNKNOWN), answers("b"), hedge_s=10, deadline_s=10)
    assert (answer, asked) == ("b", ["m0", "m1"])


async def test_without_a_hedge_all_are_asked_at_once() -> None:
    assert (await race(hangs, hangs, answers("c"), hedge_s=0))[:2] == ("c", ["m0", "m1", "m2"])


async def test_a_member_that_failed_is_asked_again_while_another_hangs() -> None:
    assert (await race(fails(Meaning.NO_EFFECT, "a"), hangs, deadline_s=5))[0] == "a"


@pytest.mark.parametrize("meaning", [Meaning.INVALID, Meaning.LEASE_GONE, Meaning.COMPACTED, Meaning.DENIED])
async def test_what_every_member_would_refuse_is_final(meaning: Meaning) -> None:
    with pytest.raises(CallError) as caught:
        await race(fails(meaning), answers("b"), hedge_s=10, deadline_s=10)
    assert caught.value.meaning is meaning


@pytest.mark.parametrize(
    ("members", "meaning"),
    [
        ([fails(Meaning.NO_EFFECT), fails(Meaning.NO_EFFECT)], Meaning.NO_EFFECT),
        ([fails(Meaning.NO_EFFECT), fails(Meaning.UNKNOWN)], Meaning.UNKNOWN),
        ([fails(Meaning.NO_EFFECT), hangs], Meaning.UNKNOWN),
        ([hangs], Meaning.UNKNOWN),
    ],
)
async def test_no_effect_is_claimed_only_if_all_attempts_say_so(
    members: list[Member], meaning: Meaning
) -> None:
    with pytest.raises(CallError) as caught:
        await race(*members)
    assert caught.value.meaning is meaning


async def test_a_refusal_after_a_doubt_does_not_hide_the_doubt() -> None:
    with pytest.raises(CallError) as caught:
        await race(fails(Meaning.UNKNOWN), fails(Meaning.LEASE_GONE))
    assert caught.value.meaning is Meaning.UNKNOWN


async def test_the_deadline_does_not_hide_why_the_attempts_before_failed() -> None:
    asked = 0

    async def attempt(endpoint: str, timeout_s: float) -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise CallError(endpoint, Meaning.NO_EFFECT, "the certificate is not trusted")
        raise CallError(endpoint, Meaning.NO_EFFECT, "no connection in time") from TimeoutError()

    with pytest.raises(CallError, match="not trusted"):
        await Race(Endpoints(["m0"]), attempt, hedge_s=0.0, deadline_s=0.1).winner()
    assert asked > 1


async def test_nothing_is_left_running() -> None:
    before = asyncio.all_tasks()
    await race(hangs, hangs, answers("c"), hedge_s=0)
    assert asyncio.all_tasks() == before


async def test_nobody_is_asked_again_so_late_that_the_deadline_would_leave_a_doubt() -> None:
    loop = asyncio.get_running_loop()
    started_at: list[float] = []

    async def refuses() -> str:
        started_at.append(loop.time())
        raise CallError("", Meaning.NO_EFFECT, "refused")

    begun = loop.time()
    with pytest.raises(CallError) as caught:
        await race(refuses, refuses, deadline_s=0.3)
    assert caught.value.meaning is Meaning.NO_EFFECT
    assert len(started_at) > 4, "it goes on asking"
    assert max(started_at) < begun + 0.3
    assert loop.time() >= begun + 0.3, "somebody may have come back by the deadline"
