"""Templates: what ships is valid, and wishes change what they say and nothing else."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from vdc.cli.templates import Wishes, fill_in, list_templates, load_template, template_for, template_names
from vdc.model.errors import NotFoundError
from vdc.model.manifest import Display, Firmware, MemorySync


def test_every_template_that_ships_is_a_valid_manifest_of_its_own_name() -> None:
    templates = list_templates()
    assert [template.name for template in templates] == ["server", "windows-desktop"]
    for template in templates:
        assert template.manifest.metadata.name == template.name
        assert template.description


def test_the_windows_desktop_is_what_windows_asks_for() -> None:
    spec = load_template("windows-desktop").manifest.spec
    assert (spec.resources.cpus, spec.resources.memory) == (2, 4 * 1024**3)
    assert (spec.firmware, spec.tpm, spec.display) == (Firmware.UEFI, True, Display.VNC)
    assert spec.image == "mycelium/windows-11:latest" and spec.disks[0].size == 64 * 1024**3


def test_the_template_is_chosen_by_option_then_by_name_then_by_default() -> None:
    assert template_for("windows-desktop", None).name == "windows-desktop"
    assert template_for("windows-desktop", "server").name == "server"
    assert template_for("web", None).name == "server"


def test_an_unknown_template_is_answered_with_the_nearest() -> None:
    with pytest.raises(NotFoundError) as caught:
        load_template("windows-dekstop")
    assert caught.value.problem.hint == "did you mean windows-desktop?"


@pytest.mark.parametrize("name", ["../server", "", ".", "server.yaml"])
def test_only_names_are_templates(name: str) -> None:
    with pytest.raises(NotFoundError):
        load_template(name)


def test_no_wish_changes_the_name_alone() -> None:
    template = load_template("windows-desktop")
    manifest = fill_in(template, "desk", Wishes())
    assert manifest.metadata.name == "desk"
    assert manifest.spec == template.manifest.spec
    assert "mycelium.network/description" not in manifest.metadata.annotations


def test_wishes_change_what_they_say() -> None:
    wishes = Wishes(image="a/b", cpus=3, memory_bytes=2**30, disk_bytes=2**33, nodes=2, no_protect=True)
    spec = fill_in(load_template("server"), "x", wishes).spec
    assert (spec.image, spec.resources.cpus, spec.resources.memory) == ("a/b:latest", 3, 2**30)
    assert [(disk.name, disk.size) for disk in spec.disks] == [("system", 2**33)]
    assert spec.virtual_computer.memory_sync is MemorySync.NONE
    assert spec.virtual_computer.dedicated_nodes == 2


@pytest.mark.parametrize(
    "wishes", [Wishes(cpus=0), Wishes(memory_bytes=1), Wishes(nodes=99), Wishes(disk_bytes=5)]
)
def test_a_wish_out_of_bounds_is_refused(wishes: Wishes) -> None:
    with pytest.raises(ValidationError):
        fill_in(load_template("server"), "x", wishes)


def test_names_are_sorted() -> None:
    assert list(template_names()) == sorted(template_names())
