"""Container images from a real registry."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_import import CONFIG, KERNEL, LAYER, NEEDS, error_of, fetched
from registry_support import (
    AUTH,
    PASSWORD,
    Registry,
    certificates,
    needs_registry,
    running_registry,
)

from tests.oci_layout import build_oci_image, entry, make_index, tar_of
from vdc.images.oci.importing import ContainerFiles
from vdc.images.oci.registries import RegistryOptions
from vdc.images.sources import ImportOptions, plan_import

pytestmark = [*NEEDS, pytest.mark.usefixtures("temporary")]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_oci_image(LAYER, tmp_path_factory.mktemp("image") / "app", config=CONFIG)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """With TLS of the tests' own authority, and one user."""
    place = tmp_path_factory.mktemp("registry")
    with running_registry(place, tls=certificates(place), has_users=True) as registry:
        yield registry


def login(home: Path, place: str, auth: str = AUTH) -> None:
    path = home / ".docker/config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {place: {"auth": auth}}}))


# ---- a real registry


@needs_registry
def test_with_tls_and_a_password(secured: Registry, layout: Path, tmp_path: Path) -> None:
    digest = secured.push(layout, "team/app")
    name = f"docker://{secured.place}/team/app"
    assert error_of(name).code == "registry-untrusted"
    assert "--ca" in error_of(name).problem.hint
    assert error_of(name, ca=secured.ca).code == "registry-unauthorised"
    login(tmp_path / "home", secured.place, "bm9ib2R5Ondyb25n")
    wrong = error_of(name, ca=secured.ca)
    assert (
        wrong.code == "registry-unauthorised" and "bm9ib2R5" not in str(wrong) and "wrong" not in str(wrong)
    )
    login(tmp_path / "home", secured.place)
    made = fetched(name, ca=secured.ca)
    assert isinstance(made, ContainerFiles) and made.process.entrypoint == ("/app/run",)
    assert isinstance(fetched(f"{name}@{digest}", ca=secured.ca), ContainerFiles)
    assert isinstance(fetched(f"{secured.place}/team/app:latest", ca=secured.ca), ContainerFiles)
    missing = error_of(f"{name}:2", ca=secured.ca)
    assert missing.code == "image-not-in-source" and f"{secured.place}/team/app:2" in str(missing)
    assert error_of(f"docker://{secured.place}/team/other", ca=secured.ca).code == "image-not-in-source"
    unknown = error_of(f"{name}@sha256:{'0' * 64}", ca=secured.ca)
    assert unknown.code == "image-not-in-source"


@needs_registry
def test_nobody_sees_the_password(secured: Registry, layout: Path, tmp_path: Path) -> None:
    """Not in the arguments of any process, and in no file that stays."""
    secured.push(layout, "secret/app")
    login(tmp_path / "home", secured.place)
    seen: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    text = path.read_bytes()
                except OSError:
                    continue
                if b"skopeo" in text:
                    seen.add(text.decode(errors="replace"))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        fetched(f"docker://{secured.place}/secret/app", ca=secured.ca)
    finally:
        done.set()
        watcher.join()
    assert seen
    assert not any(AUTH in one or PASSWORD in one for one in seen)


@needs_registry
def test_without_tls_only_if_that_is_wanted(layout: Path, tmp_path: Path) -> None:
    with running_registry(tmp_path / "registry") as registry:
        registry.push(layout, "app")
        assert error_of(f"docker://{registry.place}/app").code == "registry-insecure"
        assert isinstance(fetched(f"docker://{registry.place}/app", is_insecure=True), ContainerFiles)


@needs_registry
def test_a_mirror_is_asked_first(layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_registry(tmp_path / "registry") as registry:
        registry.push(layout, "hub/library/app")
        conf = tmp_path / "registries.conf"
        conf.write_text(
            '[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n'
            f'[[registry.mirror]]\nlocation = "{registry.place}/hub"\ninsecure = true\n'
        )
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
        assert isinstance(fetched("docker://app"), ContainerFiles)


@needs_registry
def test_the_platform_is_chosen(tmp_path: Path) -> None:
    layout = build_oci_image(LAYER, tmp_path / "image", config=CONFIG, tag="amd")
    build_oci_image(tar_of(entry("other")), layout, tag="arm", arch="arm64")
    make_index(layout, ["arm", "amd"], "both")
    make_index(layout, ["arm"], "none")
    with running_registry(tmp_path / "registry") as registry:
        for tag in ("amd", "arm", "both", "none"):
            registry.push(layout, "app", tag=tag)
        name = f"docker://{registry.place}/app"
        made = fetched(f"{name}:both", is_insecure=True)
        assert isinstance(made, ContainerFiles) and made.process.entrypoint == ("/app/run",)
        for tag in ("arm", "none"):
            assert error_of(f"{name}:{tag}", is_insecure=True).code == "image-arch-unsupported"


@needs_registry
def test_two_imports_of_the_same_image_at_once(secured: Registry, layout: Path, tmp_path: Path) -> None:
    secured.push(layout, "twice/app")
    login(tmp_path / "home", secured.place)
    digests: list[str] = []

    def work() -> None:
        options = ImportOptions(registry=RegistryOptions(secured.ca), find_image=lambda _: KERNEL)
        with plan_import(f"docker://{secured.place}/twice/app", options) as plan:
            digests.append(plan.digest)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 2 and len(set(digests)) == 1
