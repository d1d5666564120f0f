"""Three VMs lose their secondaries with one host: they are protected again one after the other, none is forgotten."""

from __future__ import annotations

from testlab import Lab

from vdc.api.models import EndophyteView

NAMES = ("a", "b", "c")


def is_safe_without(lost: str, view: EndophyteView) -> bool:
    status = view.status
    parts = [copy.host for copy in (status.primary, status.secondary) if copy]
    is_protected = status.protection.value == "lockstep" and status.unprotectedSince is None
    return is_protected and lost not in parts


def test_one_copy_at_a_time_and_all_are_protected_again(lab: Lab) -> None:
    vms = [lab.create(name, "--memory", "128MiB") for name in NAMES]
    for vm in vms:
        vm.wait_lockstep(90)
    lost = vms[0].secondary
    hit = [vm for vm in vms if lost in (vm.primary, vm.secondary)]
    lab.fault("power-off", lost)
    most = 0

    def all_are_safe(_: EndophyteView) -> bool:
        nonlocal most
        views = [vm.view() for vm in vms]
        most = max(most, sum(view.status.protection.value == "syncing" for view in views))
        return all(is_safe_without(lost, view) for view in views)

    hit[0].wait("and the others in lockstep without the lost host", all_are_safe, 150)
    assert most == 1  # two hosts are left, and each pair needs both
    for vm in vms:
        lab.wait_answering(vm.address)
