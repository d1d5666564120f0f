"""Real programs of Debian as container images, as somebody would publish them: unpacked packages and a configuration.

    layout = program_image("redis")        # an OCI image layout, under the tag "latest"

The packages come from this machine's own mirror (images/lib/debian.sh); no package script runs. What is made is kept in
`$VDC_CACHE_DIR/test-images`, named by everything that it is made of but the packages' versions.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
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


@dataclass(frozen=True)
class Program:
    """`accounts`: users that the packages' scripts would have made, all with a group of their own number."""

    packages: tuple[str, ...]
    config: Mapping[str, Any]
    accounts: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)  # and whose they are


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
            "etc/nginx/conf.d/default.conf": "server { listen 80; root /var/www/html; }\n",
            "var/www/html/index.html": "served by nginx\n",
        },
        folders={"var/lib/nginx": "www-data", "var/log/nginx": "www-data"},
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
            "usr/local/bin/start": "#!/bin/sh\nset -e\n[ -s $PGDATA/PG_VERSION ] || initdb --auth=trust\n"
            "echo 'host all all all trust' >>$PGDATA/pg_hba.conf\nexec postgres -c listen_addresses='*'\n",
        },
        folders={"var/lib/postgresql": "postgres", "var/run/postgresql": "postgres"},
    ),
}  # fmt: skip


def missing() -> str:
    """Why none can be made here; empty when they can."""
    if os.geteuid() != 0:
        return "needs root (mmdebstrap)"
    return "" if shutil.which("mmdebstrap") else "needs mmdebstrap (make setup)"


def program_image(name: str) -> Path:
    """The image layout of a program; takes some ten seconds the first time."""
    program = PROGRAMS[name]
    texts = (_UNPACK, SUITE, repr(program), (ROOT / "images/lib/debian.sh").read_text())
    version = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
    target = cache_root() / "test-images" / f"{name}-{version}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as work:
                _build(program, Path(work)).rename(target)
    return target


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
    return tar_of(*entries)
