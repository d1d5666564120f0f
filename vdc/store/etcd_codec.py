"""The pure mapping between our records and etcd's v3 JSON gateway: base64 keys and values, integers as text.

Source: the etcd v3 API reference and the proto3 JSON mapping. Fields that are zero or empty are left out by
the gateway, so every reading has a default.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vdc.store.protocol import Change, ChangeKind, Delete, KeyValue, LeaseId, Put, Unchanged

Json = Mapping[str, Any]
_LONGEST_LINE_BYTES = 64 << 20  # far above what etcd takes in one transaction


def encode(text: str) -> str:
    """Text as the gateway wants bytes."""
    return base64.b64encode(text.encode()).decode("ascii")


def decode(value: str) -> str:
    """The reverse of `encode`; bytes that are not UTF-8 (a foreign key) become replacement characters."""
    return base64.b64decode(value).decode("utf-8", "replace")


def prefix_end(prefix: str) -> str:
    """The encoded first key after all keys that begin with `prefix` (which is not empty)."""
    raw = bytearray(prefix.encode())
    while raw and raw[-1] == 0xFF:
        raw.pop()
    raw[-1] += 1
    return base64.b64encode(bytes(raw)).decode("ascii")


def get_request(key: str, at_revision: int = 0) -> dict[str, Any]:
    """Body of /v3/kv/range for one key."""
    return {"key": encode(key), **({"revision": str(at_revision)} if at_revision else {})}


def list_request(prefix: str) -> dict[str, Any]:
    """Body of /v3/kv/range for a prefix; etcd answers in key order."""
    return {"key": encode(prefix), "range_end": prefix_end(prefix)}


def txn_request(compares: Sequence[Unchanged], operations: Sequence[Put | Delete]) -> dict[str, Any]:
    """Body of /v3/kv/txn."""
    return {
        "compare": [
            {
                "result": "EQUAL",
                "target": "MOD",
                "key": encode(compare.key),
                "mod_revision": str(compare.mod_revision),
            }
            for compare in compares
        ],
        "success": [_operation(operation) for operation in operations],
    }


def _operation(operation: Put | Delete) -> dict[str, Any]:
    if isinstance(operation, Delete):
        end = {"range_end": prefix_end(operation.key)} if operation.is_prefix else {}
        return {"request_delete_range": {"key": encode(operation.key), **end}}
    lease = {"lease": str(operation.lease)} if operation.lease else {}
    return {"request_put": {"key": encode(operation.key), "value": encode(operation.value), **lease}}


def watch_request(prefix: str, start_revision: int) -> dict[str, Any]:
    """Body of /v3/watch; 0 starts at the store's present revision + 1."""
    start = {"start_revision": str(start_revision)} if start_revision else {}
    return {
        "create_request": {
            "key": encode(prefix),
            "range_end": prefix_end(prefix),
            "progress_notify": True,
            **start,
        }
    }


def revision_of(answer: Json) -> int:
    """The store's revision in the header of an answer."""
    return int(answer.get("header", {}).get("revision", 0))


def key_value(kv: Json) -> KeyValue:
    """One key of an answer."""
    lease = int(kv.get("lease", 0))
    return KeyValue(
        key=decode(kv.get("key", "")),
        value=decode(kv.get("value", "")),
        mod_revision=int(kv.get("mod_revision", 0)),
        create_revision=int(kv.get("create_revision", 0)),
        lease=LeaseId(lease) if lease else None,
    )


def key_values(answer: Json) -> tuple[KeyValue, ...]:
    """The keys of a range's answer."""
    return tuple(key_value(kv) for kv in answer.get("kvs", ()))


def changes(result: Json) -> tuple[Change, ...]:
    """The events of one answer on a watch stream."""
    found = []
    for event in result.get("events", ()):
        item = key_value(event.get("kv", {}))
        kind = ChangeKind.DELETE if event.get("type") == "DELETE" else ChangeKind.PUT
        found.append(Change(kind, item.mod_revision, item))
    return tuple(found)


class LineSplitter:
    """Cuts a byte stream into its lines, however it was cut into chunks. A line may be megabytes long."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size_bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take a chunk, return the lines that are complete now, without their ends and without empty ones.

        Raises ValueError for a line that does not end.
        """
        *complete, rest = chunk.split(b"\n")
        lines = []
        for end in complete:
            self._parts.append(end)
            lines.append(b"".join(self._parts).strip())
            self._parts, self._size_bytes = [], 0
        if rest:
            self._parts.append(rest)
            self._size_bytes += len(rest)
        if self._size_bytes > _LONGEST_LINE_BYTES:
            raise ValueError("a line that does not end")
        return [line for line in lines if line]


def parse_object(text: bytes) -> Json:
    """Parse one JSON object of etcd's; raises ValueError for anything else, and for fields of another type."""
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    _check_fields(document)
    return document


_OBJECTS = frozenset({"header", "kv", "prev_kv"})
_LISTS = frozenset({"kvs", "events", "members"})
_TEXT_LISTS = frozenset({"errors", "peerURLs", "clientURLs"})
_BYTES = frozenset({"key", "value"})
_NUMBERS = frozenset({
    "revision", "mod_revision", "create_revision", "compact_revision", "lease", "member_id", "ID", "TTL",
    "leader", "raftTerm", "raftIndex", "dbSize",
})  # fmt: skip
_INTEGER = re.compile(r"-?[0-9]{1,20}")


def _check_fields(answer: Json) -> None:
    """What is read below and elsewhere has the type that it is read as; etcd's other fields may be anything."""
    inner = answer.get("result")
    for values in (answer, inner) if isinstance(inner, dict) else (answer,):
        _check_one(values)
        for name in _LISTS & values.keys():
            for item in values[name]:
                _check_one(item)
                if "kv" in item:
                    _check_one(item["kv"])
        if "header" in values:
            _check_one(values["header"])
    if inner is not None and not isinstance(inner, dict):
        raise ValueError("field result is not an object")


def _check_one(values: Json) -> None:
    if not isinstance(values, dict):
        raise ValueError("an object is expected")
    for name, value in values.items():
        if name in _NUMBERS:
            is_good = type(value) is int or (isinstance(value, str) and bool(_INTEGER.fullmatch(value)))
        elif name in _BYTES:
            is_good = isinstance(value, str) and value.isascii()
            if is_good:
                base64.b64decode(value)  # raises a ValueError
        elif name in _OBJECTS:
            is_good = isinstance(value, dict)
        elif name in _LISTS:
            is_good = isinstance(value, list)
        elif name in _TEXT_LISTS:
            is_good = isinstance(value, list) and all(isinstance(one, str) for one in value)
        else:
            continue
        if not is_good:
            raise ValueError(f"field {name} is of another type")
