"""Targets about container images: layers, configurations, where they come from, what skopeo says. And small ones."""

from __future__ import annotations

import json
import os
import struct
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tests.oci_layout import entry, folder, link, tar_of
from vdc.images.ext4.attributes import pack_attributes
from vdc.images.ext4.fill import lay_out
from vdc.images.filetree import walk
from vdc.images.oci.configuration import to_process
from vdc.images.oci.merge import Merger
from vdc.images.oci.refusals import refusal
from vdc.images.oci.source import parse_source
from vdc.images.oci.tar import read_entries
from vdc.images.reference import candidates, registry_reference
from vdc.model.errors import InvalidError, NotFoundError, VdcError

_LAYERS = (
    tar_of(
        folder("d", mode=0o1777), entry("d/f", b"x" * 600, uid=2**31), link("d/h", "d/f", hard=True),
        link("l", "../d"), entry("l/.wh.f"), entry("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
        entry("x", b"", pax_headers={"SCHILY.xattr.user.a": "b", "mtime": "1.5"}),
    ),
    tar_of(entry("n" * 150, b"y"), link("s", "t" * 300), entry("d/.wh..wh..opq"), pax=False),
)  # fmt: skip


def layers(data: bytes) -> None:
    """Whatever can be read is a tree that a file system can be made of."""
    merger = Merger()
    descriptor = os.memfd_create("layer")
    try:
        os.write(descriptor, data)
        with suppress(InvalidError):
            merger.add_layer(read_entries(descriptor))
    finally:
        os.close(descriptor)
    for _, content in walk(merger.root):
        for name, node in content:
            assert 0 < len(name) <= 255 and b"/" not in name and name not in (b".", b"..")
            assert all(place + size <= len(data) for _, size, _, place in node.pieces)
    with suppress(InvalidError):
        layout = lay_out(merger.root)
        assert layout.blocks >= 1


def attributes(data: bytes) -> None:
    name, _, value = data.partition(b"=")
    with suppress(InvalidError):
        inner, outer = pack_attributes([(name, value), (b"security.capability", value[:20])])
        assert len(inner) in (0, 96) and len(outer) in (0, 4096)


def image_configuration(data: bytes) -> None:
    with suppress(ValueError, RecursionError):
        config = json.loads(data)
        if isinstance(config, Mapping):
            with suppress(InvalidError):
                to_process(config)


def image_source(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with suppress(InvalidError, NotFoundError):
        source = parse_source(text)
        assert "\n" not in source.text and source.text.isprintable()
    with suppress(InvalidError):
        assert registry_reference(text) == candidates(text)[-1]


def complaint(data: bytes) -> None:
    error = refusal(data.decode("utf-8", "replace"), what="x", where="y", secrets=("s3cret",))
    assert isinstance(error, VdcError) and str(error).isprintable() and "s3cret" not in str(error)


TARGETS: tuple[tuple[str, Any, tuple[bytes, ...]], ...] = (
    ("container-layer", layers, _LAYERS),
    (
        "file-attributes",
        attributes,
        (b"user.a=b", b"system.posix_acl_access=" + struct.pack("<IHHI", 2, 1, 6, 2**32 - 1)),
    ),
    (
        "image-configuration",
        image_configuration,
        (
            b'{"Cmd":["a"],"Env":["A=b"],"ExposedPorts":{"80/tcp":{}},"Volumes":{"/a":{}},"StopSignal":"SIGTERM"}',
            b'{"Cmd":["\\ud800"]}',
        ),
    ),
    ("image-source", image_source, (b"docker://redis:7", b"oci:/nowhere:x", b"a.b:5/c@sha256:" + b"a" * 64)),
    ("skopeo-complaint", complaint, (b'level=fatal msg="x509: \\"s3cret\\""', b"https://a:b@c not found")),
)
