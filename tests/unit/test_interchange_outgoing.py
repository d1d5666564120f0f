"""What is written is read again as it was: manifest to domain to manifest, for whatever a manifest may say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdc.interchange.domain import read_domain
from vdc.interchange.incoming import Wishes, plan_domain
from vdc.interchange.outgoing import Export, export_domain
from vdc.model.endophyte import Nic
from vdc.model.errors import RefusedError
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.manifest import Display, EndophyteManifest, Firmware
from vdc.model.units import MIB

GOLDEN = Path(__file__).parent / "golden" / "interchange" / "exported.domain"
UID = "9d6f3f6e-6f0c-4c3f-8a53-0f5f5f5f5f5f"
BLOB = Blob(digest="sha256:" + "a" * 64, size_bytes=1)
DISK = Image(kind=ImageKind.DISK, disk=BLOB)
KERNEL = Image(kind=ImageKind.KERNEL, disk=BLOB, kernel=BLOB, initrd=BLOB, cmdline="console=ttyS0 quiet")
LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
MAC = st.integers(0, 2**40 - 1).map(lambda n: "52:" + ":".join(f"{n >> 8 * i & 255:02x}" for i in range(5)))


def export(manifest: EndophyteManifest, image: Image = DISK, firmware: Firmware = Firmware.BIOS) -> Export:
    nics = [
        Nic(network=port.network, mac=port.mac or "52:54:00:00:00:99", address="10.77.0.10")
        for port in manifest.spec.networks
    ]
    return export_domain(manifest, uid=UID, nics=nics, firmware=firmware, image=image, folder="/images")


@st.composite
def manifests(draw: st.DrawFn) -> EndophyteManifest:
    names = draw(st.lists(LABEL, max_size=4, unique=True))
    macs = draw(st.lists(MAC, max_size=4, unique=True))
    disks = [{"name": name, **({"image": "x/y:1"} if place else {})} for place, name in enumerate(names)]
    text = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=30)
    return EndophyteManifest.model_validate({
        "metadata": {"name": draw(LABEL), "annotations": {"mycelium.network/title": draw(text)}},
        "spec": {
            "image": "x/y:1",
            "resources": {"cpus": draw(st.integers(1, 64)), "memory": draw(st.integers(64, 2**20)) * MIB},
            "disks": disks,
            "networks": [{"network": draw(LABEL), "mac": mac} for mac in macs],
            "firmware": draw(st.sampled_from(Firmware)), "tpm": draw(st.booleans()),
            "display": draw(st.sampled_from(Display)),
        },
    })  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(manifests(), st.sampled_from([DISK, KERNEL]))
def test_what_was_exported_is_imported_as_it_was(manifest: EndophyteManifest, image: Image) -> None:
    made = export(manifest, image, manifest.spec.firmware or Firmware.BIOS)
    domain = read_domain(made.xml.encode())
    networks = {port.network: port.network for port in manifest.spec.networks}
    again = plan_domain(domain, Wishes(image_name="x/y:1", networks=networks)).manifest
    images = {disk.name: disk.image for disk in again.spec.disks}
    assert again.metadata.name == manifest.metadata.name
    assert (domain.computer.kernel is not None) == (image is KERNEL)
    assert again.spec.with_(disks=()) == manifest.spec.with_(disks=())
    if len(manifest.spec.disks) > 1:
        assert list(images) == [disk.name for disk in manifest.spec.disks]
        assert list(images.values()) == [None, *(f"x/y-{name}:1" for name in list(images)[1:])]
    assert {loss.path for loss in domain.losses} <= {"uuid", "cpu", "os/loader", "devices/tpm/state"}


def test_a_whole_one() -> None:
    manifest = EndophyteManifest.model_validate({
        "metadata": {
            "name": "db", "labels": {"a": "b"},
            "annotations": {"mycelium.network/title": "Data\x07base\nof all", "mycelium.network/x": "y"},
        },
        "spec": {
            "image": "me/db:1", "resources": {"cpus": 2, "memory": "2GiB"}, "firmware": "uefi-secure", "tpm": True,
            "display": "vnc", "disks": [{"name": "system"}, {"name": "data", "size": "1GiB"}],
            "networks": [{"mac": "52:54:00:00:00:01", "address": "10.77.0.50"}, {"network": "office"}],
            "cloudInit": {"user": "anna"}, "placement": {"nodeSelector": {"a": "b"}},
        },
    })  # fmt: skip
    made = export(manifest, firmware=Firmware.UEFI_SECURE)
    text = made.xml + "".join(f"{loss}\n" for loss in made.losses)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()
    assert made.disks == ("/images/db-system.qcow2", "/images/db-data.qcow2")


def test_a_disk_that_the_manifest_does_not_name_is_there() -> None:
    manifest = EndophyteManifest.model_validate({"metadata": {"name": "a"}, "spec": {"image": "x/y:1"}})
    assert export(manifest).disks == ("/images/a-vda.qcow2",)
    assert export(manifest, KERNEL).disks == ("/images/a-vda.qcow2", "/images/a.kernel", "/images/a.initrd")
    assert export(manifest, KERNEL.with_(disk=None)).disks == ("/images/a.kernel", "/images/a.initrd")


def test_a_container_is_refused() -> None:
    manifest = EndophyteManifest.model_validate(
        {"metadata": {"name": "a"}, "spec": {"image": "x", "virtualComputer": {"type": "container"}}}
    )
    with pytest.raises(RefusedError) as caught:
        export(manifest)
    assert caught.value.code == "export-unsupported"
