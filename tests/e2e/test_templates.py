"""`vdc create windows-desktop`: says what is missing, and runs once it has an image."""

from __future__ import annotations

from testlab import Lab


def test_without_its_image_it_says_which_one_and_how_to_get_it(lab: Lab) -> None:
    refused = lab.cli("create", "windows-desktop")
    assert refused.code == 1
    assert "mycelium/windows-11:latest" in refused.error_line
    assert "vdc image import" in refused.error_line
    assert refused.error_line.endswith("(image-not-found)")
    assert refused.hint
    assert not refused.stdout
    assert not lab.vm_names()


def test_with_an_image_it_runs_with_firmware_tpm_and_screen(lab: Lab) -> None:
    vm = lab.create("windows-desktop", "--image", "mycelium/mini", "--memory", "384MiB", timeout_s=140)
    view = vm.view()
    assert view.status.protection.value == "lockstep"
    assert (view.spec["firmware"], view.spec["tpm"], view.spec["display"]) == ("uefi", True, "vnc")
    lab.wait_answering(vm.address)
    command = " ".join(vm.qemu(vm.primary).command)
    assert "tpm-" in command
    assert "vnc" in command
    assert vm.shell("test -d /sys/firmware/efi && echo by UEFI") == "by UEFI"
    first, second = vm.primary, vm.secondary
    with lab.workload(vm) as workload:
        vm.kill(first)
        workload.wait_progress(more=30, deadline_s=30)
        vm.wait_primary(second)
    assert not workload.report.errors
    workload.check_store()
