"""An SSH server on one host of the lab, to copy files to with scp: the machine's own, or one out of its package.

The package is only unpacked: nothing is installed or started on the machine itself.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.world import LAB, BenchError
from vdc.lab import api as lab_api

PORT = 10_322
_PACKAGES = ("openssh-server", "openssh-sftp-server", "libwrap0")
_USER = "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
_START = 'mkdir -p /run/sshd && mount --bind "$1/passwd" /etc/passwd && exec "$2" -D -f "$1/config"'
_FETCH_S, _START_S, _COPY_S = 120.0, 20.0, 300.0


@dataclass(frozen=True)
class Server:
    """Where files are copied to, and with what."""

    sender: str  # the host that copies
    address: str
    folder: Path

    def copy(self, source: Path, target: Path) -> float:
        """Seconds that scp took, with its handshake."""
        words = [
            "scp", "-q", "-P", str(PORT), "-i", str(self.folder / "user"), "-o", "StrictHostKeyChecking=no",
            "-o", "UserKnownHostsFile=/dev/null", str(source), f"root@{self.address}:{target}",
        ]  # fmt: skip
        began = time.monotonic()
        done = subprocess.run(
            lab_api.exec_argv(LAB, self.sender, words), capture_output=True, timeout=_COPY_S, check=False
        )
        if done.returncode:
            raise BenchError(f"scp: {done.stderr.decode(errors='replace').strip()[-200:]}")
        return time.monotonic() - began


@asynccontextmanager
async def serving(sender: str, receiver: str, address: str, folder: Path) -> AsyncIterator[Server]:
    """Raises BenchError where there is no server and none can be had."""
    root = await asyncio.to_thread(_unpacked, folder)
    _configure(folder, root, address)
    # The server wants a user of its own, which only it sees.
    words = ["unshare", "--mount", "sh", "-c", _START, "sh", str(folder), str(root / "usr/sbin/sshd")]
    argv = lab_api.exec_argv(LAB, receiver, words)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(root / "usr/lib/x86_64-linux-gnu")}
    process = await asyncio.create_subprocess_exec(*argv, env=environment, stderr=asyncio.subprocess.DEVNULL)
    try:
        server = Server(sender, address, folder)
        (folder / "empty").touch()
        await _until_it_serves(server)
        yield server
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_it_serves(server: Server) -> None:
    end = time.monotonic() + _START_S
    while True:
        try:
            await asyncio.to_thread(server.copy, server.folder / "empty", server.folder / "copied")
            return
        except BenchError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.2)


def _unpacked(folder: Path) -> Path:
    if Path("/usr/sbin/sshd").is_file():
        return Path("/")
    root = folder / "root"
    root.mkdir()
    _run(["apt-get", "-q", "download", *_PACKAGES], folder)
    for package in folder.glob("*.deb"):
        _run(["dpkg", "-x", str(package), str(root)], folder)
    return root


def _configure(folder: Path, root: Path, address: str) -> None:
    for name in ("host", "user"):
        _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], folder)
    shutil.copy(folder / "user.pub", folder / "authorized")
    users = Path("/etc/passwd").read_text()
    (folder / "passwd").write_text(users if "\nsshd:" in users else users + _USER)
    (folder / "config").write_text(
        f"Port {PORT}\nListenAddress {address}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        "StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin prohibit-password\n"
        f"Subsystem sftp {root}/usr/lib/openssh/sftp-server\n"
    )


def _run(argv: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(argv, cwd=folder, capture_output=True, timeout=_FETCH_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{argv[0]}: {error}") from error
    if done.returncode:
        raise BenchError(f"{argv[0]}: {done.stderr.decode(errors='replace').strip()[-200:]}")
