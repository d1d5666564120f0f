"""The secondary's host leaves in order, loses its power and comes back: hardly anything is copied again."""

from __future__ import annotations

from testlab import VM, Lab, wait_for

MANIFEST = """
apiVersion: mycelium.network/v1
kind: Endophyte
metadata: {name: big}
spec:
  virtualComputer: {type: full-virtualization, dedicatedNodes: 3, memorySync: continuous}
  image: mycelium/mini
  resources: {cpus: 1, memory: 256MiB}
  disks:
    - name: system
    - {name: data, size: 1GiB}
"""
GIB = 2**30
WRITE = "dd if=/dev/urandom of=/dev/vdb bs=1M count=40 conv=fsync && touch /data/written"
DIGEST = "dd if=/dev/vdb bs=1M skip=19 count=2 iflag=direct 2>/dev/null | md5sum"


def unreliable(vm: VM) -> tuple[str, ...]:
    """Hosts that the primary would not copy to at this moment."""
    copies = vm.lab.ask(lambda api: api.describe_endophyte(vm.name)).copies
    return next(copy.unreachable for copy in copies if copy.host == vm.primary)


def test_less_than_five_percent_of_an_idle_disk_is_copied(lab: Lab) -> None:
    lab.ok("apply", "-f", "-", stdin=MANIFEST)
    vm = VM(lab, "big")
    lab.wait_answering(vm.address)
    vm.shell(f"({WRITE}) >/dev/null 2>&1 & true")
    wait_for(lambda: "written" in vm.shell("ls /data"), 60, "the guest has written its data", every_s=1)
    vm.wait_lockstep(90)
    second = vm.secondary

    lab.ok("unprotect", "big", "--wait")
    record = lab.plan.host(second).state_dir / "vms" / "big" / "copy.json"
    wait_for(lambda: record.exists() and '"older"' in record.read_text(), 20, "the disks are kept")
    lab.fault("power-off", second)
    wait_for(lambda: second in unreliable(vm), 20, f"{second} is missed")
    lab.heal()
    wait_for(lambda: second not in unreliable(vm), 20, f"{second} is heard steadily again")
    lab.ok("protect", "big", "--wait")
    assert vm.secondary == second

    last = [event["figures"] for event in lab.events("big") if event["code"] == "lockstep-entered"][-1]
    assert last["resumed"] == 1
    assert last["disk_bytes"] < 0.05 * GIB
    before = vm.shell(DIGEST)
    vm.kill(vm.primary)
    vm.wait_primary(second)
    assert vm.shell(DIGEST) == before
