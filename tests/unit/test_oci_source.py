"""Where an image comes from, and what goes wrong on the way: the pure parts."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.oci_layout import build_oci_image, docker_archive, entry, tar_of
from vdc.images.oci.credentials import find_credentials
from vdc.images.oci.refusals import refusal, said_by
from vdc.images.oci.registries import RegistryOptions, access_to
from vdc.images.oci.source import is_container_source, parse_source
from vdc.model.errors import InvalidError, NotFoundError, VdcError

DIGEST = "sha256:" + "a" * 64


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of the machine's own user counts."""
    for name in (
        "REGISTRY_AUTH_FILE",
        "XDG_RUNTIME_DIR",
        "XDG_CONFIG_HOME",
        "DOCKER_CONFIG",
        "CONTAINERS_REGISTRIES_CONF",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("vdc.images.oci.registries._ETC", tmp_path / "etc")
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("text", "wanted", "name"),
    [
        ("docker://redis", "docker://docker.io/library/redis:latest", "docker.io/library/redis:latest"),
        ("docker://redis:7", "docker://docker.io/library/redis:7", "docker.io/library/redis:7"),
        ("docker://team/app", "docker://docker.io/team/app:latest", "docker.io/team/app:latest"),
        ("docker.io/redis:7", "docker://docker.io/library/redis:7", "docker.io/library/redis:7"),
        ("index.docker.io/a/b", "docker://docker.io/a/b:latest", "docker.io/a/b:latest"),
        ("localhost:5000/x:1", "docker://localhost:5000/x:1", "localhost:5000/x:1"),
        ("quay.io/a/b/c:v1", "docker://quay.io/a/b/c:v1", "quay.io/a/b/c:v1"),
        (f"docker://quay.io/a@{DIGEST}", f"docker://quay.io/a@{DIGEST}", f"quay.io/a@{DIGEST}"),
        (
            f"docker://localhost:5000/a:1@{DIGEST}",
            f"docker://localhost:5000/a@{DIGEST}",
            "localhost:5000/a:1",
        ),
    ],
)
def test_registries(text: str, wanted: str, name: str) -> None:
    assert is_container_source(text)
    source = parse_source(text)
    assert (source.text, source.name) == (wanted, name)
    assert source.registry == wanted.removeprefix("docker://").partition("/")[0]
    assert source.repository == wanted.removeprefix("docker://").partition("@")[0].removesuffix(
        ":" + wanted.rpartition(":")[2]
    )


@pytest.mark.parametrize(
    "text",
    [
        "docker://",
        "docker://UPPER",
        "docker://u:p@host/x",
        "docker://a b",
        "docker://x:",
        "docker://-x",
        "docker://x@sha256:1",
    ],
)
def test_no_names(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_source(text)
    assert caught.value.code == "image-ref-invalid"


@pytest.mark.parametrize(
    "text", ["disk.qcow2", "folder/disk.qcow2", "./quay.io/x", "/quay.io/x", "redis:7", "team/app"]
)
def test_these_are_files(text: str) -> None:
    assert not is_container_source(text)


def test_layouts_and_archives(tmp_path: Path) -> None:
    layout = build_oci_image(tar_of(entry("x")), tmp_path / "My:Image")
    assert parse_source(f"oci:{layout}").text == "oci:/run/input"
    assert parse_source(f"oci:{layout}:1.0").text == "oci:/run/input:1.0"
    assert parse_source(f"oci:{layout}:quay.io/a/b:2").name == "quay.io/a/b:2"
    assert parse_source(f"oci:{layout}:1.0").path == layout
    layout = build_oci_image(tar_of(entry("x")), tmp_path / "image")
    assert parse_source(f"oci:{layout}:1.0").name == "image:1.0"
    archive = docker_archive([tar_of(entry("x"))], tmp_path / "saved.tar", tag="redis:7")
    assert parse_source(f"docker-archive:{archive}").name == "docker.io/library/redis:7"
    assert parse_source(f"docker-archive:{archive}:team/app").name == "docker.io/team/app:latest"
    (tmp_path / "other.tar").write_bytes(b"no archive")
    assert parse_source(f"docker-archive:{tmp_path}/other.tar").name == ""
    assert parse_source(f"oci-archive:{tmp_path}/other.tar:x").name == "other:x"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("oci:{0}/missing", "source-not-found"),
        ("oci:{0}/file", "source-unsupported"),
        ("oci:{0}", "source-unsupported"),
        ("oci-archive:{0}", "source-unsupported"),
        ("oci-archive:{0}/file:a b", "source-unsupported"),
        ("docker-archive:{0}/file:--all", "source-unsupported"),
    ],
)
def test_what_is_no_layout(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(VdcError) as caught:
        parse_source(text.format(tmp_path))
    assert caught.value.code == code


# ---- credentials


def login(path: Path, user: str = "u", password: str = "p%/", **more: Any) -> Path:
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    places = more.pop("places", ["localhost:5000"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {place: {"auth": auth} for place in places}, **more}))
    return path


