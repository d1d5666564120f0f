"""`vdc verify`: both copies of a live VM are compared, and the client notices nothing but a pause."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from labcredentials import ask_as_host
from testlab import VM, Lab, kill_agent, wait_for

from vdc.lab.processes import Process, read_process

UNUSED = 4 << 20  # so much without a single byte is memory that no kernel has handed out yet


def test_both_copies_are_the_same_under_load(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before = vm.epoch
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        estimate = json.loads(lab.ok("verify", "web", "--dry-run", "-o", "json"))
        assert estimate["is_same"] is None and estimate["estimated_ms"] > 0
        result = json.loads(lab.ok("verify", "-o", "json"))
        workload.wait_progress(more=30, deadline_s=20)
        vm.wait_lockstep()
    pages = {block["block"]: (block["pages"], block["differing_pages"]) for block in result["memory"]}
    assert pages["pc.ram"][0] > 10_000
    assert not any(differing for _, differing in pages.values()), pages
    assert [disk["differences"] for disk in result["disks"]] == [[]] * len(result["disks"])
    assert result["is_same"] and result["disks"]
    assert vm.epoch == before, "a comparison is no fault"
    assert "verified" in vm.event_codes()
    assert not workload.report.errors
    workload.check_store()


def change_a_free_page(pid: int, size_bytes: int) -> None:
    """Change a byte of the guest's memory that the guest has never used, and of the checkpoint cache."""
    maps = [line.split()[0].split("-") for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    begins = [int(begin, 16) for begin, end in maps if int(end, 16) - int(begin, 16) == size_bytes]
    assert begins, "the guest's memory was not found"
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:

        def is_unused(offset: int) -> bool:
            for begin in begins:
                memory.seek(begin + offset)
                if any(memory.read(UNUSED)):
                    return False
            return True

        offset = next(one for one in range(size_bytes // 4, size_bytes - UNUSED, UNUSED) if is_unused(one))
        for begin in begins:
            memory.seek(begin + offset + UNUSED // 2)
            memory.write(b"\x5a")


def test_a_replica_that_differs_is_found_and_replaced(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web", "--memory", "256MiB")
    before, second = vm.epoch, vm.secondary
    change_a_free_page(vm.qemu(second).pid, 256 << 20)
    done = lab.cli("verify", "web")
    assert done.code == 1, done
    assert "DIFFERENT" in done.stdout and "1 of 65536 pages differ" in done.stdout
    vm.wait("given up", lambda view: view.status.epoch > before, 20)
    assert vm.wait_lockstep(90).status.epoch > before + 1
    assert "replica-differs" in vm.event_codes()
    assert "no block" in lab.ok("verify", "web")


def test_a_secondary_that_was_frozen_goes_on_when_its_agent_dies(
    lab: Lab, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    second = vm.secondary
    frozen = vm.qemu(second)
    asked = {"epoch": vm.epoch, "from_host": vm.primary}

    def is_frozen() -> bool:
        path = "/v1/peer/endophytes/web/freeze"
        answer = ask_as_host(lab, vm.primary, second, "POST", path, asked)
        return answer.status == 200 and answer.body["is_frozen"]

    wait_for(is_frozen, 30, "frozen")
    assert state_of(frozen) == "T"
    with lab.workload(vm) as workload:
        kill_agent(lab, second)
        lab.heal()
        wait_for(lambda: state_of(frozen) != "T", 30, "the secondary goes on or is gone")
        vm.wait_lockstep(90)
        workload.wait_progress(more=30, deadline_s=20)
    assert not workload.report.errors
    workload.check_store()


def test_what_cannot_be_compared_is_refused(lab: Lab) -> None:
    lab.create("web", "--no-protect")
    refused = lab.cli("verify", "web")
    assert (refused.code, refused.error_line.endswith("(not-in-lockstep)")) == (1, True), refused
    assert lab.cli("verify", "nobody").error_line.endswith("(endophyte-not-found)")
    assert lab.cli("verify").error_line.endswith("(nothing-protected)")


def state_of(process: Process) -> str:
    """The kernel's letter for what the process does; empty where it is gone."""
    now = read_process(process.pid)
    return now.state if now is not None and now.start_time == process.start_time else ""
