"""Real programs of Debian as container images, as somebody would publish them: unpacked packages and a configuration.

    layout = program_image("redis")        # an OCI image layout, under the tag "latest"
    root = program_root("redis")           # the same packages unpacked: its own clients run from there

The packages come from this machine's own mirror (images/lib/debian.sh); no package script runs. What is made is kept in
`$VDC_CACHE_DIR/test-images`, named by everything that it is made of but the packages' versions.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.oci_layout import build_oci_image, entry, folder, tar_of
from vdc.confinement.roots import cache_root

ROOT = Path(__file__).resolve().parents[1]
SUITE = "trixie"
_UNPACK = """
set -euo pipefail
. "$1/images/lib/common.sh"
. "$1/images/lib/debian.sh"
unpack_debian "$2" "$3" "$4/root" "$4/packages"
for dir in bin sbin lib lib64; do
    [[ -e $4/root/$dir ]] || ln -s "usr/$dir" "$4/root/$dir"
done
rm -rf "$4/root"/{dev,var/cache/apt,var/lib/apt,usr/share/doc,usr/share/man,usr/share/locale} \
    "$4/root"/etc/{apt,hostname,resolv.conf}
tar --sort=name --numeric-owner --mtime=@1700000000 -C "$4/root" -cf "$4/root.tar" .
"""
# A server whose sessions are in its memory alone: each answer follows from all that a session ever said.
_SESSIONS = """
const { createHash } = require('node:crypto');
const sessions = new Map();
const server = require('node:http').createServer((request, response) => {
  const said = [];
  request.on('data', (chunk) => said.push(chunk));
  request.on('end', () => {
    const session = sessions.get(request.url) ?? { count: 0, digest: '' };
    const digest = createHash('sha256').update(session.digest).update(Buffer.concat(said)).digest('hex');
    sessions.set(request.url, { count: session.count + 1, digest });
    response.end(JSON.stringify({ ...sessions.get(request.url), pid: process.pid, up: process.uptime() }));
  });
});
server.keepAliveTimeout = 300_000;
server.listen(8080);
"""
DOWNLOAD_BYTES = 24 * 1024**2


@dataclass(frozen=True)
class Program:
    """`accounts`: users that the packages' scripts would have made, all with a group of their own number;
    `noise`: files of so many bytes that cannot be compressed (`noise_of`)."""

    packages: tuple[str, ...]
    config: Mapping[str, Any]
    accounts: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)  # and whose they are
    noise: Mapping[str, int] = field(default_factory=dict)


PROGRAMS = {
    "redis": Program(
        ("redis-server", "redis-tools", "dash", "coreutils"),
        {
            "Entrypoint": ["redis-server"],
            "Cmd": ["--bind", "0.0.0.0", "--protected-mode", "no", "--appendonly", "yes", "--appendfsync", "always",
                    "--dir", "/data"],
            "User": "redis", "WorkingDir": "/data", "ExposedPorts": {"6379/tcp": {}}, "Volumes": {"/data": {}},
        },
        accounts={"redis": 999},
        folders={"data": "redis"},
    ),
    "nginx": Program(
        ("nginx", "dash", "coreutils"),
        {
            "Cmd": ["nginx", "-g", "daemon off;"], "StopSignal": "SIGQUIT", "ExposedPorts": {"80/tcp": {}},
        },
        accounts={"www-data": 33},
        files={
            "etc/nginx/conf.d/default.conf": "server { listen 80; root /var/www/html; "
            "keepalive_requests 1000000; keepalive_timeout 300; send_timeout 300; }\n",
            "var/www/html/index.html": "served by nginx\n",
        },
        folders={"var/lib/nginx": "www-data", "var/log/nginx": "www-data"},
        noise={"var/www/html/download": DOWNLOAD_BYTES},
    ),
    "postgresql": Program(
        ("postgresql-17", "dash", "coreutils", "sed", "grep", "libc-bin"),
        {
            "Entrypoint": ["/usr/local/bin/start"], "User": "postgres", "StopSignal": "SIGINT",
            "Env": ["PATH=/usr/lib/postgresql/17/bin:/usr/bin:/bin", "PGDATA=/var/lib/postgresql/data", "LANG=C"],
            "ExposedPorts": {"5432/tcp": {}},
        },
        accounts={"postgres": 999},
        files={
            "usr/local/bin/start": "#!/bin/sh\nset -e\n"
            "[ -s $PGDATA/PG_VERSION ] || initdb --auth=trust --no-sync --set shared_buffers=32MB\n"
            "echo 'host all all all trust' >>$PGDATA/pg_hba.conf\nexec postgres -c listen_addresses='*'\n",
        },
        folders={"var/lib/postgresql": "postgres", "var/run/postgresql": "postgres"},
    ),
    "node": Program(
        ("nodejs",),
        {
            # Code that a program compiles as it runs is what an emulated secondary may have stale translations of:
            # with the compiler on, it died of SIGSEGV now and then in the first seconds (docs/failover.md).
            "Entrypoint": ["node", "--jitless"], "Cmd": ["/srv/server.js"], "User": "nobody", "WorkingDir": "/srv",
            "ExposedPorts": {"8080/tcp": {}},
        },
        files={"srv/server.js": _SESSIONS},
    ),
}  # fmt: skip


def missing() -> str:
    """Why none can be made here; empty when they can."""
    if os.geteuid() != 0:
        return "needs root (mmdebstrap)"
    return "" if shutil.which("mmdebstrap") else "needs mmdebstrap (make setup)"


def noise_of(path: str, size: int) -> bytes:
    """The content of such a file."""
    return random.Random(path).randbytes(size)


def program_image(name: str) -> Path:
    """The image layout of a program; takes a minute the first time."""
    program = PROGRAMS[name]
    return _made(name, "image", lambda work: _build(program, work))


def program_root(name: str) -> Path:
    """The folder with the program's packages, as its image has them."""
    layout = program_image(name)
    return _made(name, "root", lambda work: _unpack(layout, work))


