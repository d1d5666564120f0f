"""`vdc` as a user has it: the installed program in a process of its own, without a terminal."""

from __future__ import annotations

import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CLI_S = 150.0
ANSWER_S = 30.0  # that a guest has to answer at its console


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def error_line(self) -> str:
        """The one line that says what is wrong; fails where it is not one."""
        lines = [line for line in self.stderr.splitlines() if not line.startswith("hint: ")]
        assert len(lines) == 1, f"not one line: {self.stderr!r}"
        return lines[0]

    @property
    def hint(self) -> str:
        """What it advises."""
        found = (line for line in self.stderr.splitlines() if line.startswith("hint: "))
        return next(found, "").removeprefix("hint: ")


def run_cli(
    *arguments: str,
    environment: Mapping[str, str],
    stdin: str = "",
    wrapper: Sequence[str] = (),
    timeout_s: float = CLI_S,
) -> Done:
    """Run `vdc` to its end, without a terminal."""
    program = Path(sys.executable).parent / "vdc"
    done = subprocess.run(
        [*wrapper, str(program), *arguments],
        input=stdin, capture_output=True, text=True, timeout=timeout_s, env=dict(environment), check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def type_at_console(name: str, keys: str, until: str, *, environment: Mapping[str, str]) -> str:
    """Type at a guest's console and return what it shows; leaves when `until` is the start of a line of it."""
    program = Path(sys.executable).parent / "vdc"
    with subprocess.Popen(
        [str(program), "console", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(environment)
    ) as console:
        assert console.stdin is not None and console.stdout is not None
        console.stdin.write(keys.encode())
        console.stdin.flush()
        shown, end = b"", time.monotonic() + ANSWER_S
        with selectors.DefaultSelector() as selector:
            selector.register(console.stdout, selectors.EVENT_READ)
            while f"\n{until}".encode() not in shown and selector.select(max(0.0, end - time.monotonic())):
                chunk = console.stdout.read1()  # type: ignore[attr-defined]
                shown += chunk
                if not chunk:
                    break
        console.stdin.close()
        shown += console.stdout.read()
    assert console.returncode == 0, f"vdc console {name}: exit code {console.returncode}"
    return shown.decode(errors="replace")
