"""A VM with two disks and two NICs: both are the same after a failover, and sessions on both addresses live on."""

from __future__ import annotations

from testlab import VM, Lab

MANIFEST = """
apiVersion: mycelium.network/v1
kind: Endophyte
metadata: {name: two}
spec:
  virtualComputer: {type: full-virtualization, dedicatedNodes: 3, memorySync: continuous}
  image: mycelium/mini
  resources: {cpus: 1, memory: 256MiB}
  disks:
    - name: system
    - {name: data, size: 64MiB}
  networks:
    - network: default
    - network: default
"""


def test_both_disks_and_both_nics_go_over(lab: Lab) -> None:
    lab.ok("apply", "-f", "-", "--wait", "--timeout", "90", stdin=MANIFEST)
    vm = VM(lab, "two")
    one, other = vm.view().status.addresses
    lab.wait_answering(one)
    lab.wait_answering(other)
    assert vm.shell("printf cormorant >/dev/vdb && sync && head -c 9 /dev/vdb") == "cormorant"
    first, second = vm.primary, vm.secondary
    with lab.workload(vm) as workload, lab.sessions_to(other, "echo", "diverging") as beside:
        workload.wait_progress(more=30, deadline_s=20)
        vm.kill(first)
        workload.wait_progress(more=50, deadline_s=30)
        beside.wait_progress(more=50, deadline_s=30)
        vm.wait_primary(second)
        vm.wait_lockstep(90)
    assert not workload.report.errors
    assert not beside.report.errors
    workload.check_store()
    assert vm.shell("head -c 9 /dev/vdb") == "cormorant"