def _made(name: str, what: str, make: Callable[[Path], Path]) -> Path:
    texts = (_UNPACK, SUITE, repr(PROGRAMS[name]), (ROOT / "images/lib/debian.sh").read_text())
    version = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
    target = cache_root() / "test-images" / f"{name}-{version}" / what
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as work:
                make(Path(work)).rename(target)
    return target


def layers_of(name: str) -> list[bytes]:
    """The layers of its image, as tar archives."""
    return [gzip.decompress(path.read_bytes()) for path in _layers(program_image(name))]


def _unpack(layout: Path, work: Path) -> Path:
    (work / "root").mkdir()
    for layer in _layers(layout):
        subprocess.run(["tar", "-xzf", str(layer), "-C", str(work / "root")], check=True, timeout=300)
    return work / "root"


def _layers(layout: Path) -> list[Path]:
    (described,) = json.loads((layout / "index.json").read_text())["manifests"]
    layers = json.loads(_blob(layout, described["digest"]).read_text())["layers"]
    return [_blob(layout, layer["digest"]) for layer in layers]


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs/sha256" / digest.removeprefix("sha256:")


def _build(program: Program, work: Path) -> Path:
    command = ["bash", "-c", _UNPACK, "unpack", str(ROOT), SUITE, ",".join(program.packages), str(work)]
    done = subprocess.run(command, capture_output=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return build_oci_image([work / "root.tar", _own_layer(program)], work / "image", config=program.config)


def _own_layer(program: Program) -> bytes:
    accounts = {"root": 0, **program.accounts, "nobody": 65534}
    users = "".join(f"{name}:x:{number}:{number}::/:/bin/sh\n" for name, number in accounts.items())
    groups = "".join(f"{name}:x:{number}:\n" for name, number in accounts.items())
    entries = [
        folder("etc"), entry("etc/passwd", users.encode()), entry("etc/group", groups.encode()),
        entry("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n"),
    ]  # fmt: skip
    for path, owner in program.folders.items():
        entries.append(folder(path, uid=accounts[owner], gid=accounts[owner]))
    for path, text in program.files.items():
        entries.append(entry(path, text.encode(), mode=0o755 if "/bin/" in path else 0o644))
    entries += [entry(path, noise_of(path, size)) for path, size in program.noise.items()]
    return tar_of(*entries)
