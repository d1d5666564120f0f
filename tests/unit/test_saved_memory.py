"""A saved memory: what it fits, whom it is refused to, and that it is used once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from protection_world import endophyte
from test_qemu_disk_copy import PaperTool

from hostagent.drivers.disk.copy import DiskSet, DiskSource
from hostagent.drivers.qemu.argv import primary_argv
from hostagent.supervisor import remembering
from hostagent.supervisor.adoption import _stage_now
from hostagent.supervisor.journal import Journal
from hostagent.supervisor.machine import machine_spec, saved_machine
from vdc.images.reference import canonical_json, digest_of
from vdc.model.endophyte import CopyRole, CopyStage, MachineFacts
from vdc.model.errors import ConflictError, RefusedError
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.memory import difference
from vdc.model.step import Step

P = CopyRole.PRIMARY
VM = endophyte()
OWN = Image(kind=ImageKind.DISK, disk=Blob(digest="sha256:" + "d" * 64, size_bytes=5))
FACTS = MachineFacts(accelerator="tcg", cpu_model="qemu64", qemu_version="11.1.3", disk_sizes_bytes=(64, 8))
SPEC = machine_spec(VM, OWN, FACTS, ())
MEMORY = Image(
    kind=ImageKind.MEMORY,
    memory=Blob(digest="sha256:" + "e" * 64, size_bytes=9),
    machine=saved_machine(SPEC, FACTS),
)
DIGEST = digest_of(MEMORY)


def test_it_fits_the_same_machine_whatever_its_uid() -> None:
    again = machine_spec(VM.with_(uid="6f1f2a8e-5a5c-4a39-9d5e-0c6f1e0f7a99"), OWN, FACTS, ())
    assert remembering.fitting(DIGEST, {DIGEST: MEMORY}, again, FACTS) is MEMORY


@pytest.mark.parametrize(
    ("spec", "facts", "words"),
    [
        (SPEC, FACTS.with_(qemu_version="11.2.0"), "QEMU 11.2.0 in place of 11.1.3"),
        (replace(SPEC, cpu_model="EPYC"), FACTS, "CPU EPYC in place of qemu64"),
        (replace(SPEC, memory_bytes=2 * SPEC.memory_bytes), FACTS, "size of memory"),
        (replace(SPEC, nics=()), FACTS, "MAC addresses none in place of"),
        (SPEC, FACTS.with_(disk_sizes_bytes=(64,)), "sizes of disks 64 in place of 64, 8"),
    ],
)
def test_another_machine_is_refused_by_what_differs(spec: Any, facts: MachineFacts, words: str) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        remembering.fitting(DIGEST, {DIGEST: MEMORY}, spec, facts)
    assert caught.value.code == "memory-unfit"
    assert "--no-memory" in caught.value.problem.hint


def test_one_of_another_layout_is_refused() -> None:
    assert MEMORY.machine is not None
    assert "arrangement" in difference(MEMORY.machine.with_(layout=0), MEMORY.machine)


def test_one_that_is_gone_is_refused() -> None:
    with pytest.raises(RefusedError):
        remembering.fitting(DIGEST, {}, SPEC, FACTS)


def test_an_image_without_one_is_described_as_ever() -> None:
    assert canonical_json(OWN) == f'{{"disk":{{"digest":"sha256:{"d" * 64}","size_bytes":5}},"kind":"disk"}}'
    assert MEMORY.size_bytes == 9


def test_only_a_vm_that_goes_on_waits_for_its_memory() -> None:
    boots, waits = (
        primary_argv(replace(SPEC, nics=(), awaits_memory=awaits), []) for awaits in (False, True)
    )
    assert [*boots, "-incoming", "defer", "-S"] == waits


@pytest.mark.parametrize("stage", [CopyStage.RUNNING, CopyStage.LOCKSTEP])
def test_memory_that_changes_is_not_kept(stage: CopyStage) -> None:
    copy: Any = SimpleNamespace(name="web", state=SimpleNamespace(stage=stage))
    with pytest.raises(ConflictError) as caught:
        remembering.require_still(copy, VM)
    assert caught.value.code == "not-paused" and "vdc pause web" in caught.value.problem.hint


def test_a_tpm_is_not_kept() -> None:
    copy: Any = SimpleNamespace(name="web", state=SimpleNamespace(stage=CopyStage.PAUSED))
    remembering.require_still(copy, VM)
    with pytest.raises(RefusedError, match="TPM"):
        remembering.require_still(copy, endophyte(tpm=True, firmware="uefi"))


# ---- used once


class Loading:
    """One host's copy with disks on paper and a QEMU that loads what it is given, or dies at a step."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name, self.booting_since_s, self.die_at, self.did = "web", 1.0, None, []  # type: ignore[var-annotated]
        self.disks = DiskSet(PaperTool(folder), folder)  # type: ignore[arg-type]

        async def load(_session: object, path: str) -> None:
            self.did.append(path)

        async def resume(_session: object) -> None:
            self.did.append("cont")

        monkeypatch.setattr(remembering.saving, "load", load)
        monkeypatch.setattr(remembering.primary, "resume", resume)

    def session(self) -> None:
        return None

    async def reach(self, step: Step) -> None:
        if step is self.die_at:
            raise SystemExit


