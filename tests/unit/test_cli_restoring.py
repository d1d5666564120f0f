"""A restore that is given up leaves no names of images."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from vdc.cli import restoring
from vdc.model.errors import ConflictError, UnavailableError

PLANS = [SimpleNamespace(name="backups/web:1"), SimpleNamespace(name="backups/web/disk1:1")]


class Api:
    """`end`: what becomes of the VM's making."""

    def __init__(self, end):
        self.end, self.names = end, []

    async def create_endophyte(self, manifest):
        raise self.end

    async def remove_image(self, name):
        await asyncio.sleep(0)
        self.names.remove(name)


@pytest.mark.parametrize(
    ("end", "left"),
    [
        (asyncio.CancelledError(), 0),  # Ctrl-C
        (ConflictError("no", code="name-taken"), 0),
        (UnavailableError("?", code="outcome-unknown"), 2),
    ],
)
async def test_names_go_unless_the_vm_may_be_there(monkeypatch, end, left):
    api = Api(end)

    async def upload(_api, plan, _line, *, source):
        api.names.append(plan.name)

    monkeypatch.setattr(restoring, "upload", upload)
    with pytest.raises(type(end)):
        await restoring._make(api, None, PLANS, None, source="backup web@1")
    assert len(api.names) == left
