"""A small model of QEMU's inventories: enough to be asked what is there, and to refuse. What it is told is compared
with golden files.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hostagent.drivers.qemu import secondary
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.plan import LockstepPlan, LockstepPorts
from hostagent.drivers.qemu.qmp import EventListener, QmpClosedError, QmpCommandError

GOLDEN = Path(__file__).parent / "golden" / "qemu"
PLAN = LockstepPlan(7, 1, 1, "10.0.0.1", "10.0.0.2", LockstepPorts.for_slot(3, 7))


class ModelQemu:
    """Remembers what was added and removed; `said` is the dialogue without the questions."""

    name = "model"

    def __init__(self, status: str = "running", migration: str = "none", colo: str = "none") -> None:
        self.status, self.migration, self.colo = status, migration, colo
        self.said: list[str] = []
        self.objects: dict[str, dict[str, Any]] = {}
        self.chardevs: dict[str, dict[str, Any]] = {}
        self.nodes: dict[str, dict[str, Any]] = {
            "disk0": {"node-name": "disk0", "children": [child(0, "img0")], "image": {"virtual-size": 64}}
        }
        self.backup_error = ""
        self.jobs: set[str] = set()
        self.exports: set[str] = set()
        self.descriptors: set[str] = set()  # given and not taken
        self.yankable: list[dict[str, str]] = [{"type": "chardev", "id": "compat_monitor0"}]
        self.closed_at: str | None = None
        self.listeners: list[EventListener] = []

    def add_listener(self, listener: EventListener) -> Any:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def emit(self, event: str) -> None:
        for listener in list(self.listeners):
            listener(event, {}, 1.0 if event == "STOP" else 1.05)

    async def execute_oob(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        return await self.execute(command, arguments, oob=True)

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        deadline_s: float = 2,
        oob: bool = False,
    ) -> Any:
        assert command in set(Command)
        assert deadline_s > 0
        if command == self.closed_at:
            raise QmpClosedError("gone")
        given = dict(arguments or {})
        if not command.startswith("query-") and command not in ("qom-list", "qom-get"):
            words = json.dumps(given, sort_keys=True) if given else ""
            self.said.append(f"{'oob ' if oob else ''}{command} {words}".rstrip())
        handler = getattr(self, "do_" + command.replace("-", "_"), None)
        return handler(given) if handler else {}

    def refuse(self, command: str) -> None:
        raise QmpCommandError(command, "GenericError", "no")

    async def give(self, name: str, sock: socket.socket, *, deadline_s: float = 2) -> None:
        assert sock.fileno() >= 0
        self.descriptors.add(name)
        self.said.append(f"(descriptor) {name}")

    def take(self, name: str) -> None:
        assert name in self.descriptors, f"{name} was not given"
        self.descriptors.remove(name)

    # questions
    def do_query_status(self, _: Any) -> Any:
        return {"status": self.status}

    def do_query_migrate(self, _: Any) -> Any:
        if self.migration == "active" and self.status == "paused":
            self.migration = "pre-switchover"
        ram = {"transferred": 1000, "remaining": 0, "total": 2000, "dirty-sync-count": 3}
        return {"status": self.migration, "ram": ram} if self.migration != "none" else {}

    def do_query_colo_status(self, _: Any) -> Any:
        return {"mode": self.colo}

    def do_query_uuid(self, _: Any) -> Any:
        return {"UUID": "u"}

    def do_qom_get(self, given: Any) -> Any:
        return given["property"] == "connected" and given["path"].removeprefix("/chardevs/") in self.chardevs

    def do_qom_list(self, _: Any) -> Any:
        return [{"name": "type"}, *({"name": name} for name in self.objects)]

    def do_query_chardev(self, _: Any) -> Any:
        return [{"label": name} for name in self.chardevs]

    def do_query_named_block_nodes(self, _: Any) -> Any:
        return list(self.nodes.values())

    def do_query_block_jobs(self, _: Any) -> Any:
        return [self.job(name) for name in self.jobs]

    def job(self, name: str) -> dict[str, Any]:
        figures = {"device": name, "offset": 10, "len": 10}
        if name.startswith("sync"):
            return {**figures, "ready": True, "status": "ready"}
        failed = {"error": self.backup_error} if self.backup_error else {}
        return {**figures, **failed, "ready": False, "status": "concluded"}

    def do_query_yank(self, _: Any) -> Any:
        return list(self.yankable)

    def do_query_block_exports(self, _: Any) -> Any:
        return [{"id": name} for name in self.exports]

    # deeds
    def do_block_export_add(self, given: Any) -> Any:
        self.exports.add(given["id"])

    def do_nbd_server_stop(self, _: Any) -> Any:
        self.exports.clear()

    def do_object_add(self, given: Any) -> Any:
        self.objects[given["id"]] = given

    def do_object_del(self, given: Any) -> Any:
        return self.objects.pop(given["id"], None) or self.refuse("object-del")

    def do_add_client(self, given: Any) -> Any:
        self.take(given["fdname"])
        assert given["protocol"] in self.chardevs

    def do_nbd_server_start(self, given: Any) -> Any:
        if given["addr"]["type"] == "fd":
            self.take(given["addr"]["data"]["str"])

    def do_migrate_incoming(self, given: Any) -> Any:
        self.take(given["uri"].removeprefix("fd:"))

    def do_chardev_add(self, given: Any) -> Any:
        address = given["backend"]["data"]["addr"]
        if address["type"] == "fd":
            self.take(address["data"]["str"])
        self.chardevs[given["id"]] = given
        self.yankable.append({"type": "chardev", "id": given["id"]})

    def do_chardev_remove(self, given: Any) -> Any:
        return self.chardevs.pop(given["id"], None) or self.refuse("chardev-remove")

    def do_blockdev_add(self, given: Any) -> Any:
        node = self.nodes[given["node-name"]] = dict(given)
        if given["driver"] == "quorum":
            names = [one if isinstance(one, str) else "nothing" for one in given["children"]]
            node["children"] = [child(number, name) for number, name in enumerate(names)]
        if given["driver"] == "nbd":
            self.take(given["server"]["str"])
            self.yankable.append({"type": "block-node", "node-name": given["node-name"]})

    def do_blockdev_del(self, given: Any) -> Any:
        return self.nodes.pop(given["node-name"], None) or self.refuse("blockdev-del")

    def do_x_blockdev_change(self, given: Any) -> Any:
        children = self.nodes["disk0"]["children"]
        if "node" in given:
            taken = {one["child"] for one in children}
            number = next(number for number in range(9) if f"children.{number}" not in taken)
            children.append(child(number, given["node"]))
        else:
            assert len(children) > 1, "a quorum keeps one child at least"
            children[:] = [one for one in children if one["child"] != given["child"]]

    def do_blockdev_mirror(self, given: Any) -> Any:
        self.jobs.add(given["job-id"])

    def do_blockdev_backup(self, given: Any) -> Any:
        self.jobs.add(given["job-id"])

    def do_job_dismiss(self, given: Any) -> Any:
        self.jobs.discard(given["id"])

    def do_block_dirty_bitmap_add(self, given: Any) -> Any:
        bitmap = {"name": given["name"], "recording": True, "busy": False}
        self.nodes[given["node"]].setdefault("dirty-bitmaps", []).append(bitmap)

    def do_block_dirty_bitmap_remove(self, given: Any) -> Any:
        found = self.nodes[given["node"]].get("dirty-bitmaps", [])
        found[:] = [one for one in found if one["name"] != given["name"]]

    def do_block_job_cancel(self, given: Any) -> Any:
        self.jobs.discard(given["device"])

    def do_stop(self, _: Any) -> Any:
        self.status = "paused"
        self.emit("STOP")

    def do_cont(self, _: Any) -> Any:
        self.status = "running"

    def do_migrate(self, given: Any) -> Any:
        self.take(given["uri"].removeprefix("fd:"))
        self.migration = "active"
        self.yankable.append({"type": "migration"})

    def do_migrate_continue(self, _: Any) -> Any:
        self.migration, self.colo, self.status = "colo", "primary", "running"
        self.emit("RESUME")

    def do_migrate_cancel(self, _: Any) -> Any:
        self.migration = "cancelled"

    def do_x_colo_lost_heartbeat(self, _: Any) -> Any:
        if self.colo == "none":
            self.refuse("x-colo-lost-heartbeat")
        self.migration, self.colo = "completed", "none"


class Wires:
    """A network that reaches nobody: what listens does so where nobody calls, what connects has no other end."""

    def listen(self, _address: str, _port: int) -> socket.socket:
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        return sock

    async def connect(self, _address: str, _port: int, *, patience_s: float = 0) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours


WIRES: Any = Wires()


async def prepared(qemu: ModelQemu, plan: LockstepPlan = PLAN) -> None:
    """A secondary that waits for the memory."""
    (await secondary.prepare(qemu, plan, network=WIRES)).close()  # type: ignore[arg-type]


def child(number: int, node: str) -> dict[str, str]:
    return {"child": f"children.{number}", "node-name": node}


def assert_golden(name: str, said: list[str]) -> None:
    path = GOLDEN / f"{name}.txt"
    text = "\n".join(said) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


async def in_lockstep() -> ModelQemu:
    """A secondary."""
    qemu = ModelQemu(status="inmigrate")
    await prepared(qemu)
    qemu.colo, qemu.status, qemu.migration = "secondary", "running", "colo"
    qemu.nodes |= {name: {"node-name": name} for name in ("active0", "hidden0", "childs0", "parent0")}
    qemu.said.clear()
    return qemu
