"""The image debian boots: with UEFI and Secure Boot, and with a BIOS; cloud-init and the guest agent do their part.

Both machines boot side by side once and are shared by the tests; what ends one comes last.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from debian_support import BOOT_S, RUNTIME, debian_image, missing

from hostagent.drivers.firmware import find_firmware, prepare_vars
from hostagent.drivers.guest.agent import CommandResult, GuestCommand
from hostagent.drivers.guest.errors import GuestError
from hostagent.drivers.guest.qga import QemuGuestAgent
from hostagent.drivers.guest.seed import seed
from hostagent.drivers.process.foreign import give_foreign
from hostagent.drivers.process.users import own_by
from hostagent.drivers.qemu import argv
from hostagent.drivers.qemu.sandbox import sandboxed
from hostagent.drivers.qemu.spec import (
    AGENT_PORT,
    AGENT_SOCKET,
    SEED_FILE,
    SERIAL_LOG,
    DiskBoot,
    DiskSpec,
    GuestPort,
    MachineSpec,
)
from hostagent.supervisor.confinement import guest_user
from vdc.model.manifest import CloudInit, Firmware
from vdc.model.units import GIB, MIB

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

GUEST_UID = 1_900_100_007
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMg0u7Yz0XrQ3JrZyZkqkKcJ1h3G0yq2eV8yq1o9xYzA me@home"
GROWN_BYTES = 3 * GIB
SPEC = MachineSpec(
    name="deb", uid="6d2f8f0e-4f43-4f6e-9d3e-0a4f5d7c1b2a", cpus=1, memory_bytes=512 * MIB, boot=DiskBoot(),
    disks=tuple(DiskSpec(f"/vm/disk{i}.qcow2", "", "", "") for i in range(2)), firmware=Firmware.UEFI_SECURE,
    guest_ports=(GuestPort(AGENT_PORT, AGENT_SOCKET),), has_seed=True,
)  # fmt: skip
USER_DATA = "#cloud-config\nwrite_files: [{path: /srv/told, content: by cloud-init}]\n"


@dataclass
class Machine:
    """A running one."""

    folder: Path
    process: subprocess.Popen[bytes]

    def serial(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / SERIAL_LOG).read_text(errors="replace")
        return ""

    def agent(self) -> QemuGuestAgent:
        """One for each test: an event loop is not shared."""
        return QemuGuestAgent(self.folder / AGENT_SOCKET)

    async def run(self, *command: str) -> CommandResult:
        return await self.agent().execute(GuestCommand(argv=command), deadline_s=60)

    async def output(self, *command: str) -> str:
        done = await self.run(*command)
        assert done.exit_code == 0, done
        return done.stdout.decode()


@pytest.fixture(scope="module")
def image() -> Path:
    return debian_image() / "disk.qcow2"


@pytest.fixture(scope="module")
def machines(image: Path) -> Iterator[dict[str, Machine]]:
    with contextlib.ExitStack() as stack:
        made = {
            "uefi": stack.enter_context(machine(image, SPEC)),
            "bios": stack.enter_context(machine(image, replace(SPEC, firmware=Firmware.BIOS))),
        }
        for name, one in made.items():
            asyncio.run(booted(name, one))
        yield made


@contextlib.contextmanager
def machine(image: Path, spec: MachineSpec) -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="vdc-") as parent:
        folder = own_by(Path(parent) / "guest", GUEST_UID)
        if spec.firmware is not Firmware.BIOS:
            prepare_vars(find_firmware(spec.firmware, RUNTIME.resolve()).vars_template, folder)
        given = CloudInit(user="anna", ssh_authorized_keys=(KEY,), user_data=USER_DATA)
        told = seed(uid=spec.uid, hostname="deb", given=given, nics=(), domain="", nameservers=())
        give_foreign(folder / SEED_FILE, told)
        backing = f"/images/{image.name}"
        for arguments in (
            ["-F", "qcow2", "-b", backing, "/vm/disk0.qcow2", str(GROWN_BYTES)],
            ["/vm/disk1.qcow2", str(64 * MIB)],
        ):
            tool = ["qemu-img", "create", "-q", "-f", "qcow2", *arguments]
            subprocess.run(inside(tool, folder, image.parent), check=True)
        log = (folder.parent / "qemu.log").open("wb")
        with (
            log,
            subprocess.Popen(
                inside(argv.primary_argv(spec, []), folder, image.parent), stderr=log
            ) as process,
        ):
            try:
                yield Machine(folder, process)
            finally:
                end(process.pid)


def end(sandbox: int) -> None:
    """QEMU first: it outlives its sandbox."""
    children = Path(f"/proc/{sandbox}/task/{sandbox}/children")
    with contextlib.suppress(FileNotFoundError):
        for child in children.read_text().split():
            end(int(child))
    with contextlib.suppress(ProcessLookupError):
        os.kill(sandbox, signal.SIGKILL)


def inside(command: list[str], folder: Path, images: Path) -> list[str]:
    return sandboxed(
        command, guest_user(folder), runtime_root=RUNTIME.resolve(), vm_dir=folder, image_dir=images
    )


async def booted(name: str, one: Machine) -> None:
    """Until cloud-init says that it is done."""
    began = time.monotonic()
    while True:
        assert one.process.poll() is None, (one.folder.parent / "qemu.log").read_text()
        assert time.monotonic() - began < BOOT_S, one.serial()[-4000:]
        with contextlib.suppress(GuestError):
            if (await one.run("cloud-init", "status")).stdout.strip() == b"status: done":
                break
        await asyncio.sleep(1)
    print(f"{name}: booted in {time.monotonic() - began:.0f} s")


@pytest.mark.skipif(not os.environ.get("VDC_TEST_FULL"), reason="builds it twice; VDC_TEST_FULL=1")
def test_the_same_packages_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for name in ("one", "other"):  # made apart, in folders and at times of their own
        cache = tmp_path / name
        cache.mkdir()
        (cache / "runtime").symlink_to(RUNTIME.parent)
        monkeypatch.setenv("VDC_CACHE_DIR", str(cache))
        with (debian_image() / "disk.qcow2").open("rb") as disk:
            made.append(hashlib.file_digest(disk, "sha256").hexdigest())
        shutil.rmtree(cache)
    assert made[0] == made[1]


async def test_cloud_init_made_what_it_was_told(machines: dict[str, Machine]) -> None:
    one = machines["uefi"]
    assert (await one.output("hostname")).strip() == "deb"
    assert KEY in await one.output("cat", "/home/anna/.ssh/authorized_keys")
    assert "NOPASSWD" in await one.output("sh", "-c", "cat /etc/sudoers.d/*")
    assert await one.output("cat", "/srv/told") == "by cloud-init"
    assert (await one.output("cloud-id")).strip() == "nocloud"
    assert "errors: []" in await one.output("cloud-init", "status", "--long")


async def test_the_root_has_grown_with_its_disk(machines: dict[str, Machine]) -> None:
    for one in machines.values():
        size, unused = (await one.output("df", "--output=size,avail", "-B1", "/")).split()[2:]
        assert int(size) > 0.9 * GROWN_BYTES - 128 * MIB
        assert int(unused) > 2 * GIB


async def test_further_disks_come_before_the_seed(machines: dict[str, Machine]) -> None:
    listed = await machines["uefi"].output("lsblk", "-bdno", "NAME,SIZE,RO")
    disks = [line.split() for line in listed.splitlines()]
    assert disks[:2] == [["vda", str(GROWN_BYTES), "0"], ["vdb", str(64 * MIB), "0"]]
    assert (disks[2][0], disks[2][2]) == ("vdc", "1")


async def test_the_firmware_is_what_was_asked_for(machines: dict[str, Machine]) -> None:
    variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    assert (await machines["uefi"].run("cat", variable)).stdout[-1:] == b"\1"
    assert "integrity" in await machines["uefi"].output("cat", "/sys/kernel/security/lockdown")
    assert (await machines["bios"].run("test", "-d", "/sys/firmware/efi")).exit_code == 1


async def test_a_command_has_input_output_and_an_exit_code(machines: dict[str, Machine]) -> None:
    agent = machines["uefi"].agent()
    data = bytes(range(256)) * 2000
    command = GuestCommand(argv=("sh", "-c", "cat; echo no >&2; exit 3"), stdin=data)
    result = await agent.execute(command, deadline_s=60)
    assert (result.exit_code, result.stdout, result.stderr, result.is_cut) == (3, data, b"no\n", False)
    killed = await agent.execute(GuestCommand(argv=("sh", "-c", "kill -9 $$")), deadline_s=60)
    assert killed.exit_code == 128 + signal.SIGKILL


async def test_file_systems_stand_still_and_go_on(machines: dict[str, Machine]) -> None:
    agent = machines["bios"].agent()
    try:
        assert await agent.freeze() >= 1
        with pytest.raises(GuestError):  # it does nothing else meanwhile
            await agent.execute(GuestCommand(argv=("true",)), deadline_s=5)
    finally:
        assert await agent.thaw() >= 1
    assert (await machines["bios"].run("sh", "-c", "echo x > /srv/after && sync")).exit_code == 0


async def test_a_later_kernel_is_booted_by_both_firmwares(machines: dict[str, Machine]) -> None:
    """What a package of a kernel would do to the partition that the firmware reads."""
    add = "v=$(uname -r); kernel-install add 9.9-test /boot/vmlinuz-$v /boot/initrd.img-$v"
    assert (await machines["uefi"].run("sh", "-c", add)).exit_code == 0
    boot = await machines["uefi"].output(
        "sh", "-c", "cd /boot/efi; ls loader/entries; cat syslinux/syslinux.cfg"
    )
    assert "debian-9.9-test.conf" in boot
    assert boot.index("/debian/9.9-test/linux") < boot.index("/debian/6")


async def test_who_it_is_was_not_in_the_image(machines: dict[str, Machine]) -> None:
    keys = [await one.output("cat", "/etc/ssh/ssh_host_ed25519_key.pub") for one in machines.values()]
    assert len(set(keys)) == 2
    assert await machines["uefi"].output("cat", "/etc/machine-id") == SPEC.uid.replace("-", "") + "\n"


async def test_nothing_failed_on_the_way(machines: dict[str, Machine]) -> None:
    failed = await machines["uefi"].output("systemctl", "--failed", "--no-legend", "--plain")
    assert failed.strip() == ""


async def test_it_shuts_down_when_it_is_asked(machines: dict[str, Machine]) -> None:
    one = machines["uefi"]
    await one.agent().shut_down()
    end = time.monotonic() + 120
    while "reboot: Power down" not in one.serial():
        assert time.monotonic() < end, one.serial()[-2000:]
        await asyncio.sleep(0.5)
    assert os.kill(one.process.pid, 0) is None  # QEMU stays, for its agent to see why
