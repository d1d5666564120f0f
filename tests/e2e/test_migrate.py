"""An unprotected VM moves to another host while it runs: memory, disk and connections go with it. And back."""

from __future__ import annotations

from testlab import Lab, wait_for


def test_there_and_back(lab: Lab) -> None:
    vm = lab.create("solo", "--no-protect")
    lab.wait_answering(vm.address)
    first = vm.primary
    second = next(host for host in lab.hosts if host != first)
    vm.shell("echo remembered >/tmp/mark")
    with lab.workload(vm) as workload:
        workload.wait_progress(more=20, deadline_s=30)
        for there, before in ((second, first), (first, second)):
            epoch = vm.epoch
            lab.ok("migrate", "solo", "--to", there, "--wait", "--timeout", "90")
            workload.wait_progress(more=20, deadline_s=30)
            view = vm.view()
            assert view.status.epoch > epoch
            assert (view.status.secondary, view.status.protection.value) == (None, "none")
            wait_for(lambda host=before: not vm.runs_on(host), 20, f"nothing of it runs on {before}")  # type: ignore[misc]
    assert vm.shell("cat /tmp/mark") == "remembered"
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < 5_000
    workload.check_store()


def test_what_cannot_move_is_refused_in_a_sentence(lab: Lab) -> None:
    vm = lab.create("solo", "--no-protect")
    host = vm.primary
    other = next(name for name in lab.hosts if name != host)
    assert f"already runs on {host}" in lab.cli("migrate", "solo", "--to", host).error_line
    assert "h9" in lab.cli("migrate", "solo", "--to", "h9").error_line
    lab.ok("stop", "solo", "--force", "--wait")
    refused = lab.cli("migrate", "solo", "--to", other)
    assert "only a running guest moves" in refused.error_line
    assert refused.hint == "vdc start solo"
    drained = lab.cli("node", "drain", host)
    assert "--leave-stopped" in drained.hint
