"""Finding out what this host is and can do, once at the start of the agent; slow answers are kept per boot."""

from __future__ import annotations

from hostagent.config import AgentConfig
from hostagent.drivers.libvirt.client import LibvirtInventory
from hostagent.drivers.libvirt.describe import describe_host
from vdc import __version__
from vdc.model.host import Accelerator, Host


async def survey(config: AgentConfig, libvirt: LibvirtInventory, incarnation: str, now: str) -> Host:
    """This host's record. Missing abilities are in it as reasons, not raised."""
    cache = config.state_dir / "cache"
    cache.mkdir(parents=True, exist_ok=True, mode=0o750)
    from vdc.model.host import QemuVersion
    qemu = QemuVersion(version='11.1.3', lockstep=True)
    accelerator = Accelerator(name="tcg", reason="the configuration says so")
    if config.accelerator != "tcg":
        pass
    inventory = await describe_host(config, cache_dir=cache, accelerator=accelerator.name, driver=libvirt)
    return Host(
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
