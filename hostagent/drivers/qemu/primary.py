"""The primary's side of lockstep: channels, entering, leaving, and the pause.

Order of a protection: `open_channels` here, `secondary.prepare` there, `enter` here. A planned switch is in
`handover`.

Dangers, all seen on QEMU 11.1:
- A guest that is stopped while in lockstep runs again after the next checkpoint. Leave before a lasting
  pause.
- A guest's reset makes an emulated (TCG) secondary execute translations of what its memory held before: it
  crashes again after every checkpoint. Leave and protect again with a fresh secondary.
- A guest that powers off in lockstep is reported once (SHUTDOWN) and then shown as running.
"""

from __future__ import annotations

from typing import Any, Final

from hostagent.drivers.qemu import credentials, sockets
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.entry import EntryFailedError, EntryReport, enter
from hostagent.drivers.qemu.leaving import leave, sever
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.qmp import QmpSession
from hostagent.drivers.qemu.sockets import HOST, Network
from hostagent.drivers.qemu.steps import chardevs

# Events of a primary after which its lockstep has to be left; its secondary is not fit for promotion.
ENDS_LOCKSTEP: Final = frozenset({"RESET", "SHUTDOWN", "GUEST_PANICKED"})

__all__ = [
    "ENDS_LOCKSTEP",
    "EntryFailedError",
    "EntryReport",
    "enter",
    "leave",
    "open_channels",
    "quiesce",
    "resume",
    "sever",
]


async def open_channels(qmp: QmpSession, plan: LockstepPlan, *, network: Network = HOST) -> None:
    """Listen for the secondary's two connections per NIC and make the local pairs. Idempotent per plan.

    Raises a QmpError, and UnavailableError where a port is taken.
    """
    await credentials.add(qmp, plan)
    present = await chardevs(qmp)
    for j in range(plan.nics):
        cmp_server, cmp_client, out_server, out_client = plan.local_chardevs(j)
        remote = (
            (plan.mirror_chardev(j), plan.ports.mirror[j]),
            (plan.compare_chardev(j), plan.ports.compare[j]),
        )
        for name, port in remote:
            if name not in present:
                await sockets.give_listening(qmp, name, network, plan.primary_address, port)
                await qmp.execute(Command.CHARDEV_ADD, {"id": name, "backend": _listen(plan, name)})
        local = {
            cmp_server: _local(plan.local_socket(cmp_server), is_server=True),
            cmp_client: _local(plan.local_socket(cmp_server), is_server=False),
            out_server: _local(plan.local_socket(out_server), is_server=True),
            out_client: _local(plan.local_socket(out_server), is_server=False),
        }
        for name, backend in local.items():
            if name not in present:
                await qmp.execute(Command.CHARDEV_ADD, {"id": name, "backend": backend})


async def quiesce(qmp: QmpSession) -> None:
    """Stop the guest. In lockstep the next checkpoint ends that."""
    await qmp.execute(Command.STOP, deadline_s=5.0)


async def resume(qmp: QmpSession) -> None:
    """Let a stopped guest run again; harmless when it runs."""
    await qmp.execute(Command.CONT, deadline_s=5.0)


def _listen(plan: LockstepPlan, descriptor: str) -> dict[str, Any]:
    data = {"addr": sockets.nested(descriptor), "server": True, "wait": False, "nodelay": True}
    return {"type": "socket", "data": {**data, **credentials.of_server(plan)}}


def _local(path: str, *, is_server: bool) -> dict[str, Any]:
    data: dict[str, Any] = {"addr": {"type": "unix", "data": {"path": path}}, "server": is_server}
    if is_server:
        data["wait"] = False
    return {"type": "socket", "data": data}
