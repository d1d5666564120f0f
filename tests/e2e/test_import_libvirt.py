"""A VM of libvirt, with snapshots and two disks, becomes a protected Endophyte; the original stays as it was."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from testlab import VM, Lab

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from embedded_libvirt import EmbeddedLibvirt, embedded_libvirt, missing

from hostagent.drivers.libvirt import sandbox
from vdc.confinement.roots import runtime_root

MAC = "52:54:00:0c:0f:0e"
DOMAIN = """<domain type='qemu'>
  <name>Cormorant</name>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{folder}/vmlinuz</kernel>
    <initrd>{folder}/initrd</initrd>
    <cmdline>console=ttyS0 quiet panic=0</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{folder}/snapshot.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{folder}/data.raw'/>
      <target dev='vdb' bus='virtio'/>
    </disk>
    <interface type='bridge'>
      <mac address='{mac}'/>
      <source bridge='br0'/>
      <model type='virtio'/>
    </interface>
    <serial type='pty'/>
    <sound model='ich9'/>
  </devices>
</domain>
"""


@pytest.fixture
def libvirt() -> Iterator[EmbeddedLibvirt]:
    runtime = runtime_root()
    assert runtime is not None
    with embedded_libvirt(runtime, sandbox.emulator(runtime)) as libvirt:
        yield libvirt


@pytest.mark.skipif(bool(missing({"bwrap": "bubblewrap"})), reason=missing({"bwrap": "bubblewrap"}))
def test_a_domain_is_brought_protected_and_fails_over(
    lab: Lab, libvirt: EmbeddedLibvirt, tmp_path: Path
) -> None:
    folder, runtime = tmp_path / "images", runtime_root()
    assert runtime is not None
    mini = lab.settings.cache_root / "images/mini/current"
    folder.mkdir()
    for source, name in (("vmlinuz", "vmlinuz"), ("initrd", "initrd"), ("disk.qcow2", "base.qcow2")):
        (folder / name).write_bytes((mini / source).read_bytes())
    (folder / "data.raw").write_bytes(b"cormorant".ljust(1 << 20, b"\0"))
    _image_tool(
        runtime, folder, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", "snapshot.qcow2"
    )
    libvirt.define(DOMAIN.format(folder=folder, mac=MAC))
    before = {path.name: _digest(path) for path in folder.iterdir()}

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = lab.cli(
        "import", "libvirt", "Cormorant", "--uri", libvirt.uri, "--wait", "--timeout", "90",
        wrapper=[*libvirt.wrapper(scratch)[:-1], "--setenv", "TMPDIR", str(scratch), "--"],
    )  # fmt: skip
    assert done.code == 0, f"{done.stdout}{done.stderr}"
    assert "image imported/cormorant:latest: copied flat from" in done.stderr
    assert "not kept: devices/sound: there is no sound device" in done.stderr
    assert "image/imported/cormorant-vdb:latest imported" in done.stdout
    assert {path.name: _digest(path) for path in folder.iterdir()} == before
    assert list(scratch.iterdir()) == []

    vm = VM(lab, "cormorant")
    lab.watch(vm)
    assert vm.view().status.mac == MAC
    assert vm.view().status.protection.value == "lockstep"
    assert vm.shell("cat /sys/class/net/eth0/address") == MAC
    assert vm.shell("head -c 9 /dev/vdb") == "cormorant"
    lab.wait_answering(vm.address)
    first, second = vm.primary, vm.secondary
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        vm.kill(first)
        workload.wait_progress(more=50, deadline_s=30)
        vm.wait_primary(second)
        vm.wait_lockstep(90)
    assert not workload.report.errors
    workload.check_store()
    assert vm.shell("head -c 9 /dev/vdb") == "cormorant"

    refused = lab.cli("image", "rm", "imported/cormorant-vdb")
    assert refused.code == 1 and "(image-in-use)" in refused.stderr
    target = tmp_path / "back.xml"
    lab.ok("export", "cormorant", "--domain-type", "qemu", "-o", str(target))
    assert MAC in libvirt.define(target.read_text())


def _image_tool(runtime: Path, folder: Path, *arguments: str) -> None:
    sandboxed = ["bwrap", "--ro-bind", str(runtime), "/", "--dev", "/dev", "--proc", "/proc"]
    command = [*sandboxed, "--bind", str(folder), "/vm", "--chdir", "/vm", "qemu-img", *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def _digest(path: Path) -> tuple[str, int]:
    return hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns
