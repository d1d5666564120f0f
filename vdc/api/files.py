"""Answers about a container's files."""

from __future__ import annotations

from vdc.model.base import Record


class FilesWritten(Record):
    """An archive was unpacked in the guest."""

    files: int  # beside folders
