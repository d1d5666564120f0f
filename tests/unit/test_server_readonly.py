"""Without a majority of the store nothing can be changed, and the reason is given; looking is always allowed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hostagent.server.readonly import check_writable, guarded
from vdc.api.routes import BY_NAME, ROUTES
from vdc.model.errors import UnavailableError


class Store:
    def __init__(self, answers):
        self.answers, self.asked = answers, 0

    async def get(self, key, *, deadline_s):
        self.asked += 1
        if not self.answers:
            raise UnavailableError("no leader")


def host(silent_ms, *, answers):
    return SimpleNamespace(name="h1", store=Store(answers), store_silent_ms=lambda: silent_ms)


async def test_a_store_that_was_heard_is_not_asked():
    present = host(1_000.0, answers=False)
    await check_writable(present)
    assert not present.store.asked


async def test_silence_alone_refuses_nothing():
    present = host(9_000.0, answers=True)
    await check_writable(present)
    assert present.store.asked == 1


async def test_without_a_majority_the_reason_is_given():
    with pytest.raises(
        UnavailableError, match=r"read-only: h1 has found no majority of etcd for 9 s"
    ) as found:
        await check_writable(host(9_000.0, answers=False))
    assert found.value.code == "read-only"
    assert found.value.problem.hint


async def test_what_changes_something_asks_first_and_what_looks_does_not():
    async def handler(request):
        return "done"

    without = host(9_000.0, answers=False)
    for route in ROUTES:
        if guarded(handler, route, without) is handler:
            assert route.is_peer or route.may_force or route.method in ("GET", "HEAD"), route.name
    may_force = {route.name for route in ROUTES if route.may_force}
    assert may_force == {"promote_endophyte", "join", "create_token"}  # a cluster begins without a majority
    refused = guarded(handler, BY_NAME["create_endophyte"], without)
    with pytest.raises(UnavailableError):
        await refused(None)
    assert await guarded(handler, BY_NAME["create_endophyte"], host(0.0, answers=False))(None) == "done"
