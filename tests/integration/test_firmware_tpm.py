"""A real QEMU with UEFI, a TPM and a screen; no guest system is needed for what is shown here."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hostagent.drivers.firmware import find_firmware, prepare_vars
from hostagent.drivers.process import ProcessHandle, spawn_in_sandbox
from hostagent.drivers.process.users import own_by
from hostagent.drivers.qemu import argv
from hostagent.drivers.qemu.qmp import QmpSession
from hostagent.drivers.qemu.sandbox import sandboxed
from hostagent.drivers.qemu.spec import QMP_SOCKET, TPM_SOCKET, VNC_SOCKET, DiskBoot, MachineSpec
from hostagent.drivers.tpm import TpmError, adopt_tpm, start_tpm
from hostagent.supervisor.confinement import guest_user
from vdc.model.errors import UnavailableError
from vdc.model.manifest import Display, Firmware
from vdc.model.units import MIB

RUNTIME = Path(os.environ.get("VDC_CACHE_DIR", "/var/cache/vdc")) / "runtime" / "current"
GUEST_UID = 1_900_100_000
SPEC = MachineSpec(
    name="desktop",
    uid="6d2f8f0e-4f43-4f6e-9d3e-0a4f5d7c1b2a",
    cpus=1,
    memory_bytes=256 * MIB,
    boot=DiskBoot(),
    firmware=Firmware.UEFI,
    tpm=True,
    display=Display.VNC,
)


def missing() -> str:
    if os.geteuid() != 0:
        return "needs root"
    if not (RUNTIME / "manifest.json").exists():
        return f"needs {RUNTIME} (make setup)"
    return "" if shutil.which("bwrap") else "needs bwrap"


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@dataclass
class Machine:
    """A running QEMU, its TPM and a session with it."""

    qemu: ProcessHandle
    tpm: ProcessHandle | None
    session: QmpSession


StartMachine = Callable[..., Awaitable[Machine]]


@pytest.fixture
async def vm_dir() -> AsyncIterator[Path]:
    """A guest's folder in its VM's, with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="vdc-") as folder:
        yield own_by(Path(folder) / "guest", GUEST_UID)


@pytest.fixture
async def start(vm_dir: Path) -> AsyncIterator[StartMachine]:
    machines: list[Machine] = []

    async def start_machine(spec: MachineSpec, vm_dir: Path = vm_dir) -> Machine:
        files = find_firmware(spec.firmware, RUNTIME.resolve())
        prepare_vars(files.vars_template, vm_dir)
        assert files.code in " ".join(argv.primary_argv(spec, [])) or files.requires_smm
        tpm = await start_tpm(vm_dir.parent, vm_dir, runtime_root=RUNTIME.resolve()) if spec.tpm else None
        command = sandboxed(
            argv.primary_argv(spec, []),
            guest_user(vm_dir),
            runtime_root=RUNTIME.resolve(),
            vm_dir=vm_dir,
            image_dir=vm_dir,
            devices=(),
        )
        qemu = await spawn_in_sandbox(
            command, pidfile=vm_dir.parent / "qemu.pid", log_path=vm_dir.parent / "qemu.log"
        )
        try:
            session = await connected(qemu, vm_dir)
        except BaseException:
            await qemu.terminate(0)
            raise
        machines.append(Machine(qemu, tpm, session))
        return machines[-1]

    yield start_machine
    for machine in machines:
        await machine.session.close()
        await machine.qemu.terminate(0)
        if machine.tpm is not None:
            await machine.tpm.terminate(1)


async def connected(qemu: ProcessHandle, vm_dir: Path) -> QmpSession:
    async with asyncio.timeout(30):
        while not (vm_dir / QMP_SOCKET).is_socket():
            assert qemu.is_alive(), (vm_dir.parent / "qemu.log").read_text()
            await asyncio.sleep(0.02)
    return await QmpSession.connect(vm_dir / QMP_SOCKET, name="desktop", is_starting=True)


async def variables_written(vm_dir: Path, template: bytes) -> None:
    """Until the firmware has written to its variables: it runs, and both flash files fit each other."""
    async with asyncio.timeout(60):
        while (vm_dir / "vars.fd").read_bytes() == template:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("firmware", [Firmware.UEFI, Firmware.UEFI_SECURE])
async def test_a_machine_with_firmware_tpm_and_screen_runs(
    start: StartMachine, vm_dir: Path, firmware: Firmware
) -> None:
    machine = await start(replace(SPEC, firmware=firmware))
    assert (await machine.session.execute("query-status"))["status"] == "running"
    (tpm,) = await machine.session.execute("query-tpm")
    assert (tpm["model"], tpm["options"]["type"]) == ("tpm-crb", "emulator")
    assert await vnc_banner(vm_dir) == b"RFB 003.008\n"
    await variables_written(vm_dir, find_firmware(firmware, RUNTIME).vars_template.read_bytes())
    assert machine.tpm is not None
    assert machine.tpm.is_alive()
    assert (await machine.session.execute("query-status"))["status"] == "running"


