"""Targets of what other systems hand over: a domain's XML, and the header of a disk that lies over another one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from vdc.images.chain import references_of
from vdc.interchange.disks import resolved
from vdc.interchange.domain import read_domain
from vdc.interchange.element import parse_xml
from vdc.interchange.incoming import Wishes, plan_domain
from vdc.model.errors import InvalidError, RefusedError
from vdc.model.manifest import EndophyteManifest
from vdc.model.manifest_file import load_text
from vdc.model.strict_yaml import dump

_DOMAIN = b"""<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>web</name><uuid>0bb2a35f-2f2e-4b7a-a7e7-8ee8ae6cd6a4</uuid><title>t</title><memory unit='MiB'>512</memory>
<currentMemory>1</currentMemory><vcpu current='1'>2</vcpu>
<os firmware='efi'><type arch='x86_64' machine='pc'>hvm</type><loader secure='yes'>/o</loader><boot dev='cdrom'/>
<firmware><feature name='secure-boot' enabled='yes'/></firmware></os>
<features><acpi/><vmport state='on'/></features><cpu mode='custom'><topology sockets='2'/></cpu>
<clock offset='localtime'><timer name='rtc'/></clock><on_crash>restart</on_crash>
<devices>
<disk type='file'><driver type='qcow2' cache='none'/><source file='/a.qcow2'/><target dev='sda' bus='sata'/>
<boot order='2'/><backingStore type='file'><format type='raw'/><source file='/b'/><backingStore/></backingStore></disk>
<disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vdb' bus='virtio'/></disk>
<disk device='cdrom'><source file='/seed.iso'/></disk>
<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><model type='e1000'/>
<address bus='0x01' slot='0x00'/></interface>
<graphics type='spice' passwd='x'/><tpm model='tpm-tis'><backend type='emulator' version='1.2'/></tpm>
</devices><qemu:commandline/></domain>"""
_KERNEL = b"""<domain type='qemu'><name>k</name><memory>65536</memory>
<os><type>hvm</type><kernel>/k</kernel><initrd>/i</initrd><cmdline>a</cmdline></os></domain>"""
_VOLUMES = {("p", "v"): "/pool/v"}


def domain(data: bytes) -> None:
    """What is taken makes a manifest that can be sent, and lines that can be shown."""
    with suppress(InvalidError):
        root = parse_xml(data)
        assert not root.path and root.place == 0
    try:
        found = read_domain(data)
        plan = plan_domain(found, Wishes(), _VOLUMES)
    except (InvalidError, RefusedError) as error:
        assert len(str(error)) < 1_000
        error.problem.to_json()
        return
    assert EndophyteManifest.from_json(plan.manifest.to_json()) == plan.manifest
    printed = dump(plan.manifest.model_dump(mode="json", by_alias=True, exclude_none=True))
    assert [loaded.manifest for loaded in load_text(printed.encode(), "printed")] == [plan.manifest]
    assert plan.disks or found.computer.kernel is not None
    for disk in plan.disks:
        assert Path(disk.file.path).is_absolute() and "\0" not in disk.file.path
    assert all(resolved(disk, _VOLUMES).path for disk in found.disks)
    assert all(len(str(loss)) < 1_000 and loss.path and loss.text for loss in plan.losses)


def disk_references(data: bytes) -> None:
    with suppress(InvalidError):
        found = references_of(data)
        assert found.backing is None or 0 < len(found.backing.encode()) <= 1023


_OVERLAY = b"QFI\xfb" + bytes.fromhex("00000003 0000000000000080 00000006") + b"\0" * 84
_OVERLAY += bytes.fromhex("00000068 e2792aca 00000003") + b"raw" + b"\0" * 13 + b"/b.raw" + b"\0" * 64

TARGETS = (
    ("libvirt-domain", domain, (_DOMAIN, _KERNEL)),
    ("disk-references", disk_references, (_OVERLAY,)),
)
