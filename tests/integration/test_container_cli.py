"""Container images from the command line to a host's store, by the real API and the real skopeo."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_agent import Agent, running_agent
from cli_support import Capture, vdc
from container_import import NEEDS
from registry_support import Liar

from tests.oci_layout import build_oci_image, entry, folder, tar_of
from vdc.api.client import ApiClient
from vdc.cli.local_images import anchored, with_local_image
from vdc.model.errors import NotFoundError
from vdc.model.manifest import EndophyteManifest

pytestmark = [*NEEDS, pytest.mark.usefixtures("temporary")]


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    with running_agent(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    layer = tar_of(folder("app"), entry("app/run", b"#!/bin/sh", mode=0o755))
    return build_oci_image(layer, tmp_path / "app", config={"Entrypoint": ["/app/run"]})


@pytest.fixture
def kernel(agent: Agent, tmp_path: Path, capsys: Capture) -> None:
    """What boots containers, imported as it is in a cluster."""
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    for name in ("kernel", "initrd"):
        (recipe / name).write_text(name)
    described = {
        "name": "mycelium/container:latest",
        "kind": "kernel",
        "kernel": "kernel",
        "initrd": "initrd",
    }
    (recipe / "image.json").write_text(json.dumps({**described, "cmdline": "quiet"}))
    assert vdc(capsys, "image", "import", str(recipe))[0] == 0


def test_an_image_is_imported_and_found_by_its_short_name(
    agent: Agent,
    kernel: None,
    layout: Path,
    capsys: Capture,
) -> None:
    code, out, err = vdc(capsys, "image", "import", f"oci:{layout}", "--name", "docker.io/library/app:1")
    assert (code, out) == (0, "image/docker.io/library/app:1 imported (1 of 1 files sent)\n"), err
    shown = json.loads(vdc(capsys, "image", "describe", "app:1", "-o", "json")[1])
    image = shown["image"]
    assert image["kind"] == "container" and image["process"]["entrypoint"] == ["/app/run"]
    assert image["cmdline"] == "quiet" and image["kernel"] and image["initrd"]
    digest = shown["digest"]
    assert "0 of 1 files sent" in vdc(capsys, "image", "import", f"oci:{layout}", "--name", "me/same")[1]
    assert json.loads(vdc(capsys, "image", "describe", "me/same", "-o", "json")[1])["digest"] == digest
    assert vdc(capsys, "image", "rm", "app:1")[0] == 0
    assert json.loads(vdc(capsys, "image", "describe", "me/same", "-o", "json")[1])["names"] == [
        "me/same:latest"
    ]


def test_a_cluster_without_the_kernel(agent: Agent, layout: Path, capsys: Capture) -> None:
    code, _, err = vdc(capsys, "image", "import", f"oci:{layout}")
    assert code == 1 and "mycelium/container:latest" in err and "container-kernel-missing" in err


def test_what_the_user_writes_wrong(agent: Agent, layout: Path, capsys: Capture) -> None:
    for source, code in (
        (f"oci:{layout}/none", 2),
        ("oci:/etc", 2),
        ("docker://UPPER", 1),
        (f"oci:{layout}:none", 1),
    ):
        found, _, err = vdc(capsys, "image", "import", source)
        assert found == code and err.count("error:") == 1, err


def manifest(image: str, kind: str = "container") -> EndophyteManifest:
    spec = {"image": image, "virtualComputer": {"type": kind}}
    return EndophyteManifest.model_validate(
        {"apiVersion": "mycelium.network/v1", "kind": "Endophyte", "metadata": {"name": "web"}, "spec": spec}
    )


async def imported(agent: Agent, wanted: EndophyteManifest) -> tuple[str, set[str]]:
    async with ApiClient([f"unix://{agent.served.socket}"]) as api:
        made = await with_local_image(api, wanted)
        return made.spec.image, {name for entry in (await api.list_images()).items for name in entry.names}


async def test_a_manifest_may_say_where_the_image_comes_from(
    agent: Agent,
    kernel: None,
    layout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, names = await imported(agent, anchored(manifest("oci:app:latest"), tmp_path))
    assert image.startswith("file/app:") and image in names
    with Liar(layout) as registry:
        conf = tmp_path / "registries.conf"
        conf.write_text(
            f'[[registry]]\nlocation = "{registry.place}"\ninsecure = true\n'
            f'[[registry]]\nprefix = "docker.io"\nlocation = "{registry.place}"\ninsecure = true\n'
        )
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
        name = f"{registry.place}/team/app:1"
        image, names = await imported(agent, manifest(f"docker://{name}", "full-virtualization"))
        assert image == name and name in names
        asked = len(registry.asked)
        assert (await imported(agent, manifest(f"docker://{name}")))[0] == name
        assert len(registry.asked) == asked, "it is there"
        image, names = await imported(agent, manifest("app:7"))
        assert image == "app:7" and "docker.io/library/app:7" in names
        asked = len(registry.asked)
        await imported(agent, manifest("app:7"))
        await imported(agent, manifest("other:7", "full-virtualization"))
        assert len(registry.asked) == asked, "it is there, and disks are not looked for"


async def test_an_image_that_cannot_be_had(
    agent: Agent,
    kernel: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(NotFoundError) as caught:
        await imported(agent, manifest("localhost:1/app"))
    assert caught.value.code == "image-not-found" and "localhost:1" in str(caught.value)
