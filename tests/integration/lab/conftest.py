"""A lab of real namespaces whose agents are stand-ins; nothing of it outlives its test."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from vdc.lab import api
from vdc.lab.audit import audit, compare, snapshot
from vdc.lab.settings import Settings

STUB = Path(__file__).parent / "stub_agent.py"


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Short folders of its own, a runtime that is an empty folder, the stand-in as the agent."""
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")
    root = Path(tempfile.mkdtemp(prefix="l", dir="/tmp"))
    monkeypatch.setenv("VDC_CONFIG", str(root / "config.yaml"))
    (root / "runtime" / "v1").mkdir(parents=True)
    (root / "runtime" / "current").symlink_to("v1")
    command = (sys.executable, str(STUB), "run", "--config")
    yield Settings(root, root, command, agent_deadline_s=10, cluster_deadline_s=10, lock_deadline_s=20)
    shutil.rmtree(root)


@pytest.fixture
def name() -> str:
    """A lab name that nothing else on this machine uses."""
    return "t" + uuid.uuid4().hex[:6]


@pytest.fixture
async def clean(name: str, settings: Settings) -> AsyncIterator[None]:
    """Whatever the test does: afterwards `down` leaves the machine as it was before."""

    def is_of_others(line: str) -> bool:
        return name not in line and str(settings.state_root) not in line and not line.startswith("interface")

    before = snapshot(settings.state_root)
    yield
    await api.down(name, settings=settings)
    assert audit(name, settings=settings) == ()
    assert compare(before, snapshot(settings.state_root), is_of_others) == ()
    assert not (settings.state_root / "lab").exists()


@pytest.fixture
async def lab(name: str, settings: Settings, clean: None) -> str:
    """A lab of three hosts that is up."""
    async with asyncio.timeout(30):
        await api.up(name, 3, settings=settings)
    return name
