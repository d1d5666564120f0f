"""The manifest's rules about containers, cloud-init and firmware."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vdc.model.manifest import EndophyteManifest, Firmware
from vdc.model.manifest_file import load_object, load_text
from vdc.model.strict_yaml import dump

CONTAINER = {"type": "container"}


def loaded(**spec: Any) -> EndophyteManifest:
    found = load_object(document(**spec), "f")
    assert found.manifest is not None, found.error
    return found.manifest


def document(**spec: Any) -> dict[str, Any]:
    return {"kind": "Endophyte", "metadata": {"name": "a"}, "spec": {"image": "x", **spec}}


def complaint(**spec: Any) -> str:
    found = load_object(document(**spec), "f")
    assert found.error is not None
    return str(found.error)


def disks(*more: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "root"}, *more]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"process": {}}, "process is not for virtualComputer.type: full-virtualization"),
        ({"disks": disks({"name": "b", "size": "1GiB", "mountPath": "/b"})},
         "disks[].mountPath and readOnly is not for virtualComputer.type: full-virtualization"),
        ({"disks": [{"name": "b", "readOnly": True}]}, "disks[].mountPath and readOnly is not for"),
        ({"virtualComputer": CONTAINER, "cloudInit": {}}, "cloudInit is not for virtualComputer.type: container"),
        ({"virtualComputer": CONTAINER, "firmware": "uefi"}, "firmware is not for virtualComputer.type: container"),
        ({"virtualComputer": CONTAINER, "tpm": True}, "tpm is not for virtualComputer.type: container"),
        ({"virtualComputer": CONTAINER, "display": "vnc"}, "display is not for virtualComputer.type: container"),
        ({"virtualComputer": CONTAINER, "disks": [{"name": "b", "mountPath": "/b"}]}, "disks[0] is the root"),
        ({"virtualComputer": CONTAINER, "disks": [{"name": "b", "readOnly": True}]}, "disks[0] is the root"),
        ({"virtualComputer": CONTAINER,
          "disks": disks(*({"name": n, "size": "1GiB", "mountPath": "/d"} for n in ("b", "c")))},
         "the same mountPath is given twice"),
        ({"virtualComputer": CONTAINER, "disks": disks({"name": "b", "size": "1GiB", "mountPath": "/d"}),
          "process": {"emptyDirs": [{"path": "/d"}]}}, "the same mountPath is given twice"),
        ({"virtualComputer": CONTAINER, "disks": disks({"name": "b", "size": "1GiB", "mountPath": "/d/e"}),
          "process": {"files": [{"path": "/d", "content": ""}]}}, "/d cannot be a file and a folder"),
        ({"virtualComputer": CONTAINER, "process": {"emptyDirs": [{"path": "/d"}],
          "files": [{"path": "/d", "content": ""}]}}, "/d cannot be a file and a folder"),
        ({"virtualComputer": CONTAINER, "disks": disks({"name": "b", "mountPath": "/proc/b"})},
         "disks[1].mountPath: '/proc/b' is below /proc, which is the guest's kernel's own"),
        ({"virtualComputer": CONTAINER, "disks": disks({"name": "b", "mountpath": "/b"})},
         "disks[1].mountpath: unknown field (did you mean mountPath?)"),
        ({"virtualComputer": CONTAINER, "process": {"livenessProb": {}}},
         "spec.process.livenessProb: unknown field (did you mean livenessProbe?)"),
        ({"firmware": "efi"}, "spec.firmware: input should be 'bios', 'uefi' or 'uefi-secure'"),
        ({"cloudInit": {"user": "Root"}}, "spec.cloudInit.user: string should match pattern"),
        ({"cloudInit": {"sshKeys": []}}, "spec.cloudInit.sshKeys: unknown field (known here: user, sshAuthorizedKeys"),
    ],
)  # fmt: skip
def test_each_mistake_has_a_message_of_its_own(spec: dict[str, Any], words: str) -> None:
    assert words in complaint(**spec)


def test_a_containers_fields() -> None:
    manifest = loaded(
        virtualComputer=CONTAINER,
        firmware="bios",
        disks=disks({"name": "data", "size": "1GiB", "mountPath": "/data", "readOnly": True}),
        process={"files": [{"path": "/data/a", "content": ""}], "emptyDirs": [{"path": "/data/b"}]},
    )
    assert manifest.spec.disks[1].mount_path == "/data" and manifest.spec.disks[1].read_only
    assert manifest.spec.firmware is Firmware.BIOS


def test_without_firmware_the_image_decides() -> None:
    assert loaded().spec.firmware is None


def test_a_manifest_comes_back_from_json_and_yaml_as_it_went() -> None:
    manifest = loaded(
        virtualComputer=CONTAINER,
        process={"env": [{"name": "A", "value": "0o7", "secret": True}],
                 "files": [{"path": "/a", "content": "b\n", "mode": 0o600}],
                 "livenessProbe": {"httpGet": {"port": 80}}},
    )  # fmt: skip
    assert EndophyteManifest.from_json(manifest.to_json()) == manifest
    text = dump(json.loads(manifest.to_json()))
    (again,) = load_text(text.encode(), "f")
    assert again.manifest == manifest


def test_what_the_api_shows_can_be_applied_again() -> None:
    manifest = loaded(virtualComputer=CONTAINER)
    shown = {
        **json.loads(manifest.to_json()),
        "metadata": {"name": "a", "uid": "u", "generation": 3, "createdAt": "2030-01-01T00:00:00Z", "labels": {},
                     "annotations": {}},
        "status": {"phase": "Running"},
    }  # fmt: skip
    for text in (
        dump(shown),
        dump({"items": [shown]}),
        dump({"kind": "List", "apiVersion": "v1", "items": [shown]}),
    ):
        (again,) = load_text(text.encode(), "f")
        assert again.manifest == manifest, again.error


@pytest.mark.parametrize(
    "text", ["items: 5", "items: {a: 1}", "kind: List", "kind: List\nitems: a", "[]", "items: []"]
)
def test_a_list_that_is_none(text: str) -> None:
    (one,) = load_text(text.encode(), "f")
    assert one.error is not None


def test_objects_of_lists_are_counted_on() -> None:
    first, second = load_text(b"items: [a, {kind: X}]", "f")
    assert "f (object 1): an object with" in str(first.error)
    assert "f (object 2): kind X" in str(second.error)
