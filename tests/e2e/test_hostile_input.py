"""Input that was made to do harm: images that name other files, bombs, odd names, senders that never finish."""

from __future__ import annotations

import hashlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pacing import timed
from testlab import Lab

from hostagent.server.http import BODY_S
from vdc.model.errors import InvalidError
from vdc.model.image import Blob, Image, ImageKind

HEADER_BYTES = 104


def qcow2(*, backing: bytes = b"", features: int = 0) -> bytes:
    """One cluster of a version 3 image of 1 MiB."""
    place = 512 if backing else 0
    header = struct.pack(">4sIQIIQI", b"QFI\xfb", 3, place, len(backing), 16, 1 << 20, 0)
    header = header.ljust(72, b"\0") + struct.pack(">Q", features)
    header = header.ljust(100, b"\0") + struct.pack(">I", HEADER_BYTES)
    return (header.ljust(512, b"\0") + backing).ljust(65536, b"\0")


HOSTILE = {
    "backing.qcow2": (qcow2(backing=b"/etc/shadow"), "image-unsafe"),
    "data-file.qcow2": (qcow2(features=4), "image-unsafe"),
    "corrupt.qcow2": (qcow2(features=2), "image-unsafe"),
    "descriptor.vmdk": (
        b'# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 2048 FLAT "/etc/shadow" 0\n',
        "image-unsafe",
    ),
    "sparse.vmdk": (b"KDMV".ljust(65536, b"\0"), "image-unsafe"),
    "packed.gz": (b"\x1f\x8b".ljust(65536, b"\0"), "image-unsafe"),
    "noise": (b"\xff" * 65536, "image-format-unknown"),
}

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MANIFESTS = {
    "a bomb of aliases": BOMB,
    "a deep nest": "[" * 20_000,
    "more than anybody writes": "a: " + "x" * (3 << 20),
    "an escape in a name": "apiVersion: v1\nkind: Endophyte\nmetadata: {name: '../../etc'}\nspec: {image: m/n}\n",
    "a null byte in a name": 'apiVersion: v1\nkind: Endophyte\nmetadata: {name: "a\\0b"}\nspec: {image: m/n}\n',
    "an infinite size": "apiVersion: v1\nkind: Endophyte\nmetadata: {name: web}\n"
    "spec: {image: m/n, resources: {cpus: .inf}}\n",
}
PATHS = (
    "/v1/endophytes/..%2F..%2Fetc",
    "/v1/endophytes/%00",
    "/v1/blobs/..%2F..%2Fagent.yaml",
    "/v1/../../etc/passwd",
)


def images(lab: Lab) -> list[str]:
    return sorted(name for item in lab.ask(lambda api: api.list_images()).items for name in item.names)


def test_a_hostile_image_is_refused_by_the_program_and_by_the_host(lab: Lab, tmp_path: Path) -> None:
    before = images(lab)
    for name, (content, code) in HOSTILE.items():
        path = tmp_path / name
        path.write_bytes(content)
        refused = lab.cli("image", "import", str(path), "--name", "evil/disk")
        assert refused.code != 0, name
        assert refused.error_line.endswith(f"({code})"), f"{name}: {refused.error_line}"

    api = lab.api("h1")
    for name, (content, _) in HOSTILE.items():
        digest = "sha256:" + hashlib.sha256(content).hexdigest()

        async def chunks(content: bytes = content) -> AsyncIterator[bytes]:
            yield content

        lab.run(api.write_blob(digest, chunks, len(content)))
        disk = Blob(digest=digest, size_bytes=len(content))
        for said in ("qcow2", "vmdk"):
            image = Image(kind=ImageKind.DISK, disk=disk, disk_format=said)
            with pytest.raises(InvalidError) as caught:
                lab.run(api.register_image("evil/disk", image))
            assert caught.value.code.startswith("image-"), f"{name} as {said}: {caught.value}"
    assert images(lab) == before


def test_bombs_and_odd_names_make_nothing(lab: Lab) -> None:
    for what, manifest in MANIFESTS.items():
        with timed() as elapsed:
            refused = lab.cli("apply", "-f", "-", stdin=manifest)
        assert refused.code == 2, f"{what}: {refused}"
        assert refused.error_line.startswith("error: "), what
        assert elapsed() < 30, what
    socket_path = str(lab.plan.host("h1").api_socket)
    for path in PATHS:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(socket_path)
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda sock=sock: sock.recv(65536), b"")).decode()  # type: ignore[misc]
        assert answer.split()[1] in ("400", "404"), f"{path}: {answer}"
        assert "root:" not in answer
    assert not lab.vm_names()


def test_senders_that_never_finish_keep_nobody_waiting(lab: Lab) -> None:
    path = str(lab.plan.host("h1").api_socket)
    halves = (
        b"GET /v1/health HTTP/1.1\r\nX-Slow: ",
        b"POST /v1/endophytes HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n{",
    )
    with ExitStack() as stack:
        for number in range(100):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(5)
            sock.connect(path)
            sock.sendall(halves[number % 2])
        with timed() as elapsed:
            assert lab.ask(lambda api: api.list_nodes(), of="h1").items
        assert elapsed() < BODY_S
    assert not lab.vm_names()
