"""Parsers of the kernel's texts. Pure; a missing field gives an empty value, never an error.

Containers and other architectures leave fields out of /proc/cpuinfo, and an inventory that lacks a
name is of more use than none.
"""

from __future__ import annotations

from dataclasses import dataclass

_KIB = 1024


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """The first processor of /proc/cpuinfo; hosts with unlike sockets do not exist among x86 servers."""

    vendor: str = ""
    model_name: str = ""
    flags: frozenset[str] = frozenset()


def parse_cpuinfo(text: str) -> CpuInfo:
    """Read vendor, model name and flags of the first processor that /proc/cpuinfo lists."""
    fields: dict[str, str] = {}
    for line in text.strip().split("\n\n")[0].splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    return CpuInfo(
        vendor=fields.get("vendor_id", ""),
        model_name=fields.get("model name", ""),
        flags=frozenset(fields.get("flags", "").split()),
    )


def parse_meminfo_total(text: str) -> int:
    """Total memory in bytes from /proc/meminfo (its `kB` are KiB); 0 where the field is missing."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            number = value.split()[0] if value.split() else ""
            return int(number) * _KIB if number.isdecimal() else 0
    return 0


def parse_memory_limit(text: str) -> int | None:
    """A cgroup's memory.max in bytes; None where there is no limit (`max`) or no number."""
    text = text.strip()
    return int(text) if text.isdecimal() else None
