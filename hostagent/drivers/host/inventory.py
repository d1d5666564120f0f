"""What this host is, in the kernel's own words. Needs no library and no privilege; asks no daemon.

`memory_bytes` and `cpus` are what this process may use (cgroup limit, CPU affinity), not what the
machine has: an agent in a container must not promise the whole machine.
"""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from hostagent.drivers.host.features import Feature, probe_features
from hostagent.drivers.host.parse import CpuInfo, parse_cpuinfo, parse_meminfo_total, parse_memory_limit

_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 512  # struct timex is 208 bytes; a larger zeroed buffer is a read request


@dataclass(frozen=True, slots=True)
class Clock:
    """The kernel's clock. No decision about a pair depends on it; certificates and logs do."""

    source: str = ""
    is_synchronised: bool | None = None  # None: the kernel does not say


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything found; `features` is empty where it was not asked for."""

    cpus: int
    memory_bytes: int
    kernel: str
    architecture: str
    boot_id: str
    cpu: CpuInfo
    has_kvm_device: bool  # says nothing about whether KVM can run a guest
    has_tun_device: bool
    clock: Clock
    features: tuple[Feature, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each feature that guests' networks need and this host has not."""
        return tuple(
            f"{feature.name} is not available: {feature.reason}"
            for feature in self.features
            if not feature.is_available
        )


def read_inventory(root: Path = Path("/"), *, with_features: bool = True) -> Inventory:
    """Read the inventory; blocks for some 10 ms with features, 1 ms without.

    `root` is where proc, sys and dev are looked for. Raises OSError only where /proc itself cannot be read.
    """
    proc = root / "proc"
    return Inventory(
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=_memory(root),
        kernel=platform.release(),
        architecture=platform.machine(),
        boot_id=(proc / "sys/kernel/random/boot_id").read_text().strip(),
        cpu=parse_cpuinfo((proc / "cpuinfo").read_text()),
        has_kvm_device=_can_open(root / "dev/kvm"),
        has_tun_device=_can_open(root / "dev/net/tun"),
        clock=_clock(root),
        features=probe_features(tun_device=root / "dev/net/tun") if with_features else (),
    )


def _memory(root: Path) -> int:
    total = parse_meminfo_total((root / "proc/meminfo").read_text())
    limit = parse_memory_limit(_read(root / "sys/fs/cgroup/memory.max"))
    return total if limit is None else min(total, limit)


def _clock(root: Path) -> Clock:
    source = _read(root / "sys/devices/system/clocksource/clocksource0/current_clocksource").strip()
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return Clock(source=source, is_synchronised=None if state < 0 else state != _TIME_ERROR)


def _can_open(device: Path) -> bool:
    return os.access(device, os.R_OK | os.W_OK)


def _read(path: Path) -> str:
    """The file's text, or nothing where it cannot be read: containers hide much of /sys."""
    try:
        return path.read_text()
    except OSError:
        return ""
