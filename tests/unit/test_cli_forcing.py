"""Forcing takes a while: what the agent does is said meanwhile, and that it goes on without whoever asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from vdc.api.models import ClusterStatus, PromoteResult
from vdc.cli import forcing
from vdc.cli.commands.cluster import status_text
from vdc.model.errors import UnavailableError

RESULT = PromoteResult(name="web", epoch=3, primary="h2", previous="h1", total_ms=1.0, sentence="done")
STATUS = ClusterStatus(version="1", host="h2", leader=None, store="silent", majority=False)
SILENCE, ALONE = "waiting until h1 has been silent for 10 s", "lineage 1 is begun"


class Api:
    """An agent that is asked how far it is; None: it does not answer."""

    def __init__(self, *doing: str | None) -> None:
        self.doing = list(doing)
        self.is_done = asyncio.Event()

    async def cluster(self) -> ClusterStatus:
        now = self.doing.pop(0)
        if not self.doing:
            self.is_done.set()
            await asyncio.Event().wait()
        if now is None:
            raise UnavailableError("busy")
        return STATUS.with_(forcing=now)

    async def promote(self) -> PromoteResult:
        await self.is_done.wait()
        return RESULT


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forcing, "PROGRESS_EVERY_S", 0.0)


async def test_each_step_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    api: Any = Api("", SILENCE, SILENCE, None, ALONE, "never reached")
    assert await forcing._told(api, api.promote()) is RESULT
    assert capsys.readouterr().err == f"  {SILENCE}\n  {ALONE}\n"


async def test_whoever_interrupts_is_told_that_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    api: Any = Api(SILENCE, "never reached")
    asking = asyncio.create_task(forcing._told(api, asyncio.Event().wait()))  # type: ignore[arg-type]
    await api.is_done.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert "goes on without you" in capsys.readouterr().err


def test_the_status_of_the_cluster_says_it_too() -> None:
    assert "Forcing:   lineage 1 is begun" in status_text(STATUS.with_(forcing=ALONE))
    assert not any("Forcing" in line for line in status_text(STATUS))
