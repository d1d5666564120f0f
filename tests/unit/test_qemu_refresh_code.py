"""Translated code is dropped also where an agent died while it did that and left its job in QEMU."""

from __future__ import annotations

import pytest

from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.qmp import QmpCommandError
from hostagent.drivers.qemu.secondary import refresh_code


class Emulator:
    """QEMU as far as jobs go: an id is used once until it is dismissed, and a load of no snapshot fails at once."""

    def __init__(self, jobs=()):
        self.jobs = dict(jobs)
        self.loads = 0
        self.status = "running"

    async def execute(self, command, arguments=None):
        match command:
            case Command.QUERY_STATUS:
                return {"status": self.status}
            case Command.QUERY_JOBS:
                return [{"id": job, "status": status} for job, status in self.jobs.items()]
            case Command.SNAPSHOT_LOAD:
                if arguments["job-id"] in self.jobs:
                    raise QmpCommandError("snapshot-load", "GenericError", "Job ID already in use")
                self.jobs[arguments["job-id"]] = "concluded"
                self.loads += 1
                self.status = "restore-vm"
            case Command.CONT:
                self.status = "running"
            case Command.JOB_DISMISS:
                assert self.jobs.pop(arguments["id"]) == "concluded"
        return {}


@pytest.mark.parametrize("left", [(), [("refresh-code", "concluded")]], ids=["first", "after a dead agent"])
async def test_it_leaves_nothing_and_can_be_repeated(left):
    emulator = Emulator(left)
    for _ in range(2):
        await refresh_code(emulator)
    assert (emulator.loads, emulator.jobs, emulator.status) == (2, {}, "running")
