"""QEMU command lines: a machine that can be protected at any time, and the secondary that waits for it.

Every disk is a quorum with one child from its first start and every NIC a tap without vhost, because neither
can be changed while the guest runs. The device set is lean: a checkpoint's pause is the size of the device
state, not of the memory. Both roles differ in their block graph and in `-incoming`, in nothing else; a
difference in what the guest sees would break the migration.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hostagent.drivers.qemu.spec import (
    CONFIG_FILE,
    CONSOLE_SOCKET,
    DEBUG_SOCKET,
    QMP_SOCKET,
    SEED_FILE,
    SERIAL_LOG,
    TPM_SOCKET,
    VARS_FILE,
    VM_DIR,
    VNC_SOCKET,
    DiskSpec,
    GuestPort,
    KernelBoot,
    MachineSpec,
)
from vdc.model.manifest import Display, Firmware
from vdc.model.units import MIB

BINARY = "qemu-system-x86_64"
_OVMF_DIR = "/usr/share/OVMF"
_FIRST_DISK_SLOT, _FIRST_NIC_SLOT, _DISPLAY_SLOT, _INPUT_SLOT = 0x08, 0x10, 0x04, 0x05
_PORTS_SLOT, _MAX_PORTS = 0x06, 8
_SEED_SLOT = 0x0C  # behind the disks: a guest that counts them by their slots finds its own first
# A guest never sees an error of its disk: it stands still, and what failed is done again.
_DISK_ERRORS = "werror=stop,rerror=stop"


def primary_argv(spec: MachineSpec, taps: Sequence[int]) -> list[str]:
    """The command line of a VM that runs on its own and may be protected later. `taps`: a descriptor per NIC."""
    waiting = ["-incoming", "defer", "-S"] if spec.awaits_memory else []
    return [*_common(spec), *_primary_disks(spec), *_devices(spec, taps), *waiting, *spec.extra]


def secondary_argv(spec: MachineSpec, taps: Sequence[int]) -> list[str]:
    """The command line of a secondary: it holds the same devices and waits for the migration."""
    devices = _devices(spec, taps)
    return [*_common(spec), *_secondary_disks(spec), *devices, "-incoming", "defer", *spec.extra]


def disk_node(index: int) -> str:
    """The node that the guest's disk is attached to, in every role: the quorum."""
    return f"disk{index}"


def netdev_id(index: int) -> str:
    """The network backend that filters are attached to."""
    return f"hn{index}"


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _common(spec: MachineSpec) -> list[str]:
    return [
        BINARY,
        "-name", f"guest={spec.name},debug-threads=on",
        "-uuid", spec.uid,
        "-nodefaults",
        "-no-user-config",
        *_machine(spec),
        "-smp", f"cpus={spec.cpus},sockets=1,cores={spec.cpus},threads=1",
        "-m", f"size={spec.memory_bytes // MIB}M",
        "-rtc", "base=utc,clock=host",
        # QEMU stays when its guest panics or powers off: the end of the process then always is a fault.
        "-action", "reboot=reset,shutdown=pause,panic=none",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-msg", "timestamp=on",
        *_control(),
        *_boot(spec),
    ]  # fmt: skip


def _machine(spec: MachineSpec) -> list[str]:
    options = [spec.machine, "usb=off", "vmport=off", "hpet=off", "dump-guest-core=off", "mem-merge=off"]
    options.append("graphics=off" if spec.display is Display.NONE else "graphics=on")
    if spec.machine == "q35":
        options += ["smbus=off", "sata=off"]
    if spec.display is Display.NONE:
        options.append("i8042=off")
    if spec.firmware is not Firmware.BIOS:
        options += ["pflash0=code", "pflash1=vars"]
    options.append("smm=on" if spec.firmware is Firmware.UEFI_SECURE else "smm=off")
    accelerator = "tcg,thread=multi" if spec.accelerator == "tcg" else "kvm"
    return ["-machine", ",".join(options), "-accel", accelerator, "-cpu", spec.cpu_model]


def _control() -> list[str]:
    argv: list[str] = []
    for name in (QMP_SOCKET, DEBUG_SOCKET):
        argv += ["-qmp", f"unix:{VM_DIR}/{name},server=on,wait=off"]
    console = f"path={VM_DIR}/{CONSOLE_SOCKET},server=on,wait=off,logfile={VM_DIR}/{SERIAL_LOG},logappend=on"
    return [*argv, "-chardev", f"socket,id=con0,{console}", "-serial", "chardev:con0"]


def _boot(spec: MachineSpec) -> list[str]:
    argv: list[str] = []
    if spec.firmware is not Firmware.BIOS:
        code = "OVMF_CODE_4M.secboot.fd" if spec.firmware is Firmware.UEFI_SECURE else "OVMF_CODE_4M.fd"
        argv += _raw("code", f"{_OVMF_DIR}/{code}", read_only=True)
        argv += _raw("vars", f"{VM_DIR}/{VARS_FILE}", read_only=False)
    if spec.firmware is Firmware.UEFI_SECURE:
        argv += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    if isinstance(spec.boot, KernelBoot):
        argv += ["-kernel", spec.boot.kernel, "-initrd", spec.boot.initrd, "-append", spec.boot.cmdline]
    if spec.config_name:
        argv += ["-fw_cfg", f"name={spec.config_name},file={VM_DIR}/{CONFIG_FILE}"]
    return argv


def _raw(node: str, path: str, *, read_only: bool) -> list[str]:
    file = {"driver": "file", "filename": path}
    return ["-blockdev", _json({"driver": "raw", "node-name": node, "read-only": read_only, "file": file})]


