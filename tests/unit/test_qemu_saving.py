"""A guest's memory into a file and back: QEMU has its disks afterwards and the guest stands still, come what may."""

from __future__ import annotations

import asyncio

import pytest

from hostagent.drivers.qemu import saving
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.qmp import QmpCommandError
from vdc.model.errors import ConflictError, RefusedError


class Emulator:
    """QEMU as far as migrations to and from files go; `answers` are those of the next one, in order."""

    def __init__(self, *answers, status="paused"):
        self.answers = list(answers)
        self.status, self.migration = status, {"status": "none"}
        self.has_disks, self.said = True, []

    async def execute(self, command, arguments=None, *, deadline_s=2.0):
        self.said.append((str(command), arguments))
        match command:
            case Command.QUERY_STATUS:
                return {"status": self.status}
            case Command.QUERY_MIGRATE:
                if self.answers:
                    self._moves_on(self.answers.pop(0))
                return self.migration
            case Command.MIGRATE | Command.MIGRATE_INCOMING:
                self.migration = {"status": "setup"}
            case Command.MIGRATE_CANCEL:
                if self.migration["status"] == "active":
                    self.answers = [{"status": "cancelling"}, {"status": "cancelled"}]
            case Command.BLOCKDEV_SET_ACTIVE:
                self.has_disks = arguments["active"]
        return {}

    def _moves_on(self, answer):
        self.migration = answer
        if answer["status"] == "completed":
            is_saved = self.status == "paused"
            self.status, self.has_disks = ("postmigrate", False) if is_saved else ("paused", True)

    def argument_of(self, command):
        return next(given for said, given in self.said if said == command)


def ram(done, total=10):
    return {"status": "active", "ram": {"total": total, "remaining": total - done}}


async def test_it_saves_with_progress_and_takes_the_disks_back(monkeypatch):
    monkeypatch.setattr(saving, "_POLL_S", 0)
    qemu, seen = Emulator(ram(0), ram(4), ram(10), {"status": "completed"}), []
    await saving.save(qemu, bytes_per_s=7, progress=lambda *figures: seen.append(figures))
    assert seen == [(0, 10), (4, 10), (10, 10)]
    assert qemu.argument_of("migrate") == {"uri": "file:/vm/snapmem"}
    assert qemu.argument_of("migrate-set-parameters")["max-bandwidth"] == 7
    assert (qemu.status, qemu.has_disks) == ("postmigrate", True)
    with pytest.raises(ConflictError) as again:
        await saving.save(qemu)
    assert again.value.code == "memory-saved"


async def test_a_full_disk_is_said_and_leaves_the_guest_as_it_was():
    qemu = Emulator({"status": "failed", "error-desc": "No space left on device"})
    with pytest.raises(saving.SavingError, match="No space left"):
        await saving.save(qemu)
    assert (qemu.status, qemu.has_disks) == ("paused", True)


async def test_one_that_does_not_move_is_given_up(monkeypatch):
    monkeypatch.setattr(saving, "_POLL_S", 0)
    monkeypatch.setattr(saving, "_STALL_S", 0)
    with pytest.raises(saving.SavingError, match="nothing moved"):
        await saving.save(Emulator(*[ram(3)] * 9))


async def test_one_that_is_called_off_is_ended_before_anybody_lets_the_guest_run():
    qemu = Emulator(*[ram(3)] * 9)
    saved = asyncio.create_task(saving.save(qemu))
    while qemu.migration["status"] != "active":
        await asyncio.sleep(0)
    saved.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saved
    assert qemu.migration["status"] == "cancelled" and qemu.has_disks


@pytest.mark.parametrize("left", [ram(3), {"status": "completed"}], ids=["under way", "complete"])
async def test_what_a_dead_agent_left_is_ended(left):
    qemu = Emulator(left)
    await saving.end(qemu)
    await saving.end(qemu)
    assert qemu.has_disks
    assert qemu.migration["status"] in ("cancelled", "completed")


async def test_a_guest_that_never_saved_is_left_alone():
    qemu = Emulator()
    await saving.end(qemu)
    assert {said for said, _ in qemu.said} == {"query-migrate", "query-status"}


async def test_it_loads_and_the_guest_stands_still():
    qemu = Emulator(ram(3), {"status": "completed"}, status="inmigrate")
    await saving.load(qemu, "/images/blobs/x")
    assert qemu.argument_of("migrate-incoming") == {"uri": "file:/images/blobs/x", "exit-on-error": False}
    assert "cont" not in {said for said, _ in qemu.said}


async def test_a_damaged_memory_is_refused_with_what_qemu_says():
    qemu = Emulator({"status": "failed", "error-desc": "Unknown savevm section"}, status="inmigrate")
    with pytest.raises(RefusedError, match="Unknown savevm section") as caught:
        await saving.load(qemu, "/images/blobs/x")
    assert caught.value.code == "memory-unloadable"


async def test_a_stream_that_lets_the_guest_run_is_refused():
    class Running(Emulator):
        def _moves_on(self, answer):
            self.migration, self.status = answer, "running"

    with pytest.raises(RefusedError, match="running"):
        await saving.load(Running({"status": "completed"}, status="inmigrate"), "/images/blobs/x")


async def test_a_refusal_of_the_file_is_passed_on():
    class Refusing(Emulator):
        async def execute(self, command, arguments=None, *, deadline_s=2.0):
            if command is Command.MIGRATE_INCOMING:
                raise QmpCommandError("migrate-incoming", "GenericError", "Permission denied")
            return await super().execute(command, arguments, deadline_s=deadline_s)

    with pytest.raises(QmpCommandError, match="Permission denied"):
        await saving.load(Refusing(), "/images/blobs/x")
