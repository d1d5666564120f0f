"""Network namespaces by system call: make, enter, remove.

A namespace is a property of a thread. Whatever has to happen inside one happens in a thread of its own that
ends afterwards, so that no thread of the program ever comes back from a foreign namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

NETNS_FOLDER = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def namespace_path(namespace: str) -> Path:
    """The bind mount that keeps a namespace alive and gives it its name."""
    return NETNS_FOLDER / namespace


def in_namespace(namespace: str, work: Callable[[], T]) -> T:
    """Run `work` inside a namespace and return its result; `FileNotFoundError` where there is none."""

    def enter_and_work() -> T:
        with _opened(namespace_path(namespace)) as descriptor:
            _check(_libc.setns(descriptor, _CLONE_NEWNET), f"setns {namespace}")
        return work()

    return in_fresh_thread(enter_and_work)


def create_namespace(namespace: str, prepare: Callable[[], None]) -> None:
    """Make a namespace; `prepare` runs inside before it gets its name: a named one is always marked."""
    path = namespace_path(namespace)

    def unshare_and_bind() -> None:
        _check(_libc.unshare(_CLONE_NEWNET), "unshare")
        prepare()
        path.touch(mode=0o444, exist_ok=False)
        source, target = b"/proc/thread-self/ns/net", os.fsencode(path)
        try:
            _check(_libc.mount(source, target, b"none", _MS_BIND, None), f"mount {path}")
        except OSError:
            path.unlink()
            raise

    in_fresh_thread(unshare_and_bind)


def remove_namespace(namespace: str) -> None:
    """Take a namespace's name away (no error where it has none); it ends with the last process inside."""
    path = namespace_path(namespace)
    while is_namespace(namespace):
        _check(_libc.umount2(os.fsencode(path), _MNT_DETACH), f"umount {path}")
    path.unlink(missing_ok=True)


def is_namespace(namespace: str) -> bool:
    """Whether the name stands for a namespace, not for a file that a crash left."""
    try:
        return namespace_path(namespace).stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    except FileNotFoundError:
        return False


def namespace_inode(namespace: str) -> int | None:
    """The namespace's identity, as `/proc/PID/ns/net` shows it; None where there is none."""
    try:
        return namespace_path(namespace).stat().st_ino if is_namespace(namespace) else None
    except FileNotFoundError:
        return None


def remove_folder_if_empty() -> None:
    """Remove the folder of namespaces unless somebody else has one there."""
    with contextlib.suppress(OSError):
        NETNS_FOLDER.rmdir()


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work beside the event loop. A cancellation waits for its end, never leaves it half-way."""
    task = asyncio.create_task(asyncio.to_thread(work), name="lab-work")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def in_fresh_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread of its own and wait for it: no event loop and no namespace is shared."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed to the caller, in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run, name="lab-namespace")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, f"{what}: {os.strerror(number)}")
