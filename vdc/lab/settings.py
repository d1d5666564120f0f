"""Where a lab keeps its files and what it starts on each host."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from vdc.confinement.roots import cache_root, folder_from_environment
from vdc.model.errors import RefusedError
from vdc.model.units import GIB, MIB

DEFAULT_STATE_DIR = "/var/lib/vdc"
_LEAST_HOST_MEMORY = 512 * MIB
_MACHINE_RESERVE = 2 * GIB


@dataclass(frozen=True, slots=True)
class Settings:
    """The folders, the agent's command (the configuration file's path is appended) and the deadlines."""

    state_root: Path
    cache_root: Path
    agent_command: tuple[str, ...]
    agent_deadline_s: float = 20.0  # until an agent's API answers
    cluster_deadline_s: float = 30.0  # until the cluster has a leader and every agent sees its store
    lock_deadline_s: float = 90.0
    kill_deadline_s: float = 15.0

    @classmethod
    def from_environment(cls) -> Settings:
        """`VDC_STATE_DIR`, `VDC_CACHE_DIR`, and the agent beside this interpreter."""
        agent = Path(sys.executable).parent / "hostagent"
        return cls(
            state_root=folder_from_environment("VDC_STATE_DIR", DEFAULT_STATE_DIR),
            cache_root=cache_root(),
            agent_command=(str(agent), "run", "--config"),
        )

    def runtime(self) -> Path:
        """The QEMU runtime root; `RefusedError` (`runtime-missing`) where it was not built."""
        link = self.cache_root / "runtime" / "current"
        if not link.is_dir():
            raise RefusedError(
                f"there is no QEMU runtime in {link.parent}", hint="run: make setup", code="runtime-missing"
            )
        return link.resolve()

    def check_agent(self) -> None:
        """`RefusedError` (`agent-missing`) where the agent's program is not installed."""
        program = Path(self.agent_command[0])
        if not os.access(program, os.X_OK):
            raise RefusedError(
                f"the agent {program} is not installed", hint="run: make setup", code="agent-missing"
            )


def check_root() -> None:
    """`RefusedError` (`needs-root`) for everybody else."""
    if os.geteuid() != 0:
        raise RefusedError("a lab needs root", hint="run it again with sudo", code="needs-root")


def memory_per_host(hosts: int) -> int:
    """Bytes that each host may give to guests: the machine's memory less a reserve, in equal shares."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    share = (total - _MACHINE_RESERVE) // hosts
    return max(share // (64 * MIB) * 64 * MIB, _LEAST_HOST_MEMORY)
