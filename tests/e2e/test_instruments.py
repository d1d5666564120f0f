"""The instruments of the other specifications see what they are there for: loss, a broken session, left-overs."""

from __future__ import annotations

import socket
import struct
import subprocess

import pytest
from testlab import Lab

from vdc.control.allot import mac_for
from vdc.lab import api as lab_api
from vdc.lab import kernel
from vdc.lab.plan import Underlay
from vdc.lab.sessions import WorkloadError, check_store


def test_a_write_that_is_not_there_is_missed(lab: Lab) -> None:
    vm = lab.create("web", "--no-protect")
    lab.wait_answering(vm.address)
    with lab.workload(vm, "durable") as workload:
        workload.wait_progress(more=5, deadline_s=20)
    workload.check_store()
    last = workload.report.acknowledged
    with pytest.raises(WorkloadError, match="confirmed writes are not there"):
        check_store(lab.in_client, vm.address, workload.tag, 1, last + 1)
    with pytest.raises(WorkloadError, match="confirmed writes are not there"):
        check_store(lab.in_client, vm.address, "another content", 1, last)


def test_a_session_that_breaks_is_an_error(lab: Lab) -> None:
    vm = lab.create("web", "--no-protect")
    lab.wait_answering(vm.address)
    workload = lab.workload(vm, patience_s=2.0)
    workload.start()
    vm.kill(vm.primary)
    with pytest.raises(WorkloadError):
        workload.wait_progress(more=500, deadline_s=10)
    assert workload.stop().errors


def test_the_audit_finds_what_is_left_over(lab: Lab) -> None:
    assert lab.audit() == []
    host = lab.plan.host("h2")
    orphan = subprocess.Popen(lab_api.exec_argv(lab.name, "h2", ["sleep", "60"]))
    folder = host.state_dir / "vms" / "ghost"
    folder.mkdir()
    add_tap = ["ip", "tuntap", "add", "name", "vdcghost", "mode", "tap"]
    subprocess.run(lab_api.exec_argv(lab.name, "h2", add_tap), check=True)
    try:
        found = " | ".join(lab.audit())
        assert f"process sleep ({orphan.pid})" in found
        assert "tap vdcghost" in found
        assert "files of ghost" in found
    finally:
        orphan.kill()
        orphan.wait()
        folder.rmdir()
        subprocess.run(lab_api.exec_argv(lab.name, "h2", ["ip", "link", "del", "vdcghost"]), check=True)


@pytest.mark.two_speakers
def test_a_second_speaker_is_seen_on_the_wire(lab: Lab) -> None:
    vm = lab.create("web", "--no-protect")
    lab.wait_answering(vm.address)
    liar, receiver = (lab.plan.host(host) for host in lab.hosts if host != vm.primary)
    lab.fault(
        "partition", liar.name, network="management", direction="out"
    )  # nobody hears it, yet it is sent
    mac = bytes.fromhex(mac_for(lab.plan.network.name, vm.address).replace(":", ""))
    segment = bytes(9) + b"\x06" + bytes(10)  # of an IPv4 header, all that matters here: TCP
    frame = b"\xff" * 6 + mac + struct.pack("!H", 0x0800) + segment
    vxlan = struct.pack("!II", 0x08000000, lab.plan.network.vni << 8)

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(vxlan + frame, (str(receiver.address(Underlay.MANAGEMENT)), 4789))

    before = len(lab.wire.frames)
    kernel.in_namespace(liar.namespace, send)
    lab.wait_answering(vm.address)
    seen = [one for one in lab.wire.frames[before:] if one.protocol == "tcp"]
    assert {str(one.source) for one in seen} >= {
        str(liar.address(Underlay.MANAGEMENT)),
        str(lab.plan.host(vm.primary).address(Underlay.MANAGEMENT)),
    }
    lab.heal(liar.name)
