"""Which firmware a guest gets, and what happens to its variables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hostagent.drivers.firmware import VARS_FILE, find_firmware, prepare_vars, replace_vars
from hostagent.drivers.firmware.catalogue import read_descriptors, select
from hostagent.drivers.qemu import spec
from vdc.model.errors import ConflictError, InvalidError, NotFoundError
from vdc.model.manifest import Firmware

SECURE = ["secure-boot", "enrolled-keys", "requires-smm", "acpi-s3"]


def descriptor(
    code: str,
    variables: str = "VARS.fd",
    *,
    features: tuple[str, ...] | list[str] = (),
    machines: tuple[str, ...] = ("pc-i440fx-*", "pc-q35-*"),
    **mapping: Any,
) -> dict[str, Any]:
    return {
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": f"/usr/share/OVMF/{code}", "format": "raw"},
            "nvram-template": {"filename": f"/usr/share/OVMF/{variables}", "format": "raw"},
            **mapping,
        },
        "targets": [{"architecture": "x86_64", "machines": list(machines)}],
        "features": list(features),
    }


def root_with(tmp_path: Path, descriptors: dict[str, Any], files: tuple[str, ...]) -> Path:
    for name, content in descriptors.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    (tmp_path / "usr/share/OVMF").mkdir(parents=True)
    for file in files:
        (tmp_path / "usr/share/OVMF" / file).write_bytes(file.encode())
    return tmp_path


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    """The descriptors and files as Debian's package ships them."""
    base = "usr/share/qemu/firmware"
    descriptors = {
        f"{base}/40-enrolled.json": descriptor(
            "CODE.ms.fd", "VARS.ms.fd", features=SECURE, machines=("pc-q35-*",)
        ),
        f"{base}/50-secure.json": descriptor(
            "CODE.sb.fd", features=SECURE[:1] + SECURE[2:], machines=("pc-q35-*",)
        ),
        f"{base}/60-plain.json": descriptor("CODE.fd"),
    }
    return root_with(tmp_path, descriptors, ("CODE.ms.fd", "VARS.ms.fd", "CODE.sb.fd", "CODE.fd", "VARS.fd"))


def test_uefi_is_the_build_without_secure_boot(debian: Path) -> None:
    files = find_firmware(Firmware.UEFI, debian)
    assert files.code == "/usr/share/OVMF/CODE.fd"
    assert files.vars_template == debian / "usr/share/OVMF/VARS.fd"
    assert not files.requires_smm


def test_secure_boot_is_the_build_with_keys_in_it(debian: Path) -> None:
    files = find_firmware(Firmware.UEFI_SECURE, debian)
    assert files.code == "/usr/share/OVMF/CODE.ms.fd"
    assert files.vars_template.name == "VARS.ms.fd"
    assert files.requires_smm


def test_secure_boot_does_not_exist_for_the_old_machine(debian: Path) -> None:
    assert find_firmware(Firmware.UEFI, debian, machine="pc").code == "/usr/share/OVMF/CODE.fd"
    with pytest.raises(NotFoundError, match="no uefi-secure firmware for pc"):
        find_firmware(Firmware.UEFI_SECURE, debian, machine="pc")


def test_a_build_whose_file_is_gone_is_passed_over(debian: Path) -> None:
    (debian / "usr/share/OVMF/VARS.ms.fd").unlink()
    with pytest.raises(NotFoundError) as missing:
        find_firmware(Firmware.UEFI_SECURE, debian)
    assert (missing.value.code, missing.value.problem.hint) == (
        "firmware-missing",
        "run make setup, it builds the runtime root anew",
    )


def test_a_root_without_firmware_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=rf"the runtime root {tmp_path} has no uefi firmware for q35"):
        find_firmware(Firmware.UEFI, tmp_path)


def test_bios_has_no_files(debian: Path) -> None:
    with pytest.raises(InvalidError):
        find_firmware(Firmware.BIOS, debian)


def test_etc_goes_before_usr_and_hides_its_namesake(debian: Path) -> None:
    etc = debian / "etc/qemu/firmware"
    etc.mkdir(parents=True)
    (etc / "60-plain.json").write_text("")
    with pytest.raises(NotFoundError):
        find_firmware(Firmware.UEFI, debian)
    (etc / "60-plain.json").write_text(json.dumps(descriptor("CODE.sb.fd")))
    assert find_firmware(Firmware.UEFI, debian).code == "/usr/share/OVMF/CODE.sb.fd"


def test_descriptors_are_tried_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = (
        "usr/share/qemu/firmware/70-b.json",
        "etc/qemu/firmware/80-c.json",
        "usr/share/qemu/firmware/60-a.json",
    )
    root = root_with(tmp_path, {name: descriptor(Path(name).stem) for name in names}, ())
    found = [Path(d["mapping"]["executable"]["filename"]).name for d in read_descriptors(root)]
    assert found == ["60-a", "70-b", "80-c"]


@pytest.mark.parametrize(
    "unfit",
    [
        descriptor("x", device="memory"),
        descriptor("x", executable={"filename": "/x", "format": "qcow2"}),
        descriptor("x", machines=("microvm",)),
        {**descriptor("x"), "interface-types": ["bios"]},
        {**descriptor("x"), "targets": [{"architecture": "aarch64", "machines": ["*"]}]},
        {},
    ],
)
def test_what_does_not_fit_is_not_selected(unfit: dict[str, Any]) -> None:
    assert select([unfit], Firmware.UEFI, "q35") == []


def test_a_vm_gets_its_own_copy_of_the_variables_and_keeps_it(tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.write_bytes(b"fresh")
    path = prepare_vars(template, tmp_path)
    assert path.read_bytes() == b"fresh"
    path.write_bytes(b"guest")
    assert prepare_vars(template, tmp_path).read_bytes() == b"guest"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["template", VARS_FILE]


def test_variables_of_another_firmware_are_neither_used_nor_lost(tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.write_bytes(b"larger than the old")
    (tmp_path / VARS_FILE).write_bytes(b"old")
    with pytest.raises(ConflictError) as conflict:
        prepare_vars(template, tmp_path)
    assert conflict.value.code == "firmware-vars-mismatch"
    assert (tmp_path / VARS_FILE).read_bytes() == b"old"


def test_a_missing_template_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="none does not exist"):
        prepare_vars(tmp_path / "none", tmp_path)
    assert not (tmp_path / VARS_FILE).exists()


def test_another_hosts_variables_replace_the_own(tmp_path: Path) -> None:
    (tmp_path / VARS_FILE).write_bytes(b"mine!")
    replace_vars(tmp_path, b"their")
    assert (tmp_path / VARS_FILE).read_bytes() == b"their"
    with pytest.raises(ConflictError):
        replace_vars(tmp_path, b"cut")
    assert (tmp_path / VARS_FILE).read_bytes() == b"their"


def test_qemu_is_told_the_same_name() -> None:
    assert spec.VARS_FILE == VARS_FILE