def who(entry: dict[str, str]) -> str:
    return base64.b64decode(entry["auth"]).decode().partition(":")[0]


def test_credentials_are_found_where_podman_and_docker_look(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> str:
        entries = find_credentials(("localhost:5000/app",)).entries
        return who(dict(entries["localhost:5000"])) if entries else ""

    assert found() == ""
    login(home / ".docker/config.json", "docker", places=["https://localhost:5000/v1/"])
    assert found() == "docker"
    login(home / ".config/containers/auth.json", "home")
    assert found() == "home"
    login(tmp_path / "run/containers/auth.json", "podman")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    assert found() == "podman"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(login(tmp_path / "named.json", "named")))
    assert found() == "named"
    own = login(tmp_path / "own.json", "own")
    assert who(dict(find_credentials(("localhost:5000/app",), own).entries["localhost:5000"])) == "own"


def test_only_the_nearest_entry_is_taken(home: Path) -> None:
    login(
        home / ".docker/config.json",
        places=["quay.io", "quay.io/team", "other.example", "https://index.docker.io/v1/"],
    )
    assert list(find_credentials(("quay.io/team/app",)).entries) == ["quay.io/team"]
    assert list(find_credentials(("quay.io/teams/app",)).entries) == ["quay.io"]
    assert list(find_credentials(("docker.io/library/redis", "other.example/x")).entries) == [
        "docker.io",
        "other.example",
    ]
    credentials = find_credentials(("quay.io/x",))
    assert set(credentials.secrets) == {base64.b64encode(b"u:p%/").decode(), "p%/"}
    assert json.loads(credentials.to_json())["auths"]["quay.io"]["auth"]