def _qcow2(node: str, path: str, backing: str | None = None) -> list[str]:
    options: dict[str, Any] = {
        "driver": "qcow2",
        "node-name": node,
        "file": {"driver": "file", "filename": path},
    }
    if backing is not None:
        options["backing"] = backing
    return ["-blockdev", _json(options)]


def _quorum(index: int, child: str) -> list[str]:
    return ["-blockdev", _json(quorum_options(disk_node(index), [child]))]


def _watched_qcow2(node: str, guard: str, path: str) -> list[str]:
    """As `_qcow2`, over a quorum of one: what the primary writes here by NBD fails with an event on this side too."""
    file = {"driver": "file", "node-name": f"{guard}f", "filename": path}
    guarded = {"driver": "qcow2", "node-name": node, "file": guard}
    return [
        "-blockdev", _json(file),
        "-blockdev", _json(quorum_options(guard, [f"{guard}f"])),
        "-blockdev", _json(guarded),
    ]  # fmt: skip


def quorum_options(node: str, children: list[Any], *, threshold: int = 1) -> dict[str, Any]:
    """A quorum that reads from its first child and writes to all; each failure of a child is an event."""
    return {
        "driver": "quorum",
        "node-name": node,
        "read-pattern": "fifo",
        "vote-threshold": threshold,
        "children": children,
    }


def _primary_disks(spec: MachineSpec) -> list[str]:
    argv: list[str] = []
    for i, disk in enumerate(spec.disks):
        argv += _qcow2(f"img{i}", disk.file) + _quorum(i, f"img{i}")
    return argv


def _secondary_disks(spec: MachineSpec) -> list[str]:
    argv: list[str] = []
    for i, disk in enumerate(spec.disks):
        argv += _secondary_disk(i, disk)
    return argv


def _secondary_disk(i: int, disk: DiskSpec) -> list[str]:
    replication = {
        "driver": "replication",
        "mode": "secondary",
        "node-name": f"childs{i}",
        "top-id": disk_node(i),
        "file": f"active{i}",
    }
    return [
        *_watched_qcow2(f"parent{i}", f"guard{i}", disk.parent),
        *_qcow2(f"hidden{i}", disk.hidden, backing=f"parent{i}"),
        *_qcow2(f"active{i}", disk.active, backing=f"hidden{i}"),
        "-blockdev", _json(replication),
        *_quorum(i, f"childs{i}"),
    ]  # fmt: skip


def _devices(spec: MachineSpec, taps: Sequence[int]) -> list[str]:
    argv: list[str] = []
    for i in range(len(spec.disks)):
        boot = ",bootindex=1" if i == 0 else ""
        slot = f"addr={_FIRST_DISK_SLOT + i:#x}"
        argv += [
            "-device",
            f"virtio-blk-pci,id=vd{i},drive={disk_node(i)},num-queues=1,{_DISK_ERRORS},{slot}{boot}",
        ]
    for j, (nic, tap) in enumerate(zip(spec.nics, taps, strict=True)):
        argv += ["-netdev", f"tap,id={netdev_id(j)},fd={tap},vhost=off"]
        slot = f"addr={_FIRST_NIC_SLOT + j:#x}"
        argv += [
            "-device",
            f"virtio-net-pci,id=e{j},netdev={netdev_id(j)},mac={nic.mac},guest_announce=off,romfile=,{slot}",
        ]
    return [*argv, "-device", "pvpanic", *_seed(spec), *_guest_ports(spec), *_tpm(spec), *_display(spec)]


def _seed(spec: MachineSpec) -> list[str]:
    """Each host reads its own file, and both are the same bytes: what is never written needs no lockstep."""
    if not spec.has_seed:
        return []
    return [
        *_raw("seed", f"{VM_DIR}/{SEED_FILE}", read_only=True),
        "-device", f"virtio-blk-pci,id=seed,drive=seed,num-queues=1,{_DISK_ERRORS},addr={_SEED_SLOT:#x}",
    ]  # fmt: skip


def _guest_ports(spec: MachineSpec) -> list[str]:
    if not spec.guest_ports:
        return []
    argv = ["-device", f"virtio-serial-pci,id=ports,max_ports={_MAX_PORTS},addr={_PORTS_SLOT:#x}"]
    for number, port in enumerate(spec.guest_ports, start=1):  # 0 is for consoles
        name = f"port{number}"
        argv += [
            "-chardev", f"{_backend(port)},id={name}c",
            "-device", f"virtserialport,id={name},bus=ports.0,nr={number},chardev={name}c,name={port.name}",
        ]  # fmt: skip
    return argv


def _backend(port: GuestPort) -> str:
    path = f"path={VM_DIR}/{port.file}"
    return f"file,{path},append=on" if port.is_log else f"socket,{path},server=on,wait=off"


def _tpm(spec: MachineSpec) -> list[str]:
    if not spec.tpm:
        return []
    return [
        "-chardev", f"socket,id=tpmc,path={VM_DIR}/{TPM_SOCKET}",
        "-tpmdev", "emulator,id=tpm0,chardev=tpmc",
        "-device", "tpm-crb,tpmdev=tpm0",
    ]  # fmt: skip


def _display(spec: MachineSpec) -> list[str]:
    if spec.display is Display.NONE:
        return ["-display", "none", "-vga", "none"]
    return [
        "-display", "none",
        "-vga", "none",
        "-vnc", f"unix:{VM_DIR}/{VNC_SOCKET}",
        "-device", f"virtio-vga,addr={_DISPLAY_SLOT:#x}",
        "-device", f"virtio-tablet-pci,addr={_INPUT_SLOT:#x}",
    ]  # fmt: skip
