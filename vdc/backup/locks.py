"""Who works in a repository: any number that add and read, or one that removes.

A lock is an object. Everybody writes their own first and looks at the others' then, so of two that exclude each other
at least one sees the other; it takes its own away again. Whoever holds one writes it again every minute. One that was
not written for half an hour belongs to nobody. Its age is told by the storage's clock, which wrote both.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from vdc.backup.storage import Storage, Stored
from vdc.model.errors import ConflictError, RefusedError, VdcError

LOCKS: Final = "locks/"
STALE_S: Final = 1800.0
RENEW_S: Final = 60.0
_SHARED, _ALONE = "shared", "alone"


def _now_s() -> float:
    """Goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lock:
    """One that is held. `check` before what the lock is for."""

    def __init__(self, storage: Storage, kind: str, what: str, clock: Callable[[], float]) -> None:
        self._storage = storage
        self._clock = clock
        self.key = f"{LOCKS}{kind}-{secrets.token_hex(8)}"
        holder = {"what": what, "host": socket.gethostname(), "pid": os.getpid()}
        self._text = json.dumps(holder).encode()
        self._ended = threading.Event()
        self._keeping: threading.Thread | None = None
        self._written_s = 0.0

    def write(self) -> None:
        """Now, and again."""
        began_s = self._clock()
        self._storage.write(self.key, self._text)
        self._written_s = began_s

    def check(self) -> None:
        """Raises ConflictError (`lock-lost`) where others may have taken it for nobody's."""
        age_s = self._clock() - self._written_s
        if age_s > STALE_S / 2 or not self._storage.has(self.key):
            raise ConflictError(
                f"the work in {self._storage.name} stood still for too long",
                code="lock-lost",
                hint="begin again",
            )

    def keep(self) -> None:
        """Until `end`, in a thread of its own."""
        self._keeping = threading.Thread(target=self._keep, name="repository lock", daemon=True)
        self._keeping.start()

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_S):
            with suppress(VdcError):  # `check` says so where it goes on
                if self._storage.has(self.key):
                    self.write()

    def end(self) -> None:
        """Give it up. What is being written is waited for: it would be there again."""
        self._ended.set()
        if self._keeping is not None:
            self._keeping.join(RENEW_S)
        with suppress(VdcError):
            self._storage.delete(self.key)


@contextmanager
def shared(storage: Storage, what: str, *, clock: Callable[[], float] = _now_s) -> Iterator[Lock]:
    """To add or to read. ConflictError (`repository-busy`) while somebody removes."""
    with _held(storage, _SHARED, what, clock) as lock:
        yield lock


@contextmanager
def reading(storage: Storage, what: str) -> Iterator[None]:
    """As `shared`, and of a repository that cannot be written to at all."""
    with ExitStack() as held:
        try:
            held.enter_context(shared(storage, what))
        except RefusedError as error:
            if error.code != "repository-denied":
                raise
        yield


@contextmanager
def alone(storage: Storage, what: str, *, clock: Callable[[], float] = _now_s) -> Iterator[Lock]:
    """To remove. ConflictError (`repository-busy`) while anybody else is there."""
    with _held(storage, _ALONE, what, clock) as lock:
        yield lock


@contextmanager
def _held(storage: Storage, kind: str, what: str, clock: Callable[[], float]) -> Iterator[Lock]:
    lock = Lock(storage, kind, what, clock)
    try:
        lock.write()
        _check_others(storage, lock, kind)
        lock.keep()
        yield lock
    finally:
        lock.end()


def _check_others(storage: Storage, lock: Lock, kind: str) -> None:
    found = list(storage.list(LOCKS))
    own = next((one for one in found if one.key == lock.key), None)
    if own is None:
        raise ConflictError(f"a lock in {storage.name} vanished", code="lock-lost", hint="begin again")
    for other in found:
        if other.key == own.key or (kind == _SHARED and not other.key.startswith(f"{LOCKS}{_ALONE}-")):
            continue
        if own.at_s - other.at_s > STALE_S:
            storage.delete(other.key)
            continue
        raise ConflictError(
            f"{storage.name} is in use: {_holder(storage, other)}", code="repository-busy",
            hint=f"wait until it is done; what was killed lets go after {STALE_S / 60:g} minutes",
        )  # fmt: skip


def _holder(storage: Storage, lock: Stored) -> str:
    try:
        held = json.loads(storage.read(lock.key))
        return f"{held['what']} (process {held['pid']} on {held['host']})"
    except (VdcError, ValueError, KeyError, TypeError):
        return "somebody works in it"