@pytest.fixture
def loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loading:
    return Loading(tmp_path, monkeypatch)


async def named_memory(loading: Loading) -> str:
    record = await loading.disks.bootable("uid")
    return record.memory


async def test_disks_that_were_made_with_it_name_it_until_the_guest_goes_on(loading: Loading) -> None:
    await loading.disks.create_primary("uid", 1, [DiskSource(None, "b/abc")], DIGEST)
    for step, left in ((Step.LOAD_LOADED, DIGEST), (Step.LOAD_USED, "")):
        loading.die_at = step
        with pytest.raises(SystemExit):
            await remembering.go_on(loading, MEMORY)  # type: ignore[arg-type]
        assert await named_memory(loading) == left
        assert "cont" not in loading.did, "no guest ran before that was on disk"
    loading.die_at = None
    await remembering.go_on(loading, MEMORY)  # type: ignore[arg-type]
    assert loading.did[-1] == "cont" and loading.did[0].startswith("/images/blobs/sha256/eee")
    assert loading.booting_since_s is None


async def test_no_later_record_names_it_again(loading: Loading) -> None:
    await loading.disks.create_primary("uid", 1, [DiskSource(None, "b/abc")], DIGEST)
    await loading.disks.use_memory()
    await loading.disks.renew(2)
    assert await named_memory(loading) == ""
    await loading.disks.create_secondary("uid", 3, [8])
    await loading.disks.in_sync(1)
    assert await named_memory(loading) == ""


@pytest.mark.parametrize(
    ("steps", "now"),
    [
        ([Step.START_BEGUN, Step.LOAD_LOADED], CopyStage.DEAD),  # it is loaded again
        ([Step.START_BEGUN, Step.LOAD_LOADED, Step.LOAD_USED], CopyStage.PAUSED),  # nobody else has it
        ([Step.LOAD_USED, Step.START_BEGUN, Step.POWER_ON_DONE], CopyStage.DEAD),
    ],
)
def test_an_agent_that_comes_back_in_the_middle(tmp_path: Path, steps: list[Step], now: CopyStage) -> None:
    journal = Journal(tmp_path)
    for step in steps:
        journal.note(step, epoch=1, at="2026-01-01T00:00:00Z")
    state = SimpleNamespace(role=P, stage=CopyStage.PREPARING, machine=FACTS)
    copy: Any = SimpleNamespace(state=state, journal=journal)
    live: Any = SimpleNamespace(status="paused", is_colo=False)
    assert _stage_now(copy, live) is now
