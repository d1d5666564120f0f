"""An unprotected VM moves to another host while it runs: memory, disk and connections go with it. And back."""

from __future__ import annotations

from pacing import FAILOVER_GAP_MS
from testlab import Lab, wait_for


def test_there_and_back(lab: Lab) -> None:
    vm = lab.create("solo", "--no-protect")
    lab.wait_answering(vm.address)
    first = vm.primary
    second = next(host for host in lab.hosts if host != first)
    assert f"already runs on {first}" in lab.cli("migrate", "solo", "--to", first).error_line
    vm.shell("echo remembered >/tmp/mark")
    with lab.workload(vm) as workload:
        workload.wait_progress(more=10, deadline_s=30)
        for there, before in ((second, first), (first, second)):
            epoch = vm.epoch
            lab.ok("migrate", "solo", "--to", there, "--wait", "--timeout", "90")
            workload.wait_progress(more=10, deadline_s=30)
            view = vm.view()
            assert view.status.epoch > epoch
            assert (view.status.secondary, view.status.protection.value) == (None, "none")
            wait_for(lambda host=before: not vm.runs_on(host), 20, f"nothing of it runs on {before}")  # type: ignore[misc]
    assert vm.shell("cat /tmp/mark") == "remembered"
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()
