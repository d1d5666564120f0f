"""Manifest texts to manifests: strict, with the place of each mistake and what was probably meant. Pure."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from vdc.model.errors import InvalidError, VdcError
from vdc.model.manifest import EndophyteManifest
from vdc.model.strict_yaml import StrictError, parse_documents
from vdc.model.units import MIB, format_size

SUPPORTED_KINDS = ("Endophyte",)
UNSUPPORTED = "kind-unsupported"
_SHOWN_MISTAKES = 3
_VALUES = {
    "value",
    "content",
    "contentBase64",
    "data",
    "stringData",
}  # may be a secret's: they are not repeated
_ADDED = (
    "uid",
    "generation",
    "createdAt",
)  # to the metadata, where the API shows an Endophyte, beside the status


class ManifestError(InvalidError):
    """A manifest that was refused before anything was sent."""

    default_code = "manifest-invalid"


@dataclass(frozen=True, slots=True)
class Loaded:
    """One object of a file: a manifest, or the reason why it is none.

    Where other objects than Endophytes are understood (vdc.kubernetes), an object with neither is a part of others.
    """

    source: str
    kind: str = ""
    name: str = ""
    manifest: EndophyteManifest | None = None
    error: VdcError | None = None
    value: dict[str, Any] = field(default_factory=dict, repr=False)  # of another kind: as it was read
    origin: str = ""  # what the Endophyte of this name is made from, or would be: `statefulset/redis`
    part_of: str = ""  # what became of it, in a sentence
    notes: tuple[str, ...] = ()  # what means nothing here

    @property
    def label(self) -> str:
        """`endophyte/web` where that much is known, else the place in the file."""
        return f"{self.kind.lower()}/{self.name}" if self.kind and self.name else self.source


def load_text(text: bytes, source: str, *, is_json: bool = False) -> tuple[Loaded, ...]:
    """Every object of a text, good and bad; never raises for what is in it. No object at all is an error."""
    try:
        documents = parse_documents(text, is_json=is_json)
    except StrictError as error:
        return (Loaded(source, error=_error(source, str(error))),)
    objects = [inner for document in documents for inner in _objects_in(document)]
    if not objects:
        return (Loaded(source, error=_error(source, "it contains no object")),)
    if len(objects) == 1:
        return (load_object(objects[0], source),)
    return tuple(load_object(value, f"{source} (object {i})") for i, value in enumerate(objects, 1))


def _objects_in(document: Any) -> Iterator[Any]:
    """Itself, or what a list holds: Kubernetes' `kind: List`, or `items` alone as `vdc get endophytes` prints them."""
    is_list = isinstance(document, dict) and (
        document.get("kind") == "List" or ("kind" not in document and len(document) == 1)
    )
    items = document.get("items") if is_list else None
    yield from items if isinstance(items, list) else [document]


def load_object(value: Any, source: str) -> Loaded:
    """One parsed object."""
    if not isinstance(value, dict):
        return Loaded(
            source, error=_error(source, "an object with apiVersion, kind, metadata and spec is expected")
        )
    kind = value.get("kind")
    metadata = value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    known_name = name if isinstance(name, str) and len(name) <= 80 else ""
    if not isinstance(kind, str) or not kind:
        return Loaded(source, name=known_name, error=_error(source, "kind is missing"))
    if kind not in SUPPORTED_KINDS:
        return Loaded(source, kind[:60], known_name, error=_unsupported(kind, source), value=value)
    try:
        # JSON in strict mode: texts become enums and addresses, and nothing becomes a number by itself.
        manifest = EndophyteManifest.model_validate_json(json.dumps(_as_written(value)), strict=True)
    except ValidationError as error:
        return Loaded(
            source, kind, known_name, error=_error(source, describe_mistakes(error, EndophyteManifest))
        )
    return Loaded(source, kind, known_name, manifest)


def _as_written(value: dict[str, Any]) -> dict[str, Any]:
    """Without what the API adds to a manifest where it shows one: that can be applied again."""
    metadata = value.get("metadata")
    if isinstance(metadata, dict):
        value = {**value, "metadata": {key: one for key, one in metadata.items() if key not in _ADDED}}
    return {key: one for key, one in value.items() if key != "status"}


def describe_mistakes(error: ValidationError, model: type[BaseModel]) -> str:
    """The first mistakes of a failed validation in one line, each with its path."""
    mistakes = error.errors(include_url=False)
    texts = [describe_mistake(mistake, model) for mistake in mistakes[:_SHOWN_MISTAKES]]
    if len(mistakes) > _SHOWN_MISTAKES:
        texts.append(f"and {len(mistakes) - _SHOWN_MISTAKES} more")
    return "; ".join(texts)


def describe_mistake(mistake: Any, model: type[BaseModel]) -> str:
    """One of `ValidationError.errors()`: its path, what is wrong, and what was probably meant."""
    place = tuple(mistake["loc"])
    path = path_of(place)
    if mistake["type"] == "extra_forbidden":
        known = fields_at(model, place[:-1])
        close = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.6)
        advice = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return f"{path}: unknown field ({advice})"
    if mistake["type"] == "missing":
        return f"{path}: required field is missing"
    limit = mistake.get("ctx", {}).get("ge", mistake.get("ctx", {}).get("le", 0))
    if isinstance(limit, int) and limit >= MIB and limit % MIB == 0:  # only sizes are so large and round
        bound = "at least" if "ge" in mistake["ctx"] else "at most"
        size = mistake["input"]
        shown = format_size(size) if isinstance(size, int) else str(size)[:40]
        return f"{path}: has to be {bound} {format_size(limit)} (given: {shown})"
    message = str(mistake["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    given = mistake.get("input")
    is_shown = isinstance(given, str | int | float | bool) and _VALUES.isdisjoint(place)
    shown = f" (given: {str(given)[:40]!r})" if is_shown else ""
    repeats = isinstance(given, str) and given[:40] in message
    return f"{path}: {message}{'' if repeats else shown}" if path else message


def path_of(place: tuple[int | str, ...]) -> str:
    """`spec.disks[0].size`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part[:60]}"
    return text.removeprefix(".")


def fields_at(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the record at a path, as people write them."""
    current: type[BaseModel] | None = model
    for part in place:
        if isinstance(part, int) or current is None:
            continue
        found = [f for name, f in current.model_fields.items() if part in (f.alias, name)]
        current = record_in(found[0].annotation) if found else None
    return [f.alias or name for name, f in current.model_fields.items()] if current else []


def record_in(annotation: Any) -> type[BaseModel] | None:
    """The record that a field holds, alone or several times."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := record_in(inner))), None)


def _error(source: str, reason: str) -> ManifestError:
    return ManifestError(f"{source}: {reason}")


def _unsupported(kind: str, source: str) -> ManifestError:
    close = difflib.get_close_matches(kind, SUPPORTED_KINDS, n=1, cutoff=0.75)
    known = f"kinds that can be applied: {', '.join(SUPPORTED_KINDS)}"
    hint = f"did you mean {close[0]}?" if close else known
    return ManifestError(f"{source}: kind {kind[:60]} is not supported yet", hint=hint, code=UNSUPPORTED)


__all__ = [
    "UNSUPPORTED",
    "Loaded",
    "ManifestError",
    "describe_mistake",
    "describe_mistakes",
    "load_object",
    "load_text",
]
