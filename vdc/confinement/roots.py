"""Where the programs are that touch images and guests: the runtime root, or else the machine itself."""

from __future__ import annotations

import os
from pathlib import Path

from vdc.model.errors import InvalidError

DEFAULT_CACHE_DIR = "/var/cache/vdc"
_PROGRAM_FOLDERS = ("usr/bin", "usr/sbin")


def folder_from_environment(variable: str, default: str) -> Path:
    """A folder that an environment variable names; `InvalidError` (`state-dir-invalid`) unless absolute."""
    path = Path(os.environ.get(variable) or default)
    if not path.is_absolute():
        raise InvalidError(
            f"{variable} must be an absolute path, not {str(path)!r}", code="state-dir-invalid"
        )
    return path


def cache_root() -> Path:
    """`VDC_CACHE_DIR`: what is built, and can be built again."""
    return folder_from_environment("VDC_CACHE_DIR", DEFAULT_CACHE_DIR)


def runtime_root() -> Path | None:
    """The current runtime root; None where none was built."""
    link = cache_root() / "runtime" / "current"
    return link.resolve() if link.is_dir() else None


def holds(root: Path, program: str) -> bool:
    """Whether the program is below `root`, where a sandbox over it finds it."""
    return any((root / folder / program).is_file() for folder in _PROGRAM_FOLDERS)