def test_helpers_are_asked(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "bin/docker-credential-test"
    helper.parent.mkdir()
    helper.write_text(
        "#!/bin/sh\nread -r at\n[ $at = known:5000 ] || exit 1\n"
        """echo '{"Username": "me", "Secret": "s3cret"}'\n"""
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    login(home / ".docker/config.json", places=[], credsStore="test")
    found = find_credentials(("known:5000/x", "unknown:5000/x"))
    assert base64.b64decode(found.entries["known:5000"]["auth"]) == b"me:s3cret" and "s3cret" in found.secrets
    assert "unknown:5000" not in found.entries
    for wrong in (
        {"credHelpers": {"known:5000": "../evil"}},
        {"credHelpers": {"known:5000": "missing"}},
        {"auths": 5},
    ):
        (home / ".docker/config.json").write_text(json.dumps(wrong))
        with pytest.raises(InvalidError) as caught:
            find_credentials(("known:5000/x",))
        assert caught.value.code == "auth-file-invalid"


def test_files_of_credentials_that_cannot_be_read(home: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        find_credentials(("x.example/x",), tmp_path / "missing")
    for content in ("{", "[]", "[" * 100_000):
        (tmp_path / "bad").write_text(content)
        with pytest.raises(InvalidError):
            find_credentials(("x.example/x",), tmp_path / "bad")


def test_mirrors_bring_their_credentials(home: Path, tmp_path: Path) -> None:
    login(home / ".docker/config.json", places=["mirror.example:5000", "other.example"])
    etc = tmp_path / "etc"
    (etc / "registries.conf.d").mkdir(parents=True)
    (etc / "registries.conf").write_text(
        '[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n'
        '[[registry.mirror]]\nlocation = "mirror.example:5000/hub"\n'
        '[[registry]]\nprefix = "unrelated.example"\n[[registry.mirror]]\nlocation = "other.example"\n'
    )
    access = access_to(parse_source("docker://redis"), RegistryOptions())
    assert list(json.loads(access.auth_json)["auths"]) == ["mirror.example:5000"]
    assert [bind.source.name for bind in access.binds] == ["registries.conf", "registries.conf.d"]
    assert access.secrets and not any(secret in repr(access) for secret in access.secrets)
    (etc / "registries.conf").write_text("[[registry")
    with pytest.raises(InvalidError) as caught:
        access_to(parse_source("docker://redis"), RegistryOptions())
    assert caught.value.code == "registries-conf-invalid"


def test_what_the_user_says_of_the_registry(tmp_path: Path) -> None:
    source = parse_source("docker://localhost:5000/x")
    ca = tmp_path / "ca.pem"
    with pytest.raises(NotFoundError):
        access_to(source, RegistryOptions(ca=ca))
    ca.write_text("")
    access = access_to(source, RegistryOptions(ca=ca))
    assert access.source == ("cert-dir=/run/certs",) and access.binds[0].target == "/run/certs/ca.crt"
    assert access_to(source, RegistryOptions(is_insecure=True)).source == ("tls-verify=false",)
    assert access_to(source, RegistryOptions()).program == ("--insecure-policy",)
    (tmp_path / "etc").mkdir(exist_ok=True)
    (tmp_path / "etc/policy.json").write_text(
        '{"default": [{"type": "signedBy", "keyPath": "/etc/hostname"}]}'
    )
    access = access_to(source, RegistryOptions())
    assert access.program == () and str(access.binds[-1].source) == "/etc/hostname"


# ---- complaints


def fatal(message: str) -> str:
    quoted = message.replace('"', '\\"')
    return f'time="2026-11-23T14:47:40Z" level=fatal msg="{quoted}"\n'


@pytest.mark.parametrize(
    ("complaint", "code"),
    [
        ('choosing image instance: no image found in image index for architecture "amd64"', "image-arch-unsupported"),
        ("reading manifest latest in localhost:5000/x: manifest unknown: manifest unknown", "image-not-in-source"),
        ("reading manifest latest in localhost:5000/x: unauthorized: authentication required", "registry-unauthorised"),
        ("Requesting bearer token: invalid status code from registry 403 (Forbidden)", "registry-unauthorised"),
        ('Get "https://x/v2/": tls: failed to verify: x509: signed by unknown authority', "registry-untrusted"),
        ('Get "https://x/v2/": http: server gave HTTP response to HTTPS client', "registry-insecure"),
        ("dial tcp 127.0.0.1:5999: connect: connection refused", "registry-unreachable"),
        ("received unexpected HTTP status: 503 Service Unavailable", "registry-unreachable"),
        ("Digest did not match, expected sha256:1, got sha256:2", "image-digest-mismatch"),
        ("manifest does not match provided manifest digest sha256:1", "image-digest-mismatch"),
        ("toomanyrequests: You have reached your pull rate limit", "registry-limit"),
        ("Source image rejected: Running image docker://x is rejected by policy.", "image-rejected"),
        ("more than one image in oci, choose an image", "image-ambiguous"),
        ("gzip: invalid header", "image-damaged"),
        ("", "image-damaged"),
    ],
)  # fmt: skip
def test_complaints_have_codes(complaint: str, code: str) -> None:
    error = refusal(fatal(complaint) if complaint else "", what="x:1", where="registry x", secrets=())
    assert error.code == code and error.problem.hint and "\n" not in str(error)


def test_no_secret_is_in_a_message() -> None:
    said = said_by(
        fatal('Get "https://me:s3cret@x/v2/": basic c2VjcmV0 is wrong\x1b[31m'), ("c2VjcmV0", "s3cret")
    )
    assert "s3cret" not in said and "c2VjcmV0" not in said and "me:" not in said and "\x1b" not in said
    assert (
        said_by(fatal("a" * 1000 + "the reason")).endswith("the reason")
        and len(said_by(fatal("a" * 1000))) < 310
    )
