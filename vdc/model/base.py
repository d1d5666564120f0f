"""The bases of all records: frozen, JSON in and out.

What is stored, or sent between agents, ignores fields that it does not know: agents one version apart share a
store (rolling upgrades). What people write is strict, so that a misspelt field is an error and not a silence.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Record(BaseModel):
    """An immutable value, equal by content; the form that is stored in etcd and sent on the wire."""

    # An error names the place and not the value, which may be a secret's: it is logged.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    def to_json(self) -> str:
        """Return the canonical JSON text (aliases used, nothing left out)."""
        return self.model_dump_json(by_alias=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse `to_json`'s form; raises `pydantic.ValidationError` where the text is not such a record."""
        return cls.model_validate_json(text)

    def with_(self, **changes: object) -> Self:
        """Return a copy with some fields replaced; the values are validated like any other."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        unknown = changes.keys() - values.keys()
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {sorted(unknown)}")
        return type(self).model_validate({**values, **changes}, by_name=True)


class StrictRecord(Record):
    """A record that people or scripts write: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ManifestRecord(StrictRecord):
    """A record that users write: camelCase in files, snake_case in code."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)
