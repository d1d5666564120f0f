"""A stand-in for the agent: answers health and cluster on its unix socket, and runs a child named etcd.

    stub_agent.py run --config FILE

`STUB_SILENT=1` in the environment: says something and never answers. `STUB_DIES=1`: ends at once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socketserver
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import yaml

members: list[str] = []


def node(name: str) -> dict[str, object]:
    addresses = dict.fromkeys(("management_address", "replication_address", "overlay_address"), "192.0.2.1")
    host = {
        "name": name,
        "heartbeat_port": 1,
        "incarnation": 1,
        "cpus": 1,
        "memory_bytes": 1,
        "api_url": "",
        "agent_version": "",
        **addresses,
    }
    return {
        "host": host, "alive": True, "is_leader": False, "etcd": "member", "endophytes": [],
        "memory_reserved_bytes": 0,
    }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        answers: dict[str, dict[str, object]] = {
            "/v1/health": {"sentence": "well"},
            "/v1/cluster": {"version": "0", "host": "stub", "leader": "h1", "store": "ok"},
            "/v1/nodes": {"items": [node(name) for name in members]},
        }
        self.answer(answers.get(self.path))

    def do_POST(self) -> None:
        """Remember what was registered."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Path(sys.argv[3]).with_name("registered.json").write_bytes(body)
        self.answer({"sentence": "done"})

    def answer(self, answer: dict[str, object] | None) -> None:
        body = json.dumps(answer or {"code": "not-found", "message": "no"}).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def main() -> None:
    config = yaml.safe_load(Path(sys.argv[3]).read_text())
    folder = Path(config["state_dir"])
    members.extend(config["etcd"]["embedded"]["members"])
    print("the stub has started", flush=True)
    if os.environ.get("STUB_DIES"):
        sys.exit("the stub was told to die")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    etcd = folder / "etcd"
    if not etcd.exists():
        etcd.symlink_to(shutil.which("sleep") or "/bin/sleep")
    # It ignores SIGTERM like its parent, and lives in a session of its own.
    subprocess.Popen([str(etcd), "3600"], start_new_session=True)
    if os.environ.get("STUB_SILENT"):
        signal.pause()
    socket = folder / "api.sock"
    socket.unlink(missing_ok=True)
    with Server(str(socket), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
