"""Records on stdout: a table, JSON or YAML. One object alone, several as `{"items": [...]}`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from vdc.cli.text import Column, Table
from vdc.model.base import Record

R = TypeVar("R")
_OBEYED = re.compile(
    r"[\x7f-\x9f\u2028\u2029]"
)  # what JSON may hold as it is, and terminals or readers act on


def values_of(record: Any) -> Any:
    """Plain values of a record, with the names that people write."""
    if isinstance(record, Record):
        return record.model_dump(mode="json", by_alias=True)
    if isinstance(record, list | tuple):
        return [values_of(item) for item in record]
    return record


def print_values(values: Any, output: str, *, compact: bool = False) -> None:
    """Plain values as JSON or YAML; `compact` JSON is one line."""
    if output == "json":
        text = json.dumps(values, indent=None if compact else 2, ensure_ascii=False, allow_nan=False)
        print(_OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
        return
    from vdc.model.strict_yaml import dump

    print(("---\n" if compact else "") + dump(values), end="")


def print_records(
    records: Sequence[R], columns: Sequence[Column[R]], output: str, *, empty: str = "nothing"
) -> None:
    """Many records; an empty table is a sentence on stderr."""
    if output in ("json", "yaml"):
        print_values({"items": values_of(list(records))}, output)
    elif not records:
        print(empty, file=sys.stderr)
    else:
        print(Table(columns, wide=output == "wide").render(records, sys.stdout))


def print_record(record: R, columns: Sequence[Column[R]], output: str) -> None:
    """One record, itself."""
    if output in ("json", "yaml"):
        print_values(values_of(record), output)
    else:
        print(Table(columns, wide=output == "wide").render([record], sys.stdout))
