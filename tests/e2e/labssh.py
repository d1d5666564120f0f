"""A person at the other end of an SSH session: OpenSSH's client in the lab's client namespace, typed into."""

from __future__ import annotations

import itertools
import selectors
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testlab import Lab


def make_key(folder: Path) -> Path:
    """A new key pair; returns the private half, the public one is beside it."""
    key = folder / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(key)], check=True)
    return key


class SshSession:
    """An interactive one, with a terminal."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process = process
        self._input, self._output = process.stdin, process.stdout
        self._numbers = itertools.count(1)
        self._shown = b""

    @property
    def is_alive(self) -> bool:
        """Whether the client has not given up."""
        return self._process.poll() is None

    def type(self, deadline_s: float) -> float:
        """Type a line and wait for what the guest's shell makes of it; returns seconds."""
        number, began = next(self._numbers), time.monotonic()
        self._input.write(f"echo r-$((6*7))-{number}.\n".encode())
        self._input.flush()
        self._await(f"r-42-{number}.".encode(), deadline_s)
        return time.monotonic() - began

    def ask(self, command: str, deadline_s: float = 30.0) -> str:
        """What a command prints."""
        number = next(self._numbers)
        self._input.write(f"echo b-$((6*7))-{number}; {command}; echo e-$((6*7))-{number}\n".encode())
        self._input.flush()
        shown = self._await(f"e-42-{number}".encode(), deadline_s).decode(errors="replace")
        return shown.rpartition(f"b-42-{number}")[2].replace("\r", "").strip()

    def _await(self, wanted: bytes, deadline_s: float) -> bytes:
        end = time.monotonic() + deadline_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while wanted not in self._shown:
                left_s = end - time.monotonic()
                assert left_s > 0, f"not within {deadline_s:g} s: {wanted!r} after {self._shown[-500:]!r}"
                if selector.select(left_s):
                    chunk = self._output.read1()  # type: ignore[attr-defined]
                    assert chunk, f"the session has ended: {self._shown[-500:]!r}"
                    self._shown += chunk
        before, _, self._shown = self._shown.partition(wanted)
        return before


@contextmanager
def ssh_session(lab: Lab, key: Path, login: str) -> Iterator[SshSession]:
    """Log in; the session ends with the block."""
    options = {
        "BatchMode": "yes", "IdentitiesOnly": "yes", "ConnectTimeout": "10", "TCPKeepAlive": "no",
        "StrictHostKeyChecking": "accept-new", "UserKnownHostsFile": str(key.parent / "known_hosts"),
    }  # fmt: skip
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    command = ["ssh", "-F", "/dev/null", "-tt", "-i", str(key), *words, login]
    with subprocess.Popen(
        lab.in_client(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            yield SshSession(process)
        finally:
            process.terminate()