async def vnc_banner(vm_dir: Path) -> bytes:
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_unix_connection(str(vm_dir / VNC_SOCKET))
        try:
            return await reader.readexactly(12)
        finally:
            writer.close()


async def test_the_firmware_uses_the_tpm(start: StartMachine, vm_dir: Path) -> None:
    """UEFI sets the TPM up when it first meets it, which changes the TPM's permanent memory."""
    machine = await start(SPEC)
    fresh = (vm_dir.parent / "tpm/tpm2-00.permall").read_bytes()
    await variables_written(vm_dir, find_firmware(Firmware.UEFI, RUNTIME).vars_template.read_bytes())
    async with asyncio.timeout(30):
        while (vm_dir.parent / "tpm/tpm2-00.permall").read_bytes() == fresh:
            await asyncio.sleep(0.1)
    assert machine.qemu.is_alive()


async def test_a_migration_carries_the_tpm_over(start: StartMachine, vm_dir: Path) -> None:
    """Each TPM is born with secrets of its own; afterwards the second one has the first one's."""
    target_dir = vm_dir / "target"
    own_by(target_dir, GUEST_UID)
    source = await start(SPEC)
    await variables_written(vm_dir, find_firmware(Firmware.UEFI, RUNTIME).vars_template.read_bytes())
    target = await start(replace(SPEC, extra=("-incoming", "defer")), target_dir)
    states = [folder.parent / "tpm/tpm2-00.permall" for folder in (vm_dir, target_dir)]
    assert states[0].read_bytes() != states[1].read_bytes()
    await target.session.execute("migrate-incoming", {"uri": "unix:/vm/migration.sock"})
    await source.session.execute("migrate", {"uri": "unix:/vm/target/migration.sock"})
    await status_is(target.session, "running", 60)
    assert states[0].read_bytes() == states[1].read_bytes()
    assert source.tpm is not None and target.tpm is not None
    assert source.tpm.is_alive() and target.tpm.is_alive()


async def status_is(session: QmpSession, status: str, deadline_s: float) -> None:
    async with asyncio.timeout(deadline_s):
        while (await session.execute("query-status"))["status"] != status:
            await asyncio.sleep(0.1)


async def test_the_tpm_ends_with_its_qemu_and_leaves_no_pidfile(start: StartMachine, vm_dir: Path) -> None:
    machine = await start(SPEC)
    assert machine.tpm is not None
    machine.qemu.kill()
    async with asyncio.timeout(30):
        await machine.tpm.wait_gone()
    assert not (vm_dir.parent / "swtpm.pid").exists()
    assert (vm_dir.parent / "tpm/tpm2-00.permall").exists(), "the TPM's memory outlives a power cut"


async def test_a_tpm_is_found_again_and_survives_a_connection_to_its_socket(vm_dir: Path) -> None:
    handle = await start_tpm(vm_dir.parent, vm_dir, runtime_root=RUNTIME.resolve())
    try:
        _, writer = await asyncio.open_unix_connection(str(vm_dir / TPM_SOCKET))
        writer.close()
        await writer.wait_closed()
        handle.close()
        again = await adopt_tpm(vm_dir.parent)
        assert again is not None
        assert again.identity == handle.identity
        assert again.is_alive()
    finally:
        handle.close()
        again = await adopt_tpm(vm_dir.parent)
        if again is not None:
            await again.terminate(1)
    assert await adopt_tpm(vm_dir.parent) is None


async def test_a_socket_left_by_a_killed_tpm_is_not_taken_for_a_living_one(vm_dir: Path) -> None:
    first = await start_tpm(vm_dir.parent, vm_dir, runtime_root=RUNTIME.resolve())
    await first.terminate(0)
    assert (vm_dir / TPM_SOCKET).is_socket()
    state = vm_dir.parent / "tpm/tpm2-00.permall"
    state.touch()  # it was killed before it made one
    state.chmod(0)  # the next one ends over it
    with pytest.raises(TpmError, match="swtpm did not start"):
        async with asyncio.timeout(4):  # it is not waited for until the deadline
            await start_tpm(vm_dir.parent, vm_dir, runtime_root=RUNTIME.resolve())
    assert not (vm_dir.parent / "swtpm.pid").exists()


async def test_a_state_folder_that_is_none_is_an_error(vm_dir: Path) -> None:
    (vm_dir.parent / "tpm").write_text("a file where the folder should be")
    with pytest.raises(TpmError, match="folder cannot be made"):
        await start_tpm(vm_dir.parent, vm_dir, runtime_root=RUNTIME.resolve())
    assert not (vm_dir.parent / "swtpm.pid").exists()


async def test_a_runtime_without_swtpm_is_an_error_and_leaves_nothing(vm_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        await start_tpm(vm_dir.parent, vm_dir, runtime_root=tmp_path)
    assert not (vm_dir.parent / "swtpm.pid").exists()
    assert not (vm_dir / TPM_SOCKET).exists()
