"""Starting QEMU: what it needs around it, and the descriptors of its taps, as it has no network of its own."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from hostagent.drivers.net import close_taps, open_taps
from hostagent.drivers.process import ProcessHandle, in_thread
from hostagent.drivers.process.foreign import give_foreign
from hostagent.drivers.qemu.argv import primary_argv, secondary_argv
from hostagent.drivers.qemu.spec import CONFIG_FILE, QMP_SOCKET, SEED_FILE, MachineSpec
from hostagent.supervisor.confinement import limits_of, spawn_guest
from hostagent.supervisor.host import HostContext
from hostagent.supervisor.machine import guest_config, is_container, seed_of
from vdc.model.endophyte import CopyRole, Endophyte, MachineFacts
from vdc.model.errors import UnavailableError
from vdc.model.image import Image

GUEST_SEED_BYTES = 64


async def own_guest_folder(host: HostContext, name: str, uid: str) -> None:
    """Make the folder in which QEMU may write, where it is missing. Raises UnavailableError, RefusedError."""
    try:
        await in_thread(host.guests.own, name, uid)
    except OSError as error:
        raise UnavailableError(
            f"the folder of {name} for its QEMU cannot be made: {error.strerror}", code="state-unwritable"
        ) from error


def files_for(
    host: HostContext, endophyte: Endophyte, image: Image, facts: MachineFacts
) -> Mapping[str, bytes]:
    """What the guest is told, by the names under which QEMU finds it; the same for both copies, but for a seed of
    random numbers. Raises VdcError.
    """
    networks = host.networks
    if missing := [nic.network for nic in endophyte.nics if nic.network not in networks]:
        raise UnavailableError(f"network {missing[0]} is not known on {host.name}", code="network-not-found")
    files: dict[str, bytes] = {}
    if is_container(endophyte):
        told = guest_config(endophyte, image, networks, facts)
        seed = base64.b64encode(os.urandom(GUEST_SEED_BYTES)).decode()
        files[CONFIG_FILE] = told.with_(seed=seed).to_json().encode()
    if (disk := seed_of(endophyte, networks, facts)) is not None:
        files[SEED_FILE] = disk
    return files


async def give_files(guest: Path, files: Mapping[str, bytes]) -> None:
    """Put them where QEMU finds them. Raises UnavailableError."""
    try:
        for name, content in files.items():
            await in_thread(give_foreign, guest / name, content)
    except OSError as error:
        raise UnavailableError(
            f"what the guest is told cannot be written to {guest}: {error.strerror}", code="state-unwritable"
        ) from error


async def take_config(guest: Path) -> None:
    """QEMU has read what a container's guest is told, which may hold secrets: they stay on no disk."""
    with suppress(OSError):
        await in_thread(lambda: (guest / CONFIG_FILE).unlink(missing_ok=True))


async def join_group(host: HostContext, endophyte: Endophyte, role: CopyRole) -> Callable[[int], None]:
    """Make the guest's control group, or set its limits anew; returns what puts a process into it."""

    def report(why: str) -> None:
        host.log.warning("a guest runs without limits", endophyte=endophyte.name, why=why)

    limits = limits_of(endophyte, role, host.record.accelerator.name)
    if complaint := await in_thread(host.groups.create, endophyte.name, limits):
        report(complaint)
    return host.groups.joiner(endophyte.name, report)


async def launch(
    host: HostContext,
    folder: Path,
    guest: Path,
    spec: MachineSpec,
    role: CopyRole,
    *,
    join: Callable[[int], None],
) -> ProcessHandle:
    """Start it; the taps exist and nobody has them open. Raises VdcError, and then nothing runs."""
    try:
        (guest / QMP_SOCKET).unlink(missing_ok=True)  # of an earlier process: it looks like a served one
    except OSError as error:  # its user can put anything there
        raise UnavailableError(f"{guest / QMP_SOCKET} is in the way: {error.strerror}") from error
    taps = await in_thread(open_taps, [nic.ifname for nic in spec.nics])
    try:
        descriptors = [tap.fileno() for tap in taps]
        argv = (primary_argv if role is CopyRole.PRIMARY else secondary_argv)(spec, descriptors)
        return await spawn_guest(
            argv, folder, guest, runtime_root=host.config.runtime, image_dir=host.image_dir,
            accelerator=spec.accelerator, tag=spec.uid, join=join, pass_fds=descriptors,
        )  # fmt: skip
    finally:
        close_taps(taps)
