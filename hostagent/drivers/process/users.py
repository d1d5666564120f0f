"""Whose a guest's files and processes are: a user of its own per VM, from a range that nobody else uses.

Which user a VM has is what the owner of its `guest` folder says, so the file system is the only record of it, and
no two folders below one state directory ever have the same. A VM's first choice follows from its uid: the user is
the same after a copy was removed and made again, unless another VM has taken it meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from vdc.model.errors import RefusedError

GUEST_DIR = "guest"
_MODE = 0o700


def owner_of(path: Path) -> int:
    """The uid that a file or folder belongs to."""
    return os.lstat(path).st_uid


def choose(key: str, uids: range, taken: frozenset[int]) -> int:
    """A uid for `key`: always the same where it is free, the next free one where it is not. Pure.

    Raises RefusedError (`uids-used-up`).
    """
    begin = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % len(uids)
    for step in range(len(uids)):
        uid = uids[(begin + step) % len(uids)]
        if uid not in taken:
            return uid
    raise RefusedError(
        f"all {len(uids)} users for guests are taken", code="uids-used-up", hint="widen guest_uids"
    )


def conflicts(
    uids: range, *, passwd: Path = Path("/etc/passwd"), subuid: Path = Path("/etc/subuid")
) -> tuple[str, ...]:
    """Who else has uids of this range, in sentences."""
    found = []
    for name, uid in ((fields[0], fields[2]) for fields in _lines(passwd) if len(fields) > 2):
        if uid.isdecimal() and int(uid) in uids:
            found.append(f"{passwd} gives {uid} to {name}")
    for name, first, count in (fields[:3] for fields in _lines(subuid) if len(fields) > 2):
        if (
            first.isdecimal()
            and count.isdecimal()
            and _overlap(uids, range(int(first), int(first) + int(count)))
        ):
            found.append(f"{subuid} gives {first} and the {count} from there to {name}")
    return tuple(found)


def require_free(uids: range) -> None:
    """RefusedError (`uids-taken`) where somebody else on this host has uids of the range."""
    if found := conflicts(uids):
        raise RefusedError(
            f"the users {uids.start} to {uids.stop - 1} for guests are not free: {found[0]}",
            code="uids-taken",
            hint="give another range in the configuration (`guest_uids`)",
        )


class GuestFolders:
    """The folders below `vms_dir` that guests' users own: one in each VM's own."""

    def __init__(self, vms_dir: Path, uids: range) -> None:
        self._vms_dir = vms_dir
        self._uids = uids
        self._choosing = threading.Lock()

    def own(self, name: str, key: str) -> Path:
        """The VM's folder for QEMU, made where it is missing. Blocks; raises OSError, RefusedError."""
        folder = self._vms_dir / name / GUEST_DIR
        with self._choosing:
            folder.mkdir(mode=_MODE, parents=True, exist_ok=True)
            if owner_of(folder) not in self._uids:  # new, or an agent died just here
                uid = choose(key, self._uids, self._taken())
                os.chown(folder, uid, uid, follow_symlinks=False)
        return folder

    def _taken(self) -> frozenset[int]:
        return frozenset(owner_of(folder) for folder in self._vms_dir.glob(f"*/{GUEST_DIR}"))


def own_by(folder: Path, uid: int) -> Path:
    """Make a folder that a helper program alone may open, or give it to its user with all that is in it. Blocks."""
    folder.mkdir(mode=_MODE, parents=True, exist_ok=True)
    for path in (folder, *folder.rglob("*")):
        if owner_of(path) != uid:
            os.chown(path, uid, uid, follow_symlinks=False)
    folder.chmod(_MODE)
    return folder


def device_groups(devices: Iterable[str]) -> tuple[int, ...]:
    """The groups by which the kernel lets somebody else than root open these devices."""
    found = set()
    for device in devices:
        with suppress(OSError):
            status = Path(device).stat()
            if status.st_gid and status.st_mode & 0o060 == 0o060 and status.st_mode & 0o006 != 0o006:
                found.add(status.st_gid)
    return tuple(sorted(found))


def _overlap(one: range, other: range) -> bool:
    return max(one.start, other.start) < min(one.stop, other.stop)


def _lines(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    return [line.split(":") for line in text.splitlines() if line and not line.startswith("#")]
