"""What QEMU may answer: the fields that this driver reads, and their types. Pure.

A guest that has taken its QEMU over speaks QMP to us as it likes. An answer of another shape is an error of that
one command, not a defect of the agent; texts are cut to a line's length before they reach logs and events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hostagent.drivers.qemu.commands import Command

MAX_TEXT = 500
MAX_ITEMS = 10_000
_MOST = 2**63

# A type, a list of one shape, or fields by name; those that end with `?` may be missing.
Shape = Any
_BITMAP: Final = {"name?": str, "recording?": bool, "inconsistent?": bool, "count?": int}
_IMAGE: Final = {"virtual-size?": int, "actual-size?": int}
_NODE: Final = {
    "node-name": str, "dirty-bitmaps?": [_BITMAP], "image?": _IMAGE,
    "children?": [{"child?": str, "node-name?": str}],
}  # fmt: skip
_RAM: Final = {"dirty-sync-count?": int, "total?": int, "remaining?": int, "transferred?": int}
_JOB: Final = {"device": str, "offset": int, "len": int, "ready?": bool, "status": str, "error?": str}
REPLIES: Final[Mapping[Command, Shape]] = {
    Command.QOM_LIST: [{"name": str}],
    Command.QUERY_BLOCK_EXPORTS: [dict],
    Command.QUERY_BLOCK_JOBS: [_JOB],
    Command.QUERY_CHARDEV: [{"label": str}],
    Command.QUERY_COLO_STATUS: {"mode": str},
    Command.QUERY_JOBS: [{"id": str, "status": str, "error?": str}],
    Command.QUERY_MIGRATE: {"status?": str, "error-desc?": str, "ram?": _RAM},
    Command.QUERY_NAMED_BLOCK_NODES: [_NODE],
    Command.QUERY_STATUS: {"status": str},
    Command.QUERY_UUID: {"UUID": str},
    Command.QUERY_YANK: [{"type": str, "node-name?": str, "id?": str}],
    Command.X_QUERY_RAMBLOCK: {"human-readable-text": str},
}


def misfit(command: str, reply: object) -> str:
    """Where a reply differs from what is read of it; empty where it does not, or nothing of it is read."""
    shape = REPLIES.get(command)  # type: ignore[call-overload]
    return "" if shape is None else _misfit(reply, shape, "")


def _misfit(value: object, shape: Shape, place: str) -> str:
    if isinstance(shape, type):
        is_number = shape is not int or (type(value) is int and -_MOST <= value < _MOST)
        return "" if isinstance(value, shape) and is_number else f"{place or 'it'} is no {shape.__name__}"
    if isinstance(shape, list):
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            return f"{place or 'it'} is no list of at most {MAX_ITEMS}"
        return next((found for item in value if (found := _misfit(item, shape[0], f"{place}[]"))), "")
    if not isinstance(value, dict):
        return f"{place or 'it'} is no object"
    for name, inner in shape.items():
        plain = name.removesuffix("?")
        if plain not in value:
            if name == plain:
                return f"{place}.{plain} is missing"
        elif found := _misfit(value[plain], inner, f"{place}.{plain}"):
            return found
    return ""


def line(text: object) -> str:
    """QEMU's words for logs and events: one line of a bounded length, with nothing that a terminal would obey."""
    shown = "".join(char if char.isprintable() else " " for char in str(text)[:MAX_TEXT])
    return " ".join(shown.split())


def event(message: object) -> tuple[str, dict[str, Any]] | None:
    """Name and data of an event, texts made harmless; None for what is none."""
    if not isinstance(message, Mapping):
        return None
    name, data = message.get("event"), message.get("data", {})
    if not isinstance(name, str) or not isinstance(data, dict):
        return None
    return line(name), {key: line(value) if isinstance(value, str) else value for key, value in data.items()}
