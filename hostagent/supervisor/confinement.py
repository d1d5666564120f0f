"""How a guest's processes are confined: sandbox, user, devices, control group. QEMU is started here, nowhere else.

Limits of a control group are no bookings (vdc/protection/placement.py): they end a QEMU that has gone out of its mind
or was taken over, and must never end a sound one. So they are what is booked and, beside it, what QEMU may take
for a time or by the way: translated code of an emulated guest (QEMU keeps up to 1 GiB of it), page tables, the
buffers of a migration, and room for the page cache of the disks, which is counted too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from hostagent.drivers.process import ProcessHandle, User, spawn_in_sandbox
from hostagent.drivers.process.cgroup import Limits
from hostagent.drivers.process.users import device_groups, owner_of
from hostagent.drivers.qemu.sandbox import sandboxed
from vdc.model.endophyte import CopyRole, Endophyte
from vdc.model.units import GIB, MIB
from vdc.protection.placement import primary_cost_bytes, secondary_cost_bytes

PIDFILE = "qemu.pid"
QEMU_LOG = "qemu.log"
GUEST_NICENESS = 0  # below the agent and etcd: a busy guest must not delay the decision about it
CODE_BYTES: Final = GIB
BESIDE_BYTES: Final = 512 * MIB
PAGE_TABLE_SHARE: Final = 64
THREADS: Final = 256  # QEMU's pool has up to 64 for each of its contexts
THREADS_PER_CPU: Final = 2
_KVM = "/dev/kvm"


def limits_of(endophyte: Endophyte, role: CopyRole, accelerator: str) -> Limits:
    """Of a copy that is started in this role; they stay what they are when a secondary is promoted. Pure."""
    resources = endophyte.manifest.spec.resources
    cost_bytes = (primary_cost_bytes if role is CopyRole.PRIMARY else secondary_cost_bytes)(endophyte)
    code_bytes = 0 if accelerator == "kvm" else CODE_BYTES
    return Limits(
        memory_bytes=cost_bytes + code_bytes + BESIDE_BYTES + resources.memory // PAGE_TABLE_SHARE,
        pids=THREADS + THREADS_PER_CPU * resources.cpus,
        cpu_weight=min(10_000, 100 * (resources.cpus + 1)),  # QEMU's own threads are worth one processor
    )


def guest_user(guest: Path, devices: Sequence[str] = ()) -> User:
    """Whose folder it is, with what opens these devices."""
    return User(owner_of(guest), device_groups(devices))


async def spawn_guest(
    argv: list[str],
    folder: Path,
    guest: Path,
    *,
    runtime_root: Path | None,
    image_dir: Path,
    accelerator: str,
    tag: str,
    join: Callable[[int], None],
    pass_fds: Sequence[int] = (),
) -> ProcessHandle:
    """Start QEMU (or a probe in its place) as the user of the folder `guest`; what the agent keeps is in `folder`.

    Raises as `spawn_in_sandbox`.
    """
    devices = (_KVM,) if accelerator == "kvm" else ()
    command = sandboxed(
        argv, guest_user(guest, devices), runtime_root=runtime_root, vm_dir=guest, image_dir=image_dir,
        devices=devices,
    )  # fmt: skip
    return await spawn_in_sandbox(
        command,
        pidfile=folder / PIDFILE,
        log_path=folder / QEMU_LOG,
        tag=tag,
        pass_fds=pass_fds,
        niceness=GUEST_NICENESS,
        join=join,
    )
