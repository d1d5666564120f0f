"""Names of images, and the digest of a description."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdc.images.reference import (
    candidates,
    check_digest,
    digest_of,
    has_registry,
    is_digest,
    normalise_reference,
    registry_reference,
)
from vdc.model.errors import InvalidError
from vdc.model.image import Blob, Image, ImageKind

BLOB = Blob(digest="sha256:" + "a" * 64, size_bytes=5)


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("mycelium/mini", "mycelium/mini:latest"),
        ("mycelium/mini:latest", "mycelium/mini:latest"),
        ("nginx", "nginx:latest"),
        ("a.b/c_d/e-f__g:V1.0-x", "a.b/c_d/e-f__g:V1.0-x"),
        ("localhost:5000/team/app", "localhost:5000/team/app:latest"),
        ("registry.example.org:443/app:2", "registry.example.org:443/app:2"),
        ("docker.io/library/redis:7", "docker.io/library/redis:7"),
        ("a@sha256:" + "b" * 64, "a@sha256:" + "b" * 64),
        ("localhost:5000/a:1@sha256:" + "b" * 64, "localhost:5000/a:1@sha256:" + "b" * 64),
    ],
)
def test_a_name_has_one_full_form(text: str, full: str) -> None:
    assert normalise_reference(text) == full
    assert normalise_reference(full) == full


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":latest",
        "Upper/case",
        "a//b",
        "/a",
        "a/",
        "../etc",
        "a/../b",
        "a:",
        "a:b:c",
        "a b",
        "a\n",
        "a@sha256:1",
        "-a",
        "a" * 256,
        "é",
        "sha256:" + "a" * 64,
        "a___b",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        normalise_reference(text)
    assert caught.value.code == "image-ref-invalid"


@given(st.text(max_size=40))
def test_what_is_accepted_is_safe_in_keys_and_paths(text: str) -> None:
    try:
        full = normalise_reference(text)
    except InvalidError:
        return
    assert full.isascii() and full.isprintable() and " " not in full
    assert ".." not in full.split("/") and not full.startswith("/") and "//" not in full


@pytest.mark.parametrize(
    "text", ["sha256:" + "A" * 64, "sha256:" + "a" * 63, "a" * 64, "sha256:../" + "a" * 61]
)
def test_digests_are_lower_case_hexadecimal(text: str) -> None:
    assert not is_digest(text)
    with pytest.raises(InvalidError):
        check_digest(text)


def test_the_digest_depends_on_content_and_is_pinned() -> None:
    image = Image(kind=ImageKind.DISK, disk=BLOB, disk_virtual_bytes=512)
    assert digest_of(image) == digest_of(Image.from_json(image.to_json()))
    assert digest_of(image) != digest_of(image.with_(disk_virtual_bytes=1024))
    # Known answer: images that exist keep their digests.
    assert digest_of(image) == "sha256:72589d7a512cb1b2a59ad55eedaf30d31569c2a9d614c8f88d91031f964cbc42"


def test_a_field_at_its_default_does_not_change_the_digest() -> None:
    assert digest_of(Image(kind=ImageKind.DISK)) == digest_of(
        Image(kind=ImageKind.DISK, cmdline="", arch="x86_64")
    )


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("redis", ("redis:latest", "docker.io/library/redis:latest")),
        ("redis:7", ("redis:7", "docker.io/library/redis:7")),
        ("mycelium/mini", ("mycelium/mini:latest", "docker.io/mycelium/mini:latest")),
        ("docker.io/redis:7", ("docker.io/redis:7", "docker.io/library/redis:7")),
        ("index.docker.io/a/b", ("index.docker.io/a/b:latest", "docker.io/a/b:latest")),
        ("docker.io/library/redis:7", ("docker.io/library/redis:7",)),
        ("quay.io/a/b:1", ("quay.io/a/b:1",)),
        ("localhost/a", ("localhost/a:latest",)),
    ],
)
def test_a_manifest_s_name_means_one_of_these(text: str, names: tuple[str, ...]) -> None:
    assert candidates(text) == names
    assert registry_reference(text) == names[-1] == registry_reference(names[-1])


def test_a_registry_is_told_from_a_folder() -> None:
    assert all(map(has_registry, ("docker.io/x", "localhost/x", "a:5000/x", "localhost:5000/x")))
    assert not any(map(has_registry, ("redis", "redis:7", "team/app", "https://a/b", "./a", ".x/a", "a.b")))
