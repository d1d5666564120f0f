"""Images reach every host, late ones and those whose agent is killed meanwhile; guests in lockstep do not notice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pacing import UNDISTURBED_GAP_MS
from testlab import VM, Lab, kill_agent, wait_for

from vdc.images.blobs import BlobStore
from vdc.lab.images import STORE
from vdc.model.image import ImageEntry

MIB = 1024**2
NAME = "test/store:1"
LIMIT_BYTES_PER_S = 50_000_000  # `image_mbit` as it is by default
SECTOR = b"\xeb".ljust(510, b"\0") + b"\x55\xaa"


@pytest.fixture
def disk(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """A raw disk that cannot be compressed; its image is gone afterwards."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.write(SECTOR)
        file.write(os.urandom(192 * MIB - len(SECTOR)))
    yield path
    lab.cli("image", "rm", NAME)
    wait_for(lambda: not any(_files(lab, host) for host in lab.hosts), 30, "its content has gone everywhere")


def _entry(lab: Lab) -> ImageEntry | None:
    entries = lab.ask(lambda api: api.list_images()).items
    return next((entry for entry in entries if NAME in entry.names), None)


def _holders(lab: Lab) -> tuple[str, ...]:
    entry = _entry(lab)
    return entry.hosts if entry is not None else ()


def _store(lab: Lab, host: str) -> BlobStore:
    return BlobStore(lab.plan.host(host).state_dir / STORE)


def _files(lab: Lab, host: str) -> list[str]:
    """What a host has of images that it did not have when the lab was made: large files."""
    folder = _store(lab, host).folder
    return [path.name for path in folder.iterdir() if path.is_file() and path.stat().st_size > 150 * MIB]


def _import(lab: Lab, disk: Path) -> None:
    lab.ok("image", "import", str(disk), "--name", NAME, "--format", "raw")


def test_a_host_that_comes_back_later_gets_it_too(lab: Lab, disk: Path) -> None:
    lab.fault("power-off", "h3")
    _import(lab, disk)
    wait_for(lambda: len(_holders(lab)) == 2, 60, "the hosts with power have it")
    assert not _files(lab, "h3")
    lab.heal("h3")
    wait_for(lambda: len(_holders(lab)) == 3, 60, "the third one has it")
    entry = _entry(lab)
    assert entry is not None and entry.image.disk is not None
    contents = {_store(lab, host).path(entry.image.disk.digest).read_bytes() for host in lab.hosts}
    assert contents == {disk.read_bytes()}
    assert "images" in lab.ok("doctor")


def test_an_agent_killed_meanwhile_goes_on_and_lockstep_is_not_disturbed(
    lab: Lab, protected_vm: Callable[..., VM], disk: Path
) -> None:
    vm = protected_vm("web")
    epoch, spare = vm.epoch, vm.spare
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        _import(lab, disk)
        began = time.monotonic()
        entry = _entry(lab)
        assert entry is not None and entry.image.disk is not None
        digest = entry.image.disk.digest
        half = _store(lab, spare).fetch_path(digest)
        is_there = _store(lab, spare).has(digest)
        if not is_there:
            wait_for(half.exists, 20, "the spare has begun to fetch it")
            kill_agent(lab, spare)
            assert not _store(lab, spare).has(digest)
            lab.heal(spare)
        wait_for(lambda: len(_holders(lab)) == 3, 90, "every host has it")
        took_s = time.monotonic() - began
        workload.wait_progress(more=30, deadline_s=20)
        assert took_s > 0.8 * entry.image.disk.size_bytes / LIMIT_BYTES_PER_S, (
            "that was faster than is allowed"
        )
        assert vm.view().status.epoch == epoch
        vm.wait_lockstep()
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < UNDISTURBED_GAP_MS
    workload.check_store()


def test_what_a_vm_is_made_of_stays_until_the_vm_has_gone(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    protected_vm("web")
    done = lab.cli("image", "rm", "mycelium/mini")
    assert done.code == 1 and "is used by web" in done.error_line and "image-in-use" in done.error_line
    lab.ok("image", "prune")
    assert "mycelium/mini" in lab.ok("image", "ls")


def test_all_vms_of_an_image_on_a_host_share_one_file_that_none_can_write(
    lab: Lab, protected_vm: Callable[..., VM]
) -> None:
    vms = [protected_vm(name) for name in ("web", "mail")]
    entries = lab.ask(lambda api: api.list_images()).items
    disk = next(one.image.disk for one in entries if "mycelium/mini:latest" in one.names)
    assert disk is not None
    shared = 0
    for host in lab.hosts:
        base = _store(lab, host).path(disk.digest).stat()
        assert base.st_uid == 0 and not base.st_mode & 0o022
        here = [vm for vm in vms if vm.runs_on(host)]
        for vm in here:
            opened = _opened(vm.qemu(host).pid, base)
            assert opened and all(flags & os.O_ACCMODE == os.O_RDONLY for flags in opened), vm.name
        shared += len(here) > 1
    assert shared, "two pairs on three hosts meet on one of them"


def _opened(pid: int, wanted: os.stat_result) -> list[int]:
    """With which flags a process has a file open."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        if os.path.samestat(descriptor.stat(), wanted):
            text = Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text()
            found.append(
                int(next(line.split()[1] for line in text.splitlines() if line.startswith("flags:")), 8)
            )
    return found
