"""The list of what the product consists of: complete, valid CycloneDX 1.6 in what we use of it, and repeatable."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
import uuid
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from vdc.cli.main import cli
from vdc.cli.sbom import _FILES, document, read_lock, runtime_components, sbom
from vdc.model.errors import InvalidError, NotFoundError

ROOT = Path(__file__).parents[2]
TYPES = {"library", "file", "application"}
FIELDS = {"type", "bom-ref", "name", "version", "purl", "hashes", "scope", "properties"}


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    root = tmp_path / "runtime"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/qemu-img").write_bytes(b"program")
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/link").symlink_to("qemu-img")
    packages = {"qemu-utils": "1:11.1.3+ds-1~bpo13+1", "etcd-server": "3.5.16-4"}
    (root / "manifest.json").write_text(json.dumps({"suite": "trixie", "packages": packages}))
    return root


def made(part: str, runtime: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(sbom(part, runtime_root=runtime, requirements=ROOT / "requirements"))
    assert_valid(values)
    return values


def assert_valid(values: dict[str, Any]) -> None:
    """What the published schema demands of the fields that are used (bom-1.6.schema.json)."""
    assert (values["bomFormat"], values["specVersion"], values["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", values["serialNumber"])
    assert uuid.UUID(values["serialNumber"].removeprefix("urn:uuid:"))
    references = [one["bom-ref"] for one in values["components"]]
    references.append(values["metadata"]["component"]["bom-ref"])
    assert len(set(references)) == len(references)
    for one in (values["metadata"]["component"], *values["components"]):
        assert one["type"] in TYPES and one["name"] and one.keys() <= FIELDS
        assert one.get("scope", "required") in ("required", "optional", "excluded")
        for found in one.get("hashes", ()):
            assert found["alg"] == "SHA-256" and re.fullmatch(r"[0-9a-f]{64}", found["content"])
        for pair in one.get("properties", ()):
            assert pair.keys() == {"name", "value"}


def test_every_installed_package_is_listed_with_the_hashes_of_its_lock(runtime: Path) -> None:
    by_name = {one["name"]: one for one in made("python", runtime)["components"]}
    installed = {re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower() for one in distributions()}
    assert by_name.keys() == installed
    aiohttp = by_name["aiohttp"]
    assert aiohttp["purl"] == f"pkg:pypi/aiohttp@{version('aiohttp')}"
    assert aiohttp["scope"] == "required" and by_name["pytest"]["scope"] == "excluded"
    assert by_name["minio"]["scope"] == "optional" and by_name["minio"]["hashes"]
    lock = read_lock((ROOT / "requirements/base.txt").read_text())
    assert [one["content"] for one in aiohttp["hashes"]] == list(lock["aiohttp", version("aiohttp")])
    assert aiohttp["properties"][0]["name"] == "vdc:record-sha256"


def test_no_extra_is_left_out_of_the_product() -> None:
    """Every extra but the one for development has a lock of its own, by which its parts are told."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    locks = {path.stem for path in (ROOT / "requirements").glob("*.txt")}
    assert extras.keys() <= locks
    optional = {name.removesuffix(".txt") for name in _FILES["optional"]}
    assert optional == extras.keys() - {"dev"}


def test_the_runtime_root_is_listed_by_package_and_by_file(runtime: Path) -> None:
    components = {one["name"]: one for one in made("runtime", runtime)["components"]}
    assert components.keys() == {"qemu-utils", "etcd-server", "/manifest.json", "/usr/bin/qemu-img"}
    assert components["qemu-utils"]["purl"] == (
        "pkg:deb/debian/qemu-utils@1%3A11.1.3%2Bds-1~bpo13%2B1?arch=amd64&distro=trixie"
    )
    digest = hashlib.sha256(b"program").hexdigest()
    assert components["/usr/bin/qemu-img"]["hashes"] == [{"alg": "SHA-256", "content": digest}]


def test_the_same_installation_gives_the_same_text(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    first = sbom("all", runtime_root=runtime, requirements=None)
    assert first == sbom("all", runtime_root=runtime, requirements=None)
    assert "timestamp" not in json.loads(first)["metadata"]
    (runtime / "usr/bin/qemu-img").write_bytes(b"another program")
    changed = json.loads(sbom("all", runtime_root=runtime, requirements=None))
    assert changed["serialNumber"] != json.loads(first)["serialNumber"]


def test_a_time_comes_from_the_build_alone(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert made("runtime", runtime)["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "now")
    with pytest.raises(InvalidError):
        document("all", [])


def test_without_a_runtime_root_there_is_nothing_to_list(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        runtime_components(tmp_path)
    assert caught.value.code == "runtime-missing"


def test_the_doctor_prints_it(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache/runtime").mkdir(parents=True)
    runtime.rename(tmp_path / "cache/runtime/current")
    monkeypatch.setenv("VDC_CACHE_DIR", str(tmp_path / "cache"))
    for arguments, name in ((["--sbom"], "vdc-all"), (["--sbom", "runtime"], "vdc-runtime")):
        done = CliRunner().invoke(cli, ["doctor", *arguments])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["metadata"]["component"]["name"] == name
