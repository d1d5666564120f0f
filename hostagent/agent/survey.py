"""Finding out what this host is and can do, once at the start of the agent.

What takes long (starting QEMU, asking libvirt, running a guest on KVM) is asked once per boot and kept in a
folder; agents that share it, as in a lab, wait for the first one's answer instead of asking again.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from hostagent.config import AgentConfig
from hostagent.drivers.libvirt.client import LibvirtInventory
from hostagent.drivers.libvirt.describe import describe_host
from hostagent.drivers.process import boot_id, write_atomically
from hostagent.drivers.qemu.capabilities import probe, probe_accelerator
from vdc import __version__
from vdc.model.base import Record
from vdc.model.errors import RefusedError, UnavailableError
from vdc.model.host import Accelerator, Host, QemuVersion


class _KnownQemu(Record):
    """The verdict on one QEMU, as long as the machine has not been rebooted."""

    boot_id: str
    runtime: str
    qemu: QemuVersion


async def survey(config: AgentConfig, incarnation: int, now: str) -> tuple[Host, LibvirtInventory]:
    """This host's record, and the driver that answers further questions. Missing abilities are reasons in
    the record, not errors."""
    cache = config.cache_dir / "host" if config.cache_dir else config.state_dir / "cache"
    cache.mkdir(parents=True, exist_ok=True, mode=0o750)
    async with _locked(cache / "survey.lock"):
        qemu = await _qemu(config, cache / "qemu.json")
        accelerator = await _accelerator(config, qemu, cache / "accelerator.json")
        libvirt = LibvirtInventory(
            runtime=config.runtime, accelerator=accelerator.name, cache_dir=cache, hidden=config.state_dir
        )
        inventory = await describe_host(config, cache_dir=cache, accelerator=accelerator.name, driver=libvirt)
    record = Host(
        name=config.host,
        api_url=config.api_url,
        management_address=str(config.management.address),
        replication_address=str(config.replication.address),
        overlay_address=str(config.overlay_address),
        heartbeat_port=config.heartbeat_port,
        agent_version=__version__,
        incarnation=incarnation,
        labels=config.labels,
        cpus=inventory.cpus,
        memory_bytes=inventory.memory_bytes,
        cpu_models=inventory.cpu_models,
        cpu_xml=inventory.cpu_xml,
        cpu_model=inventory.cpu_model,
        accelerator=accelerator,
        qemu=qemu,
        inventory_source=inventory.source,
        warnings=inventory.warnings,
        started_at=now,
    )
    return record, libvirt


async def _qemu(config: AgentConfig, cache_file: Path) -> QemuVersion:
    wanted = _KnownQemu(
        boot_id=boot_id(), runtime=str(config.runtime and config.runtime.resolve()), qemu=QemuVersion()
    )
    try:
        known = _KnownQemu.from_json(cache_file.read_bytes())
        if known.with_(qemu=wanted.qemu) == wanted:
            return known.qemu
    except (OSError, ValidationError):
        pass
    try:
        qemu = await probe(config.runtime, config.guest_uids.probe)
    except UnavailableError as error:
        return QemuVersion(reason=str(error))
    with suppress(OSError):  # it will be asked again
        await asyncio.to_thread(write_atomically, cache_file, wanted.with_(qemu=qemu).to_json())
    return qemu


async def _accelerator(config: AgentConfig, qemu: QemuVersion, cache_file: Path) -> Accelerator:
    if config.accelerator == "tcg":
        return Accelerator(name="tcg", reason="the configuration says so")
    if not qemu.version:
        return Accelerator(name="tcg", reason="there is no QEMU to try it with")
    found = await probe_accelerator(config.runtime, config.guest_uids.probe, cache_file=cache_file)
    if config.accelerator == "kvm" and found.name != "kvm":
        raise RefusedError(
            f"accelerator: kvm is configured, and {found.reason}",
            code="kvm-unavailable",
            hint="mend KVM on this host, or configure accelerator: auto",
        )
    return found


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    with path.open("w") as file:
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield
