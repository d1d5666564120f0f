"""Starting QEMU: in its sandbox, with the descriptors of its taps and without a network of its own."""

from __future__ import annotations

from pathlib import Path

from hostagent.drivers.net import close_taps, open_taps
from hostagent.drivers.process import ProcessHandle, in_thread, spawn_in_sandbox
from hostagent.drivers.qemu.argv import primary_argv, secondary_argv
from hostagent.drivers.qemu.sandbox import sandboxed
from hostagent.drivers.qemu.spec import QMP_SOCKET, MachineSpec
from hostagent.supervisor.host import HostContext
from vdc.model.endophyte import CopyRole

PIDFILE = "qemu.pid"
QEMU_LOG = "qemu.log"
GUEST_NICENESS = 0  # below the agent and etcd: a busy guest must not delay the decision about it


async def launch(host: HostContext, folder: Path, spec: MachineSpec, role: CopyRole) -> ProcessHandle:
    """Start it; the taps exist and nobody has them open. Raises VdcError, and then nothing runs."""
    (folder / QMP_SOCKET).unlink(missing_ok=True)  # of an earlier process: it looks like a served one
    taps = await in_thread(open_taps, [nic.ifname for nic in spec.nics])
    try:
        descriptors = [tap.fileno() for tap in taps]
        argv = (primary_argv if role is CopyRole.PRIMARY else secondary_argv)(spec, descriptors)
        command = sandboxed(
            argv, runtime_root=host.config.runtime, vm_dir=folder, image_dir=host.image_dir,
            devices=("/dev/kvm",) if spec.accelerator == "kvm" else (), has_network=False,
        )  # fmt: skip
        return await spawn_in_sandbox(
            command, pidfile=folder / PIDFILE, log_path=folder / QEMU_LOG, tag=spec.uid,
            pass_fds=descriptors, niceness=GUEST_NICENESS,
        )  # fmt: skip
    finally:
        close_taps(taps)
