"""What the kernel shows of VMs on a host: the guests' ports, and whose QEMU a process is."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from vdc.lab import kernel
from vdc.lab.network import netlink
from vdc.lab.plan import HostPlan
from vdc.lab.processes import Process

TAP_ALIAS = "vdc:port:"


@dataclass(frozen=True)
class Tap:
    """A guest's port on a host."""

    name: str
    uid: str
    is_live: bool  # plugged into the overlay's bridge


def taps_of(host: HostPlan) -> list[Tap]:
    """The guests' ports on a host."""

    def read() -> list[Tap]:
        with netlink() as ip:
            found = []
            for link in ip.get_links():
                alias = link.get_attr("IFLA_IFALIAS") or ""
                if alias.startswith(TAP_ALIAS):
                    uid = alias.removeprefix(TAP_ALIAS).split(":")[1]
                    found.append(
                        Tap(link.get_attr("IFLA_IFNAME"), uid, link.get_attr("IFLA_MASTER") is not None)
                    )
            return found

    return kernel.in_namespace(host.namespace, read)


def vm_of(process: Process) -> str:
    """The VM that a QEMU runs."""
    words = process.command
    for word, value in itertools.pairwise(words):
        if word == "-name":
            return value.split(",")[0].removeprefix("guest=")
    return "?"
