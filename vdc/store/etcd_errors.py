"""What a failed request to an etcd member means: took it effect, and is it worth asking another member?

The classification follows etcd 3.5 (server/etcdserver/v3_server.go, api/v3rpc/rpctypes/error.go). What is
not known to be without effect counts as unknown. Two that mislead:
`etcdserver: mvcc: database space exceeded` is also answered to a write that was applied and crossed the
quota (quotaApplierV3), and `etcdserver: server stopped` to one that was proposed before the stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

_UNAUTHENTICATED, _PERMISSION_DENIED, _INVALID, _OUT_OF_RANGE, _NOT_FOUND = 16, 7, 3, 11, 5

# Answered before anything is proposed to the cluster; another member, or this one later, may accept it.
_NOT_PROPOSED = ("etcdserver: no leader", "etcdserver: too many requests")


class Meaning(StrEnum):
    """What the caller may conclude."""

    NO_EFFECT = "no-effect"  # certainly not applied; may be sent again
    UNKNOWN = "unknown"  # applied or not, or applied later
    INVALID = "invalid"  # not applied, and never will be
    LEASE_GONE = "lease-gone"  # not applied: it names a lease that does not exist
    COMPACTED = "compacted"  # not applied: it asks for history that is gone
    DENIED = "denied"  # not applied: not allowed


class CallError(Exception):
    """One request to one member failed."""

    def __init__(self, endpoint: str, meaning: Meaning, text: str) -> None:
        super().__init__(f"{endpoint}: {text}")
        self.endpoint = endpoint
        self.meaning = meaning
        self.text = text


def classify(code: int, text: str) -> Meaning:
    """Judge an error that a member answered (`code` is gRPC's)."""
    if "requested lease not found" in text:
        return Meaning.LEASE_GONE
    if "compacted" in text and code == _OUT_OF_RANGE:
        return Meaning.COMPACTED
    if code in (_UNAUTHENTICATED, _PERMISSION_DENIED):
        return Meaning.DENIED
    if code in (_INVALID, _OUT_OF_RANGE, _NOT_FOUND):
        return Meaning.INVALID
    if text in _NOT_PROPOSED:
        return Meaning.NO_EFFECT
    return Meaning.UNKNOWN


def error_of(endpoint: str, http_status: int, body: Mapping[str, Any]) -> CallError:
    """The error in an answer: the text is in `error` or `message`, in a stream one level down."""
    inner = body.get("error")
    if isinstance(inner, dict):
        body = inner
    text = str(body.get("message") or body.get("error") or f"HTTP status {http_status}")
    code = body.get("code", body.get("grpc_code", 0))
    return CallError(endpoint, classify(code if isinstance(code, int) else 0, text), text)
