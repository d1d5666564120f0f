"""Memory is short on the secondary's host: it cannot start, or the kernel ends it; the guest is not hurt by either."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pacing import FAILOVER_GAP_MS
from testlab import Lab, wait_for

MIB = 1024**2
OF_KERNEL = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.events"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.oom_control"),
)


@contextmanager
def little_address_space(pid: int) -> Iterator[None]:
    """A process may not grow by more than 250 MiB, nor whatever it starts: no QEMU fits in there."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + 250 * MIB
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, before)


class MemoryGroup:
    """A control group with next to no memory."""

    def __init__(self, name: str) -> None:
        found = [known for known in OF_KERNEL if (known[0] / "cgroup.procs").exists()]
        found = [known for known in found if known[1] in _files_below(known[0])]
        if not found:
            pytest.skip("this machine's memory cannot be limited by control groups")
        root, self._limit, self._report = found[0]
        self.folder = root / name

    def __enter__(self) -> MemoryGroup:
        self.folder.mkdir()
        (self.folder / self._limit).write_text(str(8 * MIB))
        return self

    def __exit__(self, *_: object) -> None:
        for pid in (self.folder / "cgroup.procs").read_text().split():  # where the test failed
            (self.folder.parent / "cgroup.procs").write_text(pid)
        self.folder.rmdir()

    def take(self, pid: int) -> None:
        (self.folder / "cgroup.procs").write_text(str(pid))

    @property
    def kills(self) -> int:
        """How many processes the kernel has ended in it."""
        lines = (line.split() for line in (self.folder / self._report).read_text().splitlines())
        return next(int(words[1]) for words in lines if words[0] == "oom_kill")


def _files_below(root: Path) -> set[str]:
    return {path.name for folder in root.iterdir() if folder.is_dir() for path in folder.iterdir()}


def test_the_guest_goes_on_and_another_host_protects_it(lab: Lab) -> None:
    known = len(lab.events())
    with little_address_space(lab.agent("h2").pid):
        vm = lab.create("web")  # protected: the refusal of one host is not the end of it
    assert (vm.primary, vm.secondary) == ("h1", "h3")
    failed = [event for event in lab.events()[known:] if event["code"] == "secondary-failed"]
    assert [event["host"] for event in failed] == ["h2"]
    assert "h2 could not become the secondary" in failed[0]["sentence"]
    assert not vm.runs_on("h2")

    lab.wait_answering(vm.address)
    before, pid = vm.epoch, vm.qemu("h1").pid
    with lab.workload(vm) as workload, MemoryGroup(f"vdc-{lab.name}-short") as group:
        workload.wait_progress(more=30, deadline_s=20)
        assert int(Path(f"/proc/{vm.qemu('h3').pid}/oom_score_adj").read_text()) > 0, "it goes first"
        group.take(vm.qemu("h3").pid)
        vm.shell("head -c 60000000 /dev/zero >/run/fill & true")  # pages that neither copy has touched yet
        wait_for(lambda: group.kills == 1, 20, "the kernel ends the secondary")
        vm.wait("under a new epoch", lambda view: view.status.epoch > before, 10)
        workload.wait_progress(more=50, deadline_s=20)
    assert vm.qemu("h1").pid == pid
    assert "copy-died" in vm.event_codes()
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()
