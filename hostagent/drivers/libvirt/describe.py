"""This host as its agent publishes it: libvirt's view, or the kernel's alone where there is no libvirt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from hostagent.config import AgentConfig
from hostagent.drivers.host.inventory import read_inventory
from hostagent.drivers.libvirt.client import LibvirtError, LibvirtInventory
from vdc.model.base import Record
from vdc.model.errors import RefusedError
from vdc.model.host import Host
from vdc.model.units import MIB

TCG_CPU = "qemu64"
_RESERVE_BYTES = 512 * MIB  # of the host itself, the agent and etcd
_RESERVE_SHARE = 20  # and one part in so many, for QEMU's own memory and the page cache


class HostInventory(Record):
    """What goes into `vdc.model.host.Host`; `source` is `libvirt` or `plain`."""

    cpus: int
    memory_bytes: int
    cpu_model: str
    cpu_models: tuple[str, ...] = ()
    cpu_xml: str = ""
    source: Literal["libvirt", "plain"] = "plain"
    warnings: tuple[str, ...] = ()


class CpuChoice(Record):
    """What QEMU's `-cpu` is given on every host of a pair, and what was given up for it."""

    qemu_cpu: str
    warnings: tuple[str, ...] = ()


async def describe_host(
    config: AgentConfig, *, cache_dir: Path, accelerator: str = "tcg", driver: LibvirtInventory | None = None
) -> HostInventory:
    """Describe this host; a few ms where this boot's answer is in `cache_dir`, else about 0.7 s.

    `accelerator` is the verdict of the KVM probe, `tcg` or `kvm`. Never fails for want of libvirt: the
    inventory is then plain and says so in a warning.
    """
    plain = await asyncio.to_thread(read_inventory)
    inventory = HostInventory(
        cpus=plain.cpus,
        memory_bytes=config.memory or memory_for_guests(plain.memory_bytes),
        cpu_model=plain.cpu.model_name or plain.architecture,
        warnings=plain.warnings,
    )
    if not config.use_libvirt:
        return inventory
    driver = driver or LibvirtInventory(runtime=config.runtime, accelerator=accelerator, cache_dir=cache_dir)
    try:
        answer = await driver.describe()
    except LibvirtError as error:
        sentence = f"the inventory is a plain one, and CPU baselines are not possible: {error}"
        return inventory.with_(warnings=(*inventory.warnings, sentence))
    return inventory.with_(
        cpu_models=answer.models,
        cpu_xml=answer.cpu_xml,
        source="libvirt",
        warnings=(*inventory.warnings, *answer.notes),
    )


def memory_for_guests(total_bytes: int) -> int:
    """What Endophytes may use of a host's memory; at least half of it, on hosts that are tiny."""
    return max(total_bytes - _RESERVE_BYTES - total_bytes // _RESERVE_SHARE, total_bytes // 2)


async def choose_cpu(hosts: Sequence[Host], driver: LibvirtInventory) -> CpuChoice:
    """The CPU that guests get which may run on any of these hosts, and may be moved among them in lockstep.

    A guest keeps its CPU until it is power-cycled, so name every host it may ever be protected on, not the
    first two. Under TCG the answer is constant. Under KVM it is libvirt's baseline; where a host has no
    description, or libvirt does not answer, it is QEMU's smallest 64-bit model, with a warning.
    Raises RefusedError where the hosts differ in their accelerator, or have no common CPU.
    """
    accelerators = {host.accelerator.name for host in hosts}
    if len(accelerators) > 1:
        names = ", ".join(f"{host.name}: {host.accelerator.name}" for host in hosts)
        raise RefusedError(
            f"hosts with and without KVM cannot form a pair ({names})", code="accelerators-differ"
        )
    if accelerators != {"kvm"}:
        return CpuChoice(qemu_cpu=TCG_CPU)
    unknown = [host.name for host in hosts if not host.cpu_xml]
    if unknown:
        return _smallest(f"libvirt did not describe the CPU of {', '.join(unknown)}")
    try:
        return CpuChoice(qemu_cpu=(await driver.baseline([host.cpu_xml for host in hosts])).qemu_cpu)
    except LibvirtError as error:
        return _smallest(str(error))


def _smallest(reason: str) -> CpuChoice:
    return CpuChoice(qemu_cpu=TCG_CPU, warnings=(f"guests get the smallest CPU model: {reason}",))
