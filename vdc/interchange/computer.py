"""The computer of a libvirt domain without its devices: name, memory, processors, firmware, clock. Pure."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from vdc.interchange.element import Element
from vdc.interchange.losses import Ledger, Rules
from vdc.model.errors import InvalidError, RefusedError
from vdc.model.manifest import Firmware
from vdc.model.units import GIB, KIB, MIB, TIB, format_size

MAX_CPUS, MIN_MEMORY_BYTES, MAX_MEMORY_BYTES = 64, 64 * MIB, 1024 * GIB
_MAX_NAME, _MAX_TEXT = 255, 4096
_NUMBER = re.compile(r"[0-9]{1,18}")
_UNITS = {
    "b": 1, "bytes": 1, "KB": 1000, "k": KIB, "KiB": KIB, "MB": 1000**2, "M": MIB, "MiB": MIB,
    "GB": 1000**3, "G": GIB, "GiB": GIB, "TB": 1000**4, "T": TIB, "TiB": TIB,
}  # fmt: skip
_HOST_TUNING = "tuning of the host that it ran on is not taken over"
_UEFI_WORDS = ("ovmf", "edk2", "uefi")


@dataclass(frozen=True, slots=True)
class DirectKernel:
    """Kernel and initrd that QEMU is given as files."""

    kernel: str
    initrd: str
    cmdline: str


@dataclass(frozen=True, slots=True)
class Computer:
    """What is kept."""

    name: str
    uuid: str
    title: str
    description: str
    memory_bytes: int
    cpus: int
    firmware: Firmware
    kernel: DirectKernel | None


def read_computer(root: Element, ledger: Ledger, *, has_disks: bool) -> Computer:
    """Read everything but `devices`. Raises as `read_domain`."""
    name = root.text_of("name")
    if not name or len(name) > _MAX_NAME:
        raise InvalidError(f"the domain has no name of 1 to {_MAX_NAME} characters", code="domain-invalid")
    system = root.child("os")
    if system is None or system.text_of("type") != "hvm":
        raise RefusedError("the domain is no fully virtual machine (os/type hvm)", code="domain-unsupported")
    ledger.look(root, {**_ROOT,
        "cpu": lambda e: _cpu(e, ledger),
        "features": lambda e: _features(e, ledger),
        "clock": lambda e: _clock(e, ledger),
        "pm": lambda e: _power_management(e, ledger),
        "on_poweroff": lambda e: _event(e, ledger, "destroy"),
        "on_reboot": lambda e: _event(e, ledger, "restart"),
        "on_crash": lambda e: _event(e, ledger, "destroy"),
        "uuid": lambda e: ledger.change(e, "the guest's SMBIOS shows a new UUID; some licences are bound to it"),
    })  # fmt: skip
    ledger.attributes(root, ("type",))
    features = root.child("features")
    if features is None or features.child("acpi") is None:
        ledger.change(features or root, "the machine has ACPI", "" if features else "/features")
    return Computer(
        name=name,
        uuid=_uuid(root),
        title=root.text_of("title")[:_MAX_TEXT],
        description=root.text_of("description")[:_MAX_TEXT],
        memory_bytes=_memory(root, ledger),
        cpus=_cpus(root, ledger),
        firmware=_firmware(system, ledger, has_disks=has_disks),
        kernel=_kernel(system),
    )


_ROOT: Rules = {
    **dict.fromkeys(("name", "title", "description", "memory", "vcpu", "os", "devices", "seclabel")),
    "currentMemory": None,  # read with `memory`
    "metadata": "what management programs keep there is not taken over",
    "maxMemory": "memory is not hot-plugged",
    "vcpus": "processors are not hot-plugged",
    "genid": "a generation ID is not shown to the guest",
    "sysinfo": "SMBIOS strings and firmware settings of its own are not shown to the guest",
    "launchSecurity": "memory encryption would hide the guest from its second copy",
    "qemu:commandline": "options for QEMU itself are not taken over",
    "qemu:capabilities": "options for QEMU itself are not taken over",
    "qemu:override": "options for QEMU itself are not taken over",
    "qemu:deprecation": None,
    **dict.fromkeys(
        ("iothreads", "iothreadids", "defaultiothread", "cputune", "memtune", "blkiotune", "numatune",
         "memoryBacking", "resource", "perf", "keywrap", "throttlegroups"), _HOST_TUNING,
    ),
}  # fmt: skip


def _uuid(root: Element) -> str:
    try:
        return str(uuid.UUID(root.text_of("uuid")))
    except ValueError:
        return ""


def size_of(element: Element, default_unit: str = "KiB") -> int:
    """A size with its unit in bytes; InvalidError (`domain-invalid`)."""
    factor = _UNITS.get(element.get("unit", default_unit))
    if factor is None or not _NUMBER.fullmatch(element.text):
        raise InvalidError(f"{element.path}: {element.text[:40]!r} is no size", code="domain-invalid")
    return int(element.text) * factor


def _memory(root: Element, ledger: Ledger) -> int:
    element = root.child("memory")
    if element is None:
        raise InvalidError("the domain has no memory", code="domain-invalid")
    size_bytes = size_of(element)
    current = root.child("currentMemory")
    if current is not None and size_of(current) != size_bytes:
        ledger.change(current, f"without a balloon the guest always has {format_size(size_bytes)}")
    if size_bytes > MAX_MEMORY_BYTES:
        raise RefusedError(
            f"it has {format_size(size_bytes)} of memory; at most {format_size(MAX_MEMORY_BYTES)} are possible",
            code="domain-unsupported",
        )
    if size_bytes < MIN_MEMORY_BYTES:
        ledger.change(element, f"{format_size(size_bytes)} becomes {format_size(MIN_MEMORY_BYTES)}")
        return MIN_MEMORY_BYTES
    whole = -(-size_bytes // MIB) * MIB
    if whole != size_bytes:
        ledger.change(element, f"rounded up to {format_size(whole)}")
    return whole


def _cpus(root: Element, ledger: Ledger) -> int:
    element = root.child("vcpu")
    if element is None:
        return 1
    if not _NUMBER.fullmatch(element.text) or int(element.text) == 0:
        raise InvalidError(f"{element.path}: {element.text[:40]!r} is no number", code="domain-invalid")
    most, current = int(element.text), element.get("current")
    count = most
    if _NUMBER.fullmatch(current) and 0 < int(current) < most:
        count = int(current)
        ledger.drop(element, f"processors are not hot-plugged: it has {count} for good", "@current")
    if count > MAX_CPUS:
        ledger.change(element, f"{count} processors become {MAX_CPUS}")
    ledger.attributes(element, ("current", "placement"), _HOST_TUNING)
    return min(count, MAX_CPUS)


def _cpu(element: Element, ledger: Ledger) -> None:
    wanted = element.get("mode") or element.text_of("model") or "its model"
    ledger.change(element, f"{wanted[:60]} becomes a CPU that every host of the cluster can offer")
    for feature in element.all("feature"):
        if feature.get("name") in ("vmx", "svm") and feature.get("policy") in ("require", "force"):
            ledger.drop(feature, "a VM in lockstep runs no VMs itself")
    topology = element.child("topology")
    if topology is not None and {
        topology.get(n, "1") for n in ("sockets", "dies", "clusters", "threads")
    } != {"1"}:
        ledger.change(topology, "its processors are cores of one socket")
    if (numa := element.child("numa")) is not None:
        ledger.drop(numa, "the guest has one NUMA node")


def _features(element: Element, ledger: Ledger) -> None:
    rules: dict[str, str | None] = {
        **dict.fromkeys(("acpi", "apic", "pae", "smm", "hap", "viridian")),
        "hyperv": "Windows runs without these hints, a little slower",
        "kvm": "they are QEMU's usual ones",
        "xen": "they are none of QEMU's",
        "pvspinlock": "they are QEMU's usual ones",
        "pmu": "the guest has no performance counters",
        "vmcoreinfo": "crash dumps from outside are not made",
    }
    ledger.look(element, rules | {"vmport": lambda e: _unless(e, "off", ledger)})


def _unless(element: Element, state: str, ledger: Ledger) -> None:
    if element.get("state", "on") != state:
        ledger.drop(element, "the machine has none")


def _clock(element: Element, ledger: Ledger) -> None:
    offset = element.get("offset", "utc")
    if offset != "utc":
        ledger.change(
            element, f"the clock shows UTC instead of {offset[:40]}; Windows wants to be told", "@offset"
        )
    for timer in element.all("timer"):
        if (timer.get("name"), timer.get("present")) != ("hpet", "no"):
            ledger.drop(timer, f"timer {timer.get('name')[:40]} is as QEMU has it by itself")


def _power_management(element: Element, ledger: Ledger) -> None:
    for child in element.children:
        if child.get("enabled") == "yes":
            ledger.drop(child, "a VM in lockstep does not sleep")


def _event(element: Element, ledger: Ledger, usual: str) -> None:
    if element.text != usual:
        ledger.drop(element, f"{element.text[:40]} is not what an Endophyte does; see docs/import.md")


def _firmware(system: Element, ledger: Ledger, *, has_disks: bool) -> Firmware:
    ledger.look(system, {
        "type": lambda e: _machine(e, ledger),
        "loader": lambda e: _loader(e, ledger),
        "nvram": "boot entries and keys in its variables are not kept; the firmware begins with fresh ones",
        "boot": lambda e: _boot_device(e, system, ledger, has_disks=has_disks),
        "bios": "the firmware has settings of its own",
        "bootmenu": lambda e: _unless_enabled(e, ledger, "there is no boot menu"),
        "smbios": "SMBIOS strings are not shown to the guest",
        "acpi": "tables of its own are not shown to the guest",
        "dtb": "a PC has no device tree",
        "firmware": None, "kernel": None, "initrd": None, "cmdline": None,
    })  # fmt: skip
    if not _is_uefi(system):
        return Firmware.BIOS
    return Firmware.UEFI_SECURE if _is_secure(system, ledger) else Firmware.UEFI


def _machine(element: Element, ledger: Ledger) -> None:
    architecture, machine = element.get("arch", "x86_64"), element.get("machine")
    if architecture not in ("x86_64", "i686"):
        raise RefusedError(
            f"its architecture is {architecture[:40]}; hosts have x86_64", code="domain-unsupported"
        )
    if architecture == "i686":
        ledger.change(element, "i686 becomes x86_64, which runs it as well", "@arch")
    if machine and "q35" not in machine:
        ledger.change(element, f"{machine[:60]} becomes q35", "@machine")


def _loader(element: Element, ledger: Ledger) -> None:
    if element.text:
        ledger.change(element, f"{element.text[:120]} becomes the cluster's own firmware")


def _boot_device(element: Element, system: Element, ledger: Ledger, *, has_disks: bool) -> None:
    """The first device counts, and where there is a disk it is that."""
    if element.get("dev") == "hd":
        return
    is_first = system.all("boot")[0] is element
    word = "the first disk is booted instead" if is_first and has_disks else "only the first disk is booted"
    ledger.drop(element, f"{element.get('dev')[:40]}: {word}")


def _unless_enabled(element: Element, ledger: Ledger, text: str) -> None:
    if element.get("enable") == "yes":
        ledger.drop(element, text)


def _is_uefi(system: Element) -> bool:
    if system.get("firmware") in ("efi", "bios"):
        return system.get("firmware") == "efi"
    loader = system.child("loader")
    if loader is None:
        return False
    return loader.get("type") == "pflash" or any(word in loader.text.lower() for word in _UEFI_WORDS)


def _is_secure(system: Element, ledger: Ledger) -> bool:
    """Whether Secure Boot is enforced: `secure-boot` says that the firmware can, `enrolled-keys` that it has keys."""
    wanted = system.child("firmware")
    features = {f.get("name"): f.get("enabled") for f in wanted.all("feature")} if wanted else {}
    loader = system.child("loader")
    can = features.get("secure-boot", loader.get("secure", "no") if loader else "no") == "yes"
    if not can:
        return False
    has_keys = features.get("enrolled-keys", "yes" if _template_has_keys(system) else "no") == "yes"
    if not has_keys:
        ledger.change(wanted or system, "without keys of its own it boots without Secure Boot")
    elif wanted is None:
        ledger.change(loader or system, "Secure Boot with Microsoft's keys", "@secure")
    return has_keys


def _template_has_keys(system: Element) -> bool:
    """By the names that distributions give the variables with Microsoft's keys; without a name they are assumed."""
    template = system.attribute_of("nvram", "template").rpartition("/")[2].lower()
    return not template or "ms" in template or "secboot" in template


def _kernel(system: Element) -> DirectKernel | None:
    kernel, initrd = system.text_of("kernel"), system.text_of("initrd")
    if not kernel:
        return None
    if not initrd:
        raise RefusedError(
            "it boots a kernel file without an initrd", hint="add an initrd to the domain, or boot its disk",
            code="domain-unsupported",
        )  # fmt: skip
    return DirectKernel(kernel, initrd, system.text_of("cmdline"))
