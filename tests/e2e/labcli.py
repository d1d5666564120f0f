"""`vdc` as a user has it: the installed program in a process of its own, without a terminal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CLI_S = 150.0


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
