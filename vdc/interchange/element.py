"""XML from outside, as a small tree. Nothing in it is followed, expanded or loaded.

Expat hands over the text alone: a document type declaration is refused, and with it every entity and every file that
one may name. Size, depth and number of elements are bounded, so that the tree is too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from vdc.model.errors import InvalidError
from vdc.model.units import MIB

MAX_BYTES = MIB
MAX_DEPTH = 32
MAX_ELEMENTS = 20_000
_PREFIXES = {"http://libvirt.org/schemas/domain/qemu/1.0": "qemu"}


@dataclass(frozen=True, slots=True)
class Element:
    """One element. `path` leads to it from below the root: `devices/disk[2]/target`; `place` orders by document.

    The tag of a foreign namespace is `URI NAME`, or `qemu:NAME` for QEMU's.
    """

    tag: str
    path: str
    place: int
    attributes: Mapping[str, str]
    children: tuple[Element, ...]
    text: str

    def get(self, name: str, default: str = "") -> str:
        """An attribute."""
        return self.attributes.get(name, default)

    def all(self, tag: str) -> tuple[Element, ...]:
        """The children of this tag."""
        return tuple(child for child in self.children if child.tag == tag)

    def child(self, tag: str) -> Element | None:
        """The first child of this tag."""
        return next((child for child in self.children if child.tag == tag), None)

    def attribute_of(self, tag: str, name: str, default: str = "") -> str:
        """An attribute of the first child of this tag."""
        child = self.child(tag)
        return child.get(name, default) if child else default

    def text_of(self, tag: str) -> str:
        """The text of the first child of this tag."""
        child = self.child(tag)
        return child.text if child else ""


def parse_xml(text: bytes) -> Element:
    """The root of a document in UTF-8, or UTF-16 with its mark.

    Raises InvalidError (`xml-invalid`) for anything else, or too much of it.
    """
    if len(text) > MAX_BYTES:
        raise _error(f"it is larger than {MAX_BYTES // MIB} MiB")
    builder = _Builder()
    parser = expat.ParserCreate("utf-8", namespace_separator=" ")
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.characters
    parser.StartDoctypeDeclHandler = builder.refuse_doctype
    parser.buffer_text = True
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise _error(f"line {error.lineno}: {expat.errors.messages[error.code]}") from error
    (root,) = builder.roots
    return _finish(root, "", iter(range(MAX_ELEMENTS + 1)))


@dataclass(slots=True)
class _Open:
    tag: str
    attributes: Mapping[str, str]
    children: list[_Open] = field(default_factory=list)
    text: list[str] = field(default_factory=list)


class _Builder:
    """Expat's handlers."""

    def __init__(self) -> None:
        self.roots: list[_Open] = []
        self._open: list[_Open] = []
        self._count = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > MAX_ELEMENTS or len(self._open) >= MAX_DEPTH:
            raise _error(f"it has more than {MAX_ELEMENTS} elements or {MAX_DEPTH} levels")
        element = _Open(tag, attributes)
        (self._open[-1].children if self._open else self.roots).append(element)
        self._open.append(element)

    def end(self, _tag: str) -> None:
        self._open.pop()

    def characters(self, text: str) -> None:
        self._open[-1].text.append(text)

    def refuse_doctype(self, *_: object) -> None:
        raise _error("it declares a document type, which no description of a VM needs")


def _finish(found: _Open, path: str, places: Iterator[int]) -> Element:
    place = next(places)
    tags = Counter(child.tag for child in found.children)
    seen: dict[str, int] = {}
    children = []
    for child in found.children:
        seen[child.tag] = number = seen.get(child.tag, 0) + 1
        name = _shown(child.tag) + (f"[{number}]" if tags[child.tag] > 1 else "")
        children.append(_finish(child, f"{path}/{name}".removeprefix("/"), places))
    text = "".join(found.text).strip()
    namespace, _, _ = found.tag.rpartition(" ")
    tag = _shown(found.tag) if namespace in _PREFIXES else found.tag
    return Element(tag, path, place, found.attributes, tuple(children), text)


def _shown(tag: str) -> str:
    """A tag as people write it; of a foreign namespace (`URI NAME`) its usual prefix, or none."""
    namespace, _, name = tag.rpartition(" ")
    prefix = _PREFIXES.get(namespace, "")
    return f"{prefix}:{name}" if prefix else name


def _error(reason: str) -> InvalidError:
    return InvalidError(f"the XML cannot be read: {reason}", code="xml-invalid")
