"""Who else could write what this agent runs, reads or trusts. The agent is root: whoever writes these is root too.

A folder of the way counts as well, for its owner can replace what is below it; in one with the sticky bit (/tmp)
only owners can.
"""

from __future__ import annotations

import os
import stat
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

import vdc
from vdc.model.errors import RefusedError

_OTHERS = stat.S_IWOTH


def require_unexposed(path: Path) -> None:
    """Refuse a file or folder that others than root and this user can write or replace; one that is absent passes.

    Raises RefusedError (`path-exposed`).
    """
    for place in (path, *path.parents, *_target(path)):
        reason = _exposure(place)
        if reason:
            raise RefusedError(
                f"{place} {reason}: the agent would do what they write",
                hint=f"chown root: {place}; chmod go-w {place}",
                code="path-exposed",
            )


def _target(path: Path) -> tuple[Path, ...]:
    """Where links lead to, with the way there."""
    real = path.resolve()
    return () if real == path else (real, *real.parents)


def _exposure(path: Path) -> str:
    try:
        found = path.lstat()
    except OSError:
        return ""
    if stat.S_ISLNK(found.st_mode):
        return ""  # its folder and its target count
    if found.st_uid not in (0, os.geteuid()):
        return f"belongs to the user {found.st_uid}"
    is_sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_mode & _OTHERS and not is_sticky:
        return "can be written by everybody"
    if found.st_mode & stat.S_IWGRP and found.st_gid not in (0, os.getegid()) and not is_sticky:
        return f"can be written by the group {found.st_gid}"
    return ""


def programs(runtime: Path | None) -> tuple[Path, ...]:
    """Folders of what this agent runs: its own code, its libraries, the runtime root."""
    own = Path(vdc.__file__).parent
    found = (own, own.with_name("hostagent"), Path(sysconfig.get_path("purelib")), runtime)
    return tuple(path for path in found if path is not None)


def exposed(folders: Iterable[Path]) -> str:
    """The first thing below these folders that others can write, in a few words; empty where there is none.

    Blocks: it looks at every file.
    """
    for path in _walk(folders):
        if reason := _exposure(path):
            return f"{path} {reason}"
    return ""


def _walk(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        real = folder.resolve()
        yield from (real, *real.parents)
        for place, _, names in os.walk(real):
            yield Path(place)
            yield from (Path(place) / name for name in names)
