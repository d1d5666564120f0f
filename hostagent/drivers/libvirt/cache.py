"""Libvirt's answers, kept for one boot in a folder that several agents of a machine may share.

The key holds everything an answer depends on: the boot (microcode, kernel, KVM), libvirt's version, the
QEMU asked about and the question itself. Failures are not kept. Agents that start together ask once: the
others wait for the first one's answer. Losing the folder costs a second, nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from hostagent.drivers.process.files import write_atomically
from hostagent.drivers.process.identity import boot_id

_FORMAT = 1  # raise it when an answer's meaning changes
_LOCK_POLL_S = 0.05
_LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
Answer = dict[str, Any]


class AnswerCache:
    """One file per question; `directory` is made when it is first needed."""

    def __init__(self, directory: Path, *, deadline_s: float) -> None:
        self._directory = directory
        self._deadline_s = deadline_s

    async def get_or_ask(self, key: Answer, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """This boot's answer, or `ask`'s, which is kept. A folder that cannot be written only costs time."""
        path = await asyncio.to_thread(self._path_of, key)
        kept = await asyncio.to_thread(_read, path)
        if kept is not None:
            return kept
        async with self._alone(path):
            kept = await asyncio.to_thread(_read, path)
            if kept is None:
                kept = await ask()
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(self._keep, path, kept)
            return kept

    def _path_of(self, key: Answer) -> Path:
        text = json.dumps({**key, "format": _FORMAT, **_environment()}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        return self._directory / f"libvirt-{key['question']}-{digest}.json"

    def _keep(self, path: Path, answer: Answer) -> None:
        write_atomically(path, json.dumps({"boot_id": boot_id(), "answer": answer}))
        self._remove_those_of_other_boots()

    def _remove_those_of_other_boots(self) -> None:
        for path in self._directory.glob("libvirt-*.json"):
            if _read(path) is None:
                path.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def _alone(self, path: Path) -> AsyncIterator[None]:
        """Hold the question's lock; after the deadline, or where locks cannot be had, go on without it."""
        handle = await asyncio.to_thread(self._open_lock)
        try:
            if handle is not None:
                await self._lock(handle)
            yield
        finally:
            if handle is not None:
                os.close(handle)  # releases the lock

    def _open_lock(self) -> int | None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            return os.open(self._directory / ".libvirt.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return None

    async def _lock(self, handle: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._deadline_s):
                while not _try_lock(handle):  # noqa: ASYNC110 - flock has no event to wait for
                    await asyncio.sleep(_LOCK_POLL_S)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _read(path: Path) -> Answer | None:
    """The answer in `path` if it is of this boot."""
    try:
        kept = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if (
        not isinstance(kept, dict)
        or kept.get("boot_id") != boot_id()
        or not isinstance(kept.get("answer"), dict)
    ):
        return None
    return dict(kept["answer"])


def _environment() -> Answer:
    """What answers depend on besides the question; read without loading libvirt."""
    module = importlib.util.find_spec("libvirt")
    return {
        "boot_id": boot_id(),
        "libvirt": sorted(_library_versions()),
        "module": module.origin if module else None,
        "kvm": os.access("/dev/kvm", os.R_OK | os.W_OK),
    }


def _library_versions() -> set[str]:
    """The installed library's real file name carries its version: libvirt.so.0.9000.0."""
    found: set[str] = set()
    for base in _LIBRARIES:
        for pattern in (
            "libvirt.so.0",
            "*/libvirt.so.0",
            "*/libvirt/connection-driver/libvirt_driver_qemu.so",
        ):
            found.update(str(path.resolve()) for path in Path(base).glob(pattern))
    return found
