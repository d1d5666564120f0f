"""Changes of who may speak that an etcd member has written down and does not know to be decided.

A member that goes on alone drops them. One by which another host has been allowed to go on with a guest may have been
granted all the same, and its clients were answered since.
"""

from __future__ import annotations

import json
from pathlib import Path

from hostagent.drivers.etcd.wal import undecided
from vdc.model.errors import BugError, RefusedError
from vdc.model.pair import Pair
from vdc.store import keys


def asked_for(data_dir: Path) -> list[Pair]:
    """The arbitration records that those changes would write. Raises BugError where the log cannot be read."""
    try:
        entries = undecided(data_dir)
    except (OSError, ValueError) as error:
        raise BugError(f"etcd's log cannot be read: {error}") from error
    return [pair for entry in entries for pair in pairs_in(entry)]


def may_be_granted(found: Pair) -> RefusedError:
    """Why nobody may go on alone without it."""
    return RefusedError(
        f"{found.primary} asked at the last moment to go on with {found.name} under epoch {found.epoch}, and may "
        "have been allowed to: the copy here may be older",
        code="decision-pending", hint=f"bring {found.primary} back",
    )  # fmt: skip


def pairs_in(entry: bytes) -> list[Pair]:
    """The arbitration records that a raft entry would write."""
    text = entry.decode("utf-8", "replace")
    if keys.PAIRS not in text:
        return []
    decoder, found, at = json.JSONDecoder(), [], text.find("{")
    while at >= 0:
        try:
            document, end = decoder.raw_decode(text, at)
            found.append(Pair.model_validate(document))
            at = text.find("{", end)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
    return found
