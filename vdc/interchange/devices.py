"""The devices of a libvirt domain. An Endophyte's are few, and the same on both hosts of a pair. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vdc.interchange.disks import DomainDisk, read_disks
from vdc.interchange.element import Element
from vdc.interchange.losses import Ledger, Rules
from vdc.model.manifest import MAX_NICS

GUEST_AGENT = "org.qemu.guest_agent.0"
FIRST_NIC_SLOT = 0x10  # on the root bus (hostagent/drivers/qemu/argv.py)
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


@dataclass(frozen=True, slots=True)
class DomainNic:
    """One NIC. `source`: the network, bridge or device that it was connected to."""

    element: Element
    mac: str | None
    source: str


@dataclass(frozen=True, slots=True)
class Devices:
    """What is kept."""

    disks: tuple[DomainDisk, ...]
    nics: tuple[DomainNic, ...]
    tpm: bool
    has_display: bool


_PLAIN: Rules = {
    **dict.fromkeys(("emulator", "disk", "interface", "controller", "alias")),
    "hostdev": "a device of the host cannot be in two hosts at once",
    "redirdev": "there is no USB redirection",
    "redirfilter": "there is no USB redirection",
    "filesystem": "folders of the host are not shared with the guest",
    "sound": "there is no sound device",
    "rng": "there is no virtio RNG; the guest has its processor's",
    "watchdog": "there is no watchdog",
    "smartcard": "there is no smartcard",
    "shmem": "memory is not shared with other VMs",
    "memory": "there are no memory modules",
    "iommu": "there is no IOMMU",
    "vsock": "there is no vsock",
    "crypto": "there is no virtio crypto device",
    "hub": "there is no USB",
    "lease": "there are no leases of disks",
    "pstore": "there is no pstore",
    "nvram": "a PC has no NVRAM device",
    "parallel": "there is no parallel port",
}


def read_devices(element: Element, ledger: Ledger) -> Devices:
    """Read `devices`. Raises as `read_domain`."""
    graphics = element.all("graphics")
    has_display = any(g.get("type") in ("vnc", "spice", "sdl", "rdp") for g in graphics)
    ledger.look(element, {**_PLAIN,
        "graphics": lambda e: _graphics(e, graphics, ledger),
        "video": lambda e: _video(e, ledger, has_display=has_display),
        "input": lambda e: _input(e, ledger, has_display=has_display),
        "tpm": lambda e: _tpm(e, ledger),
        "serial": lambda e: _serial(e, element, ledger),
        "console": lambda e: _console(e, ledger),
        "channel": lambda e: _channel(e, ledger),
        "audio": lambda e: _unless(e, "none", "there is no sound device", ledger),
        "memballoon": lambda e: _unless_model(e, "none", "there is no balloon", ledger),
        "panic": lambda e: _unless_model(e, "isa", "the panic device is pvpanic", ledger),
    })  # fmt: skip
    _buses(element, ledger)
    return Devices(
        disks=read_disks(element.all("disk"), ledger),
        nics=_read_nics(element.all("interface"), ledger),
        tpm=element.child("tpm") is not None,
        has_display=has_display,
    )


# ---- NICs


def _read_nics(elements: tuple[Element, ...], ledger: Ledger) -> tuple[DomainNic, ...]:
    for element in elements[MAX_NICS:]:
        ledger.drop(element, f"there are at most {MAX_NICS} NICs")
    return tuple(_read_nic(element, ledger) for element in elements[:MAX_NICS])


def _read_nic(element: Element, ledger: Ledger) -> DomainNic:
    model = element.attribute_of("model", "type")
    if model not in ("", "virtio", "virtio-non-transitional", "virtio-transitional"):
        ledger.change(element, f"{model[:40]} becomes virtio: the guest needs its driver", "/model")
    if element.get("type") in ("hostdev", "vdpa", "vhostuser"):
        ledger.change(element, f"{element.get('type')} becomes a virtio NIC", "@type")
    ledger.look(element, {
        **dict.fromkeys(("mac", "source", "model", "target", "alias", "address", "rom", "backend", "guest", "script")),
        "driver": "how the host moves packets is not taken over",
        "tune": "how the host moves packets is not taken over",
        "coalesce": "how the host moves packets is not taken over",
        "boot": lambda e: _nic_boot(e, ledger),
        "link": lambda e: _unless_up(e, ledger),
        "filterref": "packet filters of libvirt are not taken over",
        "bandwidth": "its speed is not limited",
        "vlan": "an overlay has no VLANs",
        "mtu": "the overlay says which MTU there is",
        "virtualport": "the port of a switch is not taken over",
        "port": "the port of a switch is not taken over",
        "portOptions": "the port of a switch is not taken over",
        "ip": "its address is the overlay's; a fixed one can be written to the manifest",
        "route": "its routes are the overlay's",
        "teaming": "it has no partner NIC",
        "acpi": "its ACPI index is not kept",
        "backenddomain": "Xen's features are none of QEMU's",
    })  # fmt: skip
    return DomainNic(element, _mac(element, ledger), _source(element))


def _mac(element: Element, ledger: Ledger) -> str | None:
    mac = element.attribute_of("mac", "address")
    if not mac:
        return None
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1:
        ledger.drop(element, f"{mac[:40]} is no address of one NIC; it gets a new one", "/mac")
        return None
    return mac.lower()


def _source(element: Element) -> str:
    source = element.child("source")
    names = ("network", "bridge", "dev", "path")
    return next((source.get(name) for name in names if source.get(name)), "") if source else ""


def _nic_boot(element: Element, ledger: Ledger) -> None:
    ledger.drop(element, "it is not booted from the network")


def _unless_up(element: Element, ledger: Ledger) -> None:
    if element.get("state") == "down":
        ledger.change(element, "its link is up")


# ---- screen and keyboard


def _graphics(element: Element, all_of_them: tuple[Element, ...], ledger: Ledger) -> None:
    kind = element.get("type")
    if kind not in ("vnc", "spice", "sdl", "rdp") or element is not all_of_them[0]:
        ledger.drop(element, f"a screen of type {kind[:40]} beside it")
        return
    if kind != "vnc":
        ledger.change(element, f"{kind} becomes VNC", "@type")
    ledger.attributes(
        element,
        ("type", "autoport"),
        "its screen is reached by the cluster alone, not by a port of this host",
    ) if _is_reachable(element) else None


def _is_reachable(element: Element) -> bool:
    """Whether somebody chose how to reach it; libvirt writes its defaults there as well."""
    is_default = element.get("autoport") == "yes" or element.get("port", "-1") == "-1"
    return (
        not is_default or element.get("listen", "127.0.0.1") != "127.0.0.1" or "passwd" in element.attributes
    )


def _video(element: Element, ledger: Ledger, *, has_display: bool) -> None:
    model = element.attribute_of("model", "type")
    if model == "none":
        return
    if not has_display:
        ledger.drop(element, "without a screen there is no graphics card")
    elif model != "virtio":
        ledger.change(element, f"{model[:40] or 'its model'} becomes virtio-vga", "/model")


def _input(element: Element, ledger: Ledger, *, has_display: bool) -> None:
    kind, bus = element.get("type"), element.get("bus", "ps2")
    if kind in ("passthrough", "evdev"):
        ledger.drop(element, "a device of the host cannot be in two hosts at once")
    elif not has_display:
        if bus != "ps2":  # which every domain has
            ledger.drop(element, f"without a screen there is no {kind[:40]}")
    elif kind == "tablet" and bus != "virtio":
        ledger.change(element, f"{bus[:20]} becomes virtio: the guest needs its driver", "@bus")
    elif kind != "tablet" and bus != "ps2":
        ledger.change(element, f"{bus[:20]} becomes PS/2", "@bus")


# ---- the rest


def _tpm(element: Element, ledger: Ledger) -> None:
    backend = element.child("backend")
    if backend is not None and backend.get("type") != "emulator":
        ledger.change(element, "the host's chip becomes an emulated one", "/backend")
    if backend is not None and backend.get("version", "2.0") != "2.0":
        ledger.change(element, f"version {backend.get('version')[:10]} becomes 2.0", "/backend@version")
    ledger.drop(element, "its TPM begins empty: keys that were sealed there are not kept (BitLocker asks for its "
                         "recovery key)", "/state")  # fmt: skip
    if element.get("model") not in ("", "tpm-crb"):
        ledger.change(element, f"{element.get('model')[:40]} becomes tpm-crb", "@model")


def _serial(element: Element, devices: Element, ledger: Ledger) -> None:
    if element is not devices.all("serial")[0]:
        ledger.drop(element, "there is one serial port")


def _console(element: Element, ledger: Ledger) -> None:
    """One of type serial is the serial port, said twice."""
    if element.attribute_of("target", "type", "serial") != "serial":
        ledger.drop(element, "the console is the serial port")


def _channel(element: Element, ledger: Ledger) -> None:
    name = element.attribute_of("target", "name")
    if name != GUEST_AGENT:
        ledger.drop(element, f"nobody listens on channel {name[:60] or element.get('type')[:40]}")


def _unless(element: Element, kind: str, text: str, ledger: Ledger) -> None:
    if element.get("type") != kind:
        ledger.drop(element, text)


def _unless_model(element: Element, model: str, text: str, ledger: Ledger) -> None:
    if element.get("model") != model:
        ledger.drop(element, text)


def _buses(element: Element, ledger: Ledger) -> None:
    """One line for all controllers and one for all addresses: libvirt writes dozens by itself."""
    controllers = [
        one
        for one in element.all("controller")
        if one.get("model") != "none" and one.get("type") != "virtio-serial"
    ]
    if controllers:
        kinds = ", ".join(sorted({controller.get("type")[:20] for controller in controllers}))
        ledger.change(
            controllers[0], f"all controllers ({kinds}) become the few of an Endophyte, without USB"
        )
    for place, nic in enumerate(element.all("interface")):
        address = nic.child("address")
        if address is not None and _place(address) != (0, 0, FIRST_NIC_SLOT + place, 0):
            text = "devices have other PCI addresses: a guest that names NICs by them (enp1s0) sees new names"
            ledger.change(nic, text, "/address")
            return


def _place(address: Element) -> tuple[int, ...]:
    """Domain, bus, slot and function."""
    try:
        return tuple(int(address.get(part, "0")[:8], 0) for part in ("domain", "bus", "slot", "function"))
    except ValueError:
        return ()
