"""Dying, or waiting, at a named step: for tests alone.

Off unless the agent was started with VDC_FAILPOINTS=1 in its environment. Then a file
`STATE_DIR/failpoints/STEP` arms the step: with the content `kill` the agent ends itself by SIGKILL there,
with `wait` it stands still there until `STEP.waiting` is removed. The file itself goes first, so that the
next agent passes.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from vdc.model.step import Step

VARIABLE = "VDC_FAILPOINTS"
KILL, WAIT = "kill", "wait"
_POLL_S = 0.01


class Failpoints:
    """One per agent; without a folder nothing is ever looked for."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    @classmethod
    def of(cls, state_dir: Path, environment: Mapping[str, str]) -> Failpoints:
        """As the environment says."""
        return cls(state_dir / "failpoints" if environment.get(VARIABLE) == "1" else None)

    @property
    def are_on(self) -> bool:
        """Whether this agent can be armed at all."""
        return self._folder is not None

    async def reach(self, step: Step) -> None:
        """Do what the step is armed for; nothing where it is not."""
        if self._folder is None:
            return
        path = self._folder / step.value
        try:
            action = path.read_text().strip()
        except OSError:
            return
        if action == KILL:
            path.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == WAIT:
            waiting = path.with_name(f"{path.name}.waiting")
            path.replace(waiting)
            while waiting.exists():  # noqa: ASYNC110 - only a test waits, and it has no other way to tell
                await asyncio.sleep(_POLL_S)
