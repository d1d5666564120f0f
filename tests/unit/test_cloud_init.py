"""What cloud-init is told: against golden files, and that every host makes the same bytes of it."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import yaml
from protection_world import host

from hostagent.drivers.guest.iso9660 import SECTOR_BYTES, iso9660
from hostagent.drivers.guest.seed import seed
from hostagent.supervisor.guestnet import nameservers
from vdc.control.cloudinit import check_cloud_init
from vdc.model.errors import InvalidError
from vdc.model.guest import GuestNic
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.manifest import CloudInit, EndophyteManifest
from vdc.model.secrets import MASK, masked, unmasked

GOLDEN = Path(__file__).parent / "golden" / "guest"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMg0u7Yz0XrQ3JrZyZkqkKcJ1h3G0yq2eV8yq1o9xYzA me@höme"
NICS = (
    GuestNic(mac="52:54:00:00:00:01", address="10.77.0.10", prefix=24, mtu=1400),
    GuestNic(mac="52:54:00:00:00:02", address="10.78.0.10", prefix=16, mtu=1500, gateway="10.78.0.1"),
)
CASES = {
    "nothing": CloudInit(),
    "user": CloudInit(user="anna", ssh_authorized_keys=(KEY, KEY)),
    "own-data": CloudInit(user="anna", user_data="#!/bin/sh\ntrue\n", network_config="version: 2\n"),
}


def made(given: CloudInit, uid: str = "6f1f2a8e-5a5c-4a39-9d5e-0c6f1e0f7a01") -> bytes:
    return seed(
        uid=uid, hostname="web", given=given, nics=NICS, domain="vdc.internal", nameservers=("10.77.0.1",)
    )


def files_of(disk: bytes, descriptor: int) -> dict[str, bytes]:
    """As a reader finds them: from the volume's descriptor to its folder to each file."""
    start = descriptor * SECTOR_BYTES
    kind, magic = struct.unpack_from("<B5s", disk, start)
    assert magic == b"CD001"
    folder, size = struct.unpack_from("<I4xI", disk, start + 156 + 2)
    at, end, found = folder * SECTOR_BYTES, folder * SECTOR_BYTES + size, {}
    while at < end and (length := disk[at]):
        place, size_bytes = struct.unpack_from("<I4xI", disk, at + 2)
        name = disk[at + 33 : at + 33 + disk[at + 32]]
        if name not in (b"\0", b"\1"):
            text = name.decode("utf-16-be" if kind == 2 else "ascii")
            found[text] = disk[place * SECTOR_BYTES :][:size_bytes]
        at += length
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_files_are_the_golden_ones(name: str) -> None:
    files = files_of(made(CASES[name]), 17)
    text = "".join(f"--- {file}\n{content.decode()}" for file, content in sorted(files.items()))
    path = GOLDEN / f"seed-{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_every_host_makes_the_same_disk_and_another_vm_has_another() -> None:
    assert made(CASES["user"]) == made(CASES["user"])
    assert made(CASES["user"]) != made(CASES["user"], uid="0" * 36)


def test_what_is_json_is_yaml_as_well() -> None:
    files = files_of(made(CASES["user"]), 17)
    for name in ("meta-data", "network-config"):
        assert yaml.safe_load(files[name]) == json.loads(files[name])
    assert yaml.safe_load(files["meta-data"])["public-keys"] == [KEY, KEY]
    assert yaml.safe_load(files["user-data"]) == {"user": {"name": "anna"}}


def test_both_trees_lead_to_the_same_files() -> None:
    disk = iso9660("cidata", {"user-data": b"u" * 5000, "meta-data": b"", "network-config": b"n"})
    plain, joliet = files_of(disk, 16), files_of(disk, 17)
    assert plain == {"META-DATA.;1": b"", "NETWORK-CONFIG.;1": b"n", "USER-DATA.;1": b"u" * 5000}
    assert joliet == {"meta-data": b"", "network-config": b"n", "user-data": b"u" * 5000}
    assert disk[16 * SECTOR_BYTES + 40 :][:32] == b"cidata".ljust(32)
    assert disk[17 * SECTOR_BYTES + 40 :][:32].decode("utf-16-be").rstrip() == "cidata"
    assert struct.unpack_from("<I", disk, 16 * SECTOR_BYTES + 80)[0] * SECTOR_BYTES == len(disk)


def test_names_that_would_be_cut_are_a_defect() -> None:
    with pytest.raises(ValueError, match="short names"):
        iso9660("cidata", {"n" * 31: b""})


def test_a_witness_serves_no_names() -> None:
    hosts = [host("h2"), host("h1"), host("h3").with_(role="witness")]
    assert nameservers(hosts) == ("10.77.0.1", "10.77.0.2")


# ---- what people write


def manifest(cloud_init: dict[str, object], **spec: object) -> EndophyteManifest:
    return EndophyteManifest.model_validate(
        {
            "apiVersion": "mycelium.network/v1", "kind": "Endophyte", "metadata": {"name": "web"},
            "spec": {"image": "debian:latest", "cloudInit": cloud_init, **spec},
        }
    )  # fmt: skip


DISK = Image(kind=ImageKind.DISK, disk=Blob(digest="sha256:" + "0" * 64, size_bytes=1))
KERNEL = Image(kind=ImageKind.KERNEL)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "ssh-ed25519",
        "ssh-rsa short",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        KEY + "\nssh-rsa AAAA",
        "é AAAA" + "A" * 20,
    ],
)
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="not an SSH public key"):
        manifest({"sshAuthorizedKeys": [key]})


@pytest.mark.parametrize(
    ("given", "image", "code"),
    [
        ({}, KERNEL, "cloud-init-unsupported"),
        ({"userData": "package_update: true"}, DISK, "user-data-invalid"),
        ({"userData": "#cloud-config\nusers: [\n"}, DISK, "user-data-invalid"),
        ({"userData": "#cloud-config\n- one\n"}, DISK, "user-data-invalid"),
        ({"networkConfig": "version: 2\n:"}, DISK, "network-config-invalid"),
    ],
)
def test_what_cloud_init_would_pass_over_in_silence_is_refused(
    given: dict[str, object], image: Image, code: str
) -> None:
    with pytest.raises(InvalidError) as caught:
        check_cloud_init(manifest(given), image)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "text",
    [
        "#!/bin/sh\nexit 0\n",
        "#cloud-config\n{}\n",
        "#cloud-config\n",
        "#cloud-config-archive\n- x\n",
        "Content-Type: x\n",
    ],
)
def test_what_cloud_init_knows_is_taken(text: str) -> None:
    check_cloud_init(manifest({"userData": text}), DISK)


def test_a_mistake_in_a_secret_is_not_repeated() -> None:
    with pytest.raises(InvalidError) as caught:
        check_cloud_init(manifest({"userData": "#cloud-config\npassword: [hunter2\n"}), DISK)
    assert "hunter2" not in str(caught.value)


def test_user_data_is_a_secret() -> None:
    stored = manifest({"userData": "#cloud-config\npassword: hunter2\n", "user": "anna"})
    shown = masked(stored)
    assert "hunter2" not in shown.to_json() and "hunter2" not in repr(stored)
    assert shown.spec.cloud_init is not None and shown.spec.cloud_init.user_data == MASK
    assert unmasked(shown, stored) == stored
    with pytest.raises(InvalidError) as caught:
        unmasked(shown, None)
    assert caught.value.code == "secret-missing"
