"""A real etcd cluster on this machine, for tests: members that can be killed, paused and started again.

Everything it starts, it ends; everything it writes is below the folder that it is given.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path


def runtime_root() -> Path | None:
    """The runtime root that holds etcd; None where it was not built."""
    root = Path(os.environ.get("VDC_CACHE_DIR", "/var/cache/vdc")) / "runtime" / "current"
    return root if (root / "usr/bin/etcd").exists() and shutil.which("bwrap") else None


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def in_runtime(root: Path, folder: Path, *command: str) -> list[str]:
    """The command line that runs a program of the runtime root with one folder of the host."""
    base = ["bwrap", "--die-with-parent", "--ro-bind", str(root), "/", "--dev", "/dev", "--proc", "/proc"]
    return [*base, "--tmpfs", "/tmp", "--bind", str(folder), str(folder), *command]


class Cluster:
    """Members `m0`, `m1`, ... on 127.0.0.1. A context manager."""

    def __init__(
        self, root: Path, folder: Path, size: int = 3, heartbeat_ms: int = 20, election_ms: int = 150
    ):
        self.root = root
        self.folder = folder
        self.heartbeat_ms, self.election_ms = heartbeat_ms, election_ms
        ports = free_ports(2 * size)
        self.client_ports, self.peer_ports = ports[:size], ports[size:]
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * size

    @property
    def endpoints(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.client_ports]

    def __enter__(self) -> Cluster:
        try:
            for index in range(len(self.processes)):
                self.start(index)
            self.wait_healthy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for index in range(len(self.processes)):
            self.kill(index)

    def start(self, index: int) -> None:
        name = f"m{index}"
        client, peer = self.endpoints[index], f"http://127.0.0.1:{self.peer_ports[index]}"
        members = ",".join(f"m{i}=http://127.0.0.1:{port}" for i, port in enumerate(self.peer_ports))
        command = in_runtime(
            self.root, self.folder,
            "etcd", "--name", name, "--data-dir", str(self.folder / name),
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", members, "--initial-cluster-state", "new",
            "--heartbeat-interval", str(self.heartbeat_ms), "--election-timeout", str(self.election_ms),
            "--log-level", "warn",
        )  # fmt: skip
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[index] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def kill(self, index: int) -> None:
        """SIGKILL the member (a paused one too)."""
        process, self.processes[index] = self.processes[index], None
        if process is not None:
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
            os.killpg(process.pid, signal.SIGCONT)  # a paused monitor has to reap its child and end
            process.wait()

    def pause(self, index: int) -> None:
        self._signal(index, signal.SIGSTOP)

    def resume(self, index: int) -> None:
        self._signal(index, signal.SIGCONT)

    def _signal(self, index: int, number: signal.Signals) -> None:
        process = self.processes[index]
        assert process is not None
        os.killpg(process.pid, number)

    def post(self, index: int, path: str, body: object = None) -> dict[str, object]:
        """Ask a member, without the client under test."""
        data = json.dumps(body or {}).encode()
        with urllib.request.urlopen(self.endpoints[index] + path, data=data, timeout=2) as answer:
            document: dict[str, object] = json.loads(answer.read())
            return document

    def leader(self) -> int:
        """The index of the member that leads now."""
        for index, process in enumerate(self.processes):
            if process is None:
                continue
            status = self.post(index, "/v3/maintenance/status")
            header = status["header"]
            assert isinstance(header, dict)
            if status.get("leader") == header["member_id"]:
                return index
        raise AssertionError("no leader")

    def wait_healthy(self, deadline_s: float = 20.0) -> None:
        """Until every started member answers a linearizable read."""
        end = time.monotonic() + deadline_s
        for index, process in enumerate(self.processes):
            while process is not None:
                try:
                    self.post(index, "/v3/kv/range", {"key": "AA=="})
                    break
                except OSError:
                    assert time.monotonic() < end, (self.folder / f"m{index}.log").read_text()[-3000:]
                    time.sleep(0.05)

    def etcdctl(self, *arguments: str) -> str:
        """Run etcdctl against all members; returns what it printed."""
        command = in_runtime(
            self.root, self.folder, "etcdctl", f"--endpoints={','.join(self.endpoints)}", *arguments
        )
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
