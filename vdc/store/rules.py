"""What a commit must look like, the same for every store: etcd's own limits (server/.../v3rpc/key.go)."""

from __future__ import annotations

from collections.abc import Sequence

from vdc.model.errors import BugError, InvalidError
from vdc.store.protocol import Delete, Put, Unchanged

MAX_OPERATIONS = 128
MAX_COMMIT_BYTES = 1_500_000  # etcd's limit is 1.5 MiB for the whole request


def check_commit(compares: Sequence[Unchanged], operations: Sequence[Put | Delete]) -> None:
    """Raise InvalidError for a commit that etcd never accepts."""
    if max(len(compares), len(operations)) > MAX_OPERATIONS:
        raise InvalidError(f"a commit may have {MAX_OPERATIONS} operations", code="store-invalid")
    if not all(one.key for one in (*compares, *operations)):
        raise InvalidError("a key must not be empty", code="store-invalid")
    size = sum(len(one.value.encode()) for one in operations if isinstance(one, Put))
    if size > MAX_COMMIT_BYTES:
        raise InvalidError(f"a commit of {size} bytes is too large for the store", code="store-too-large")
    puts = [one.key for one in operations if isinstance(one, Put)]
    deletes = [one for one in operations if isinstance(one, Delete)]
    if len(set(puts)) < len(puts) or any(_covers(one, key) for one in deletes for key in puts):
        raise InvalidError("a commit writes the same key twice", code="store-invalid")


def _covers(deletion: Delete, key: str) -> bool:
    return key.startswith(deletion.key) if deletion.is_prefix else key == deletion.key


def check_repeatable(compares: Sequence[Unchanged], operations: Sequence[Put | Delete]) -> None:
    """Raise BugError unless a second application of the commit is certain to fail a compare."""
    written = {one.key for one in operations if not (isinstance(one, Delete) and one.is_prefix)}
    # A deletion of a key that is absent changes nothing, so it does not stop a second application.
    safe = {one.key for one in compares if one.mod_revision or _is_put(one.key, operations)} & written
    if not safe:
        raise BugError("a commit that is sent to every member must compare a key that it writes")


def _is_put(key: str, operations: Sequence[Put | Delete]) -> bool:
    return any(isinstance(one, Put) and one.key == key for one in operations)
