"""What a domain becomes: each rule by the smallest domain that shows it, and every refusal."""

from __future__ import annotations

from typing import Any

import pytest

from vdc.interchange.domain import Domain, read_domain
from vdc.interchange.incoming import Wishes, parse_networks, plan_domain
from vdc.interchange.losses import MAX_LOSSES
from vdc.model.errors import InvalidError, RefusedError, VdcError
from vdc.model.manifest import Firmware
from vdc.model.units import GIB, MIB

DISK = "<disk><driver type='qcow2'/><source file='/a.qcow2'/><target dev='{}' bus='virtio'/></disk>"


def xml(
    *, name: str = "web", os: str = "<os><type>hvm</type></os>", more: str = "", devices: str | None = None,
    memory: str = "<memory unit='MiB'>512</memory>", features: str = "<features><acpi/></features>",
    root: str = "type='kvm'",
) -> bytes:  # fmt: skip
    inside = DISK.format("vda") if devices is None else devices
    return (
        f"<domain {root}><name>{name}</name>{memory}{os}{features}{more}<devices>{inside}</devices></domain>"
    ).encode()


def read(**parts: Any) -> Domain:
    return read_domain(xml(**parts))


def losses(domain: Domain) -> list[str]:
    return [f"{loss.path}: {loss.text}" for loss in domain.losses]


def test_a_plain_domain_loses_nothing() -> None:
    plan = plan_domain(read(), Wishes())
    assert plan.losses == ()
    assert plan.manifest.metadata.name == "web"
    assert plan.manifest.spec.image == "imported/web:latest"
    assert (plan.manifest.spec.networks, plan.manifest.spec.disks) == ((), ())


