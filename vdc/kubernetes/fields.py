"""Reading an object against its record: every field is known, and what is not kept is found by its path. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from vdc.model.base import StrictRecord
from vdc.model.manifest_file import describe_mistake, record_in

M = TypeVar("M", bound=BaseModel)


class KubernetesRecord(StrictRecord):
    """A part of an object, with Kubernetes' own spelling and no other."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel)


@dataclass(frozen=True, slots=True)
class Refused:
    """Marks a field that cannot be kept: where it says something (not false, 0 or empty) the object is refused.

    `even_empty`: its presence says something.
    """

    reason: str
    even_empty: bool = False


@dataclass(frozen=True, slots=True)
class Noted:
    """Marks a field that means nothing for a virtual computer: where it says something, the user is told."""

    reason: str


@dataclass(slots=True)
class Findings:
    """What was found in one object: each refusal with its path, and what is only noted."""

    refusals: list[str] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)  # reason -> paths

    def refuse(self, path: str, reason: str) -> None:
        """The object cannot be kept because of this."""
        text = f"{path}: {reason}" if path else reason
        if text not in self.refusals:
            self.refusals.append(text)

    def note(self, path: str, reason: str) -> None:
        """This means nothing here."""
        paths = self.notes.setdefault(reason, [])
        if path not in paths:
            paths.append(path)

    @property
    def noted(self) -> tuple[str, ...]:
        """One line a reason."""
        return tuple(f"{', '.join(paths)}: {reason}" for reason, paths in self.notes.items())


def read(model: type[M], value: Any, findings: Findings, path: str = "") -> M | None:
    """The record of a parsed object that stands at `path`; None where it is none, with every mistake found."""
    known = _walk(model, value, path, findings)
    try:
        # JSON in strict mode: texts become enums, and nothing becomes a number by itself.
        return model.model_validate_json(json.dumps(known), strict=True)
    except ValidationError as error:
        for mistake in error.errors(include_url=False):
            text = describe_mistake(mistake, model)
            findings.refuse("", f"{path}.{text}" if path and mistake["loc"] else text)
        return None


def _walk(model: type[BaseModel], value: Any, path: str, findings: Findings) -> Any:
    """Find what is marked. Returns the value without nulls, which in Kubernetes are as good as absent."""
    if not isinstance(value, dict):
        return value
    known = {key: inner for key, inner in value.items() if inner is not None}
    for name, about in model.model_fields.items():
        key = about.alias or name
        if key not in known:
            continue
        here = f"{path}.{key}" if path else key
        for marker in about.metadata:
            if isinstance(marker, Refused) and (known[key] or marker.even_empty):
                findings.refuse(here, marker.reason)
            elif isinstance(marker, Noted) and known[key]:
                findings.note(here, marker.reason)
        inner_model = record_in(about.annotation)
        if inner_model is not None and isinstance(known[key], list):
            known[key] = [
                _walk(inner_model, one, f"{here}[{n}]", findings) for n, one in enumerate(known[key])
            ]
        elif inner_model is not None:
            known[key] = _walk(inner_model, known[key], here, findings)
    return known


def strings_below(value: Any, key: str) -> Iterator[str]:
    """Every text that stands under this key, anywhere in a parsed object."""
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings_below(one, key)
    if isinstance(value, dict) and isinstance(value.get(key), str):
        yield value[key]
