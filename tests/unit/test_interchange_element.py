"""XML from outside: what is refused, and that a tree is what the text says."""

from __future__ import annotations

import time

import pytest

from vdc.interchange.element import MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS, parse_xml
from vdc.model.errors import InvalidError

LAUGHS = b"""<?xml version="1.0"?>
<!DOCTYPE domain [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>
<domain>&c;</domain>"""
FILE = b"""<!DOCTYPE domain [<!ENTITY f SYSTEM "file:///etc/shadow">]><domain><name>&f;</name></domain>"""
EXTERNAL = b"""<!DOCTYPE domain SYSTEM "http://127.0.0.1:1/evil.dtd"><domain/>"""
REFUSED = {
    "entities": LAUGHS,
    "a file as an entity": FILE,
    "a document type elsewhere": EXTERNAL,
    "an entity that nobody declares": b"<domain>&x;</domain>",
    "too large": b"<domain>" + b" " * MAX_BYTES + b"</domain>",
    "too deep": b"<a>" * (MAX_DEPTH + 1) + b"</a>" * (MAX_DEPTH + 1),
    "too many": b"<a>" + b"<b/>" * MAX_ELEMENTS + b"</a>",
    "cut off": b"<domain><name>web",
    "two roots": b"<a/><b/>",
    "nothing": b"",
    "no text": b"\x00\x01\x02",
    "a document type in UTF-16": "<!DOCTYPE domain><domain/>".encode("utf-16"),
    "not UTF-8": b"<domain>\xff</domain>",
    "the same attribute twice": b"<domain type='kvm' type='qemu'/>",
    "a prefix that nobody declares": b"<domain><qemu:arg/></domain>",
    "a NUL": b"<domain>\x00</domain>",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_plain_document_is_refused(what: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_xml(REFUSED[what])
    assert caught.value.code == "xml-invalid"
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_paths_lead_to_elements() -> None:
    root = parse_xml(
        b"<domain><devices><disk/><disk><target dev='vdb'/></disk><tpm> a </tpm></devices></domain>"
    )
    devices = root.children[0]
    assert [child.path for child in devices.children] == ["devices/disk[1]", "devices/disk[2]", "devices/tpm"]
    assert devices.children[1].child("target").path == "devices/disk[2]/target"
    assert devices.children[1].attribute_of("target", "dev") == "vdb"
    assert devices.text_of("tpm") == "a"
    assert [element.place for element in (root, devices, *devices.children)] == [0, 1, 2, 3, 5]


def test_an_element_of_another_namespace_is_never_taken_for_one_of_libvirts() -> None:
    root = parse_xml(
        b"<domain xmlns:x='http://evil/' xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>"
        b"<x:name>root</x:name><q:commandline/><name>web</name></domain>"
    )
    assert root.text_of("name") == "web"
    assert [child.tag for child in root.children] == ["http://evil/ name", "qemu:commandline", "name"]
    assert [child.path for child in root.children] == ["name", "qemu:commandline", "name"]


def test_the_largest_document_takes_no_time() -> None:
    began = time.process_time()
    parse_xml(b"<a>" + b"<b c='d'/>" * (MAX_ELEMENTS - 1) + b"</a>")
    assert time.process_time() - began < 3