REFUSALS = {
    "another type": ({"root": "type='lxc'"}, "domain-unsupported"),
    "a running one": ({"root": "type='kvm' id='7'"}, "domain-running"),
    "a container": ({"os": "<os><type>exe</type></os>"}, "domain-unsupported"),
    "another architecture": ({"os": "<os><type arch='aarch64'>hvm</type></os>"}, "domain-unsupported"),
    "no memory": ({"memory": ""}, "domain-invalid"),
    "memory without a number": ({"memory": "<memory>many</memory>"}, "domain-invalid"),
    "an unknown unit": ({"memory": "<memory unit='XB'>1</memory>"}, "domain-invalid"),
    "too much memory": ({"memory": "<memory unit='TiB'>2</memory>"}, "domain-unsupported"),
    "no name": ({"name": ""}, "domain-invalid"),
    "a name of which nothing is left": ({"name": "日本"}, "name-invalid"),
    "no processors": ({"more": "<vcpu>0</vcpu>"}, "domain-invalid"),
    "nothing to start from": ({"devices": ""}, "domain-unsupported"),
    "a kernel without an initrd": ({"os": "<os><type>hvm</type><kernel>/k</kernel></os>"}, "domain-unsupported"),
    "five disks": ({"devices": "".join(DISK.format(f"vd{n}") for n in "abcde")}, "disk-unsupported"),
    "two disks of one name": ({"devices": DISK.format("vda") * 2}, "domain-invalid"),
    "an encrypted disk": (
        {"devices": "<disk><source file='/a'><encryption format='luks'/></source><target dev='vda'/></disk>"},
        "disk-unsupported",
    ),
    "a disk on the network": (
        {"devices": "<disk type='network'><source protocol='rbd' name='p/i'/><target dev='vda'/></disk>"},
        "disk-unsupported",
    ),
    "a disk that is a folder": (
        {"devices": "<disk type='dir'><source dir='/etc'/><target dev='vda'/></disk>"}, "disk-unsupported",
    ),
    "a part of a file": (
        {"devices": "<disk><source file='/a'><slices/></source><target dev='vda'/></disk>"}, "disk-unsupported",
    ),
    "a disk that is being copied": (
        {"devices": "<disk><source file='/a'/><mirror/><target dev='vda'/></disk>"}, "disk-unsupported",
    ),
    "a relative path": ({"devices": "<disk><source file='a'/><target dev='vda'/></disk>"}, "domain-invalid"),
    "a strange format": (
        {"devices": "<disk><driver type='raw,file=/etc/shadow'/><source file='/a'/></disk>"}, "domain-invalid",
    ),
    "an unresolved volume": (
        {"devices": "<disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk>"},
        "disk-unsupported",
    ),
    "too long a chain in the XML": (
        {"devices": "<disk><source file='/a'/>" + "<backingStore><source file='/b'/>" * 17 + "</backingStore>" * 17
         + "</disk>"},
        "disk-unsupported",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
def test_it_is_refused(what: str) -> None:
    parts, code = REFUSALS[what]
    with pytest.raises((InvalidError, RefusedError)) as caught:
        plan_domain(read(**parts), Wishes())
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def test_what_is_no_domain_is_refused() -> None:
    with pytest.raises(InvalidError, match="'network'"):
        read_domain(b"<network><name>default</name></network>")


FIRMWARE = {
    "<os><type>hvm</type></os>": Firmware.BIOS,
    "<os firmware='bios'><type>hvm</type></os>": Firmware.BIOS,
    "<os firmware='efi'><type>hvm</type></os>": Firmware.UEFI,
    "<os firmware='efi'><type>hvm</type><firmware><feature name='secure-boot' enabled='yes'/></firmware></os>": (
        Firmware.UEFI_SECURE
    ),
    "<os firmware='efi'><type>hvm</type><firmware><feature name='secure-boot' enabled='yes'/>"
    "<feature name='enrolled-keys' enabled='no'/></firmware></os>": Firmware.UEFI,
    "<os firmware='efi'><type>hvm</type><firmware><feature name='secure-boot' enabled='no'/></firmware>"
    "<loader secure='yes'/></os>": Firmware.UEFI,
    "<os><type>hvm</type><loader type='pflash'>/x.fd</loader></os>": Firmware.UEFI,
    "<os><type>hvm</type><loader type='rom'>/usr/share/ovmf/OVMF.fd</loader></os>": Firmware.UEFI,
    "<os><type>hvm</type><loader>/usr/share/seabios/bios.bin</loader></os>": Firmware.BIOS,
    "<os><type>hvm</type><loader type='pflash' secure='yes'>/x.fd</loader></os>": Firmware.UEFI_SECURE,
    "<os><type>hvm</type><loader type='pflash' secure='yes'>/x.fd</loader>"
    "<nvram template='/usr/share/OVMF/OVMF_VARS_4M.ms.fd'>/n</nvram></os>": Firmware.UEFI_SECURE,
    "<os><type>hvm</type><loader type='pflash' secure='yes'>/x.fd</loader>"
    "<nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/n</nvram></os>": Firmware.UEFI,
}


@pytest.mark.parametrize("os", FIRMWARE)
def test_firmware(os: str) -> None:
    assert read(os=os).computer.firmware is FIRMWARE[os]


@pytest.mark.parametrize(
    ("memory", "size_bytes"),
    [
        ("<memory>1048576</memory>", GIB),
        ("<memory unit='GiB'>2</memory>", 2 * GIB),
        ("<memory unit='G'>2</memory>", 2 * GIB),
        ("<memory unit='bytes'>1073741824</memory>", GIB),
        ("<memory unit='MB'>1000</memory>", 954 * MIB),
        ("<memory unit='MiB'>16</memory>", 64 * MIB),
    ],
)
def test_memory(memory: str, size_bytes: int) -> None:
    assert read(memory=memory).computer.memory_bytes == size_bytes


def test_processors_are_those_that_are_plugged_in() -> None:
    assert read(more="<vcpu current='2'>8</vcpu>").computer.cpus == 2
    assert read(more="<vcpu>8</vcpu>").computer.cpus == 8
    many = read(more="<vcpu>128</vcpu>")
    assert many.computer.cpus == 64
    assert "vcpu: 128 processors become 64" in losses(many)


def test_the_disk_that_is_booted_comes_first() -> None:
    boot = "<disk><source file='/b'/><target dev='vdb' bus='virtio'/><boot order='1'/></disk>"
    domain = read(devices=DISK.format("vda") + boot)
    assert [disk.name for disk in domain.disks] == ["vdb", "vda"]
    manifest = plan_domain(domain, Wishes(image_name="me/web:2")).manifest
    assert (manifest.spec.image, manifest.spec.disks[1].image) == ("me/web:2", "me/web-vda:2")
    assert manifest.spec.disks[0].image is None


def test_a_disk_without_a_stated_format_is_raw() -> None:
    assert read(devices="<disk><source file='/a'/><target dev='vda'/></disk>").disks[0].file.format == "raw"


def test_nics_keep_their_macs_and_go_where_they_are_sent() -> None:
    nic = (
        "<interface type='bridge'><mac address='{}'/><source bridge='{}'/><model type='virtio'/></interface>"
    )
    devices = (
        DISK.format("vda") + nic.format("52:54:00:AA:00:01", "br0") + nic.format("01:00:5e:00:00:01", "br1")
    )
    plan = plan_domain(read(devices=devices), Wishes(networks={"br0": "office"}))
    assert [(nic.network, nic.mac) for nic in plan.manifest.spec.networks] == [
        ("office", "52:54:00:aa:00:01"),
        ("default", None),
    ]
    assert [loss.path for loss in plan.losses] == ["devices/interface[2]/mac", "devices/interface[2]/source"]


def test_names() -> None:
    assert plan_domain(read(name="My_VM (2)"), Wishes()).manifest.metadata.name == "my-vm-2"
    assert plan_domain(read(name="x" * 100), Wishes()).manifest.metadata.name == "x" * 63
    assert plan_domain(read(name="日本"), Wishes(name="japan")).manifest.metadata.name == "japan"


def test_everything_unknown_is_said_once() -> None:
    domain = read(
        more="<novelty/>", devices=DISK.format("vda") + "<gadget/><gadget/>", root="type='kvm' colour='red'"
    )
    assert [f"{loss.path}: {loss.text}" for loss in plan_domain(domain, Wishes()).losses] == [
        "domain@colour: not known here",
        "novelty: not known here",
        "devices/gadget[1]: not known here",
        "devices/gadget[2]: not known here",
    ]


def test_a_thousand_losses_are_not_a_thousand_lines() -> None:
    plan = plan_domain(read(devices=DISK.format("vda") + "<gadget/>" * 1000), Wishes())
    assert len(plan.losses) == MAX_LOSSES + 1
    assert plan.losses[-1].text == "and 800 more"


@pytest.mark.parametrize("pair", ["br0", "=default", "br0=Nicht gut", "br0="])
def test_networks_that_make_no_sense(pair: str) -> None:
    with pytest.raises(ValueError):
        parse_networks((pair,))


def test_networks_are_named_once() -> None:
    assert parse_networks(("a=b=c", "d=default")) == {"a=b": "c", "d": "default"}
    with pytest.raises(ValueError, match="twice"):
        parse_networks(("a=b", "a=c"))


def test_a_bad_image_name_is_an_error_of_ours() -> None:
    with pytest.raises(VdcError):
        plan_domain(read(), Wishes(image_name="NOT GOOD"))
