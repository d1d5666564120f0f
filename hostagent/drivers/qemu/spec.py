"""What a QEMU process is made of, independent of its role. Pure records.

Paths are those inside the sandbox: the VM's own folder is `VM_DIR`, the image store `IMAGE_DIR` (read-only).
A spec must be the same on both hosts of a pair in everything that the guest sees; only the NICs' interface
names and the disk files may differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vdc.model.manifest import MAX_DISKS, MAX_NICS, Display, Firmware
from vdc.model.units import MIB

VM_DIR = "/vm"
IMAGE_DIR = "/images"

QMP_SOCKET = "qmp.sock"  # the agent's own
DEBUG_SOCKET = "qmp2.sock"  # for people and tests; whoever speaks here can open the gate
CONSOLE_SOCKET = "console.sock"
SERIAL_LOG = "serial.log"
VNC_SOCKET = "vnc.sock"
TPM_SOCKET = "swtpm.sock"
GUEST_SOCKET = "guest.sock"  # the guest channel (docs/guest-channel.md)
OUTPUT_LOG = "output.log"  # what a container's program writes
CONFIG_FILE = "config.json"  # what a container's guest is told; there only while QEMU starts
VARS_FILE = "vars.fd"
SEED_FILE = "seed.iso"  # what cloud-init is told
AGENT_SOCKET = "qga.sock"
AGENT_PORT = "org.qemu.guest_agent.0"  # by this name QEMU's guest agent finds its port

Machine = Literal["q35", "pc"]
AcceleratorName = Literal["tcg", "kvm"]


@dataclass(frozen=True, slots=True)
class KernelBoot:
    """Kernel and initrd given to QEMU; the disk beside them is data."""

    kernel: str
    initrd: str
    cmdline: str


@dataclass(frozen=True, slots=True)
class DiskBoot:
    """The firmware boots the first disk."""


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """The four files a disk may consist of; a primary uses `file` alone, a secondary the other three.

    All of them are qcow2 of the same virtual size. After a promotion `file` of the next start is `parent`.
    """

    file: str
    parent: str
    active: str
    hidden: str


@dataclass(frozen=True, slots=True)
class NicSpec:
    """A tap that exists already, and the address the guest sees. QEMU gets the tap as a descriptor."""

    ifname: str
    mac: str


@dataclass(frozen=True, slots=True)
class GuestPort:
    """A port of virtio-serial, which the guest finds by its name; QEMU's side is a file name in `VM_DIR`.

    A unix socket on which QEMU listens, or, as a log, a file that what the guest writes is appended to.
    """

    name: str
    file: str
    is_log: bool = False


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One virtual machine. `uid` becomes the SMBIOS UUID, by which a running process is recognised."""

    name: str
    uid: str
    cpus: int
    memory_bytes: int
    boot: KernelBoot | DiskBoot
    disks: tuple[DiskSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    machine: Machine = "q35"
    accelerator: AcceleratorName = "tcg"
    cpu_model: str = "qemu64"
    firmware: Firmware = Firmware.BIOS
    tpm: bool = False
    display: Display = Display.NONE
    guest_ports: tuple[GuestPort, ...] = ()
    config_name: str = ""  # under which the guest finds `CONFIG_FILE` in fw_cfg; empty: it is given none
    has_seed: bool = False  # `SEED_FILE` as a further disk, read-only and of no part in lockstep
    awaits_memory: bool = False  # a primary that goes on with a saved memory (saving.py) and does not boot
    extra: tuple[str, ...] = field(default=())  # further options, for tests and measurements

    def __post_init__(self) -> None:
        if len(self.disks) > MAX_DISKS or len(self.nics) > MAX_NICS:
            raise ValueError(f"at most {MAX_DISKS} disks and {MAX_NICS} NICs")
        if self.memory_bytes <= 0 or self.memory_bytes % MIB:
            raise ValueError("memory_bytes must be a multiple of 1 MiB")
        if self.machine != "q35" and self.firmware is Firmware.UEFI_SECURE:
            raise ValueError("secure boot needs the q35 machine")
