"""What stands beside an etcd member's data: whether it has joined, and what a human has decided about it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from hostagent.drivers.process import write_atomically
from vdc.model.base import Record


class Mark(Record):
    """`alone` orders every start to go on alone, until the log knows more than index `decided` to be decided."""

    joined: bool = False  # it was healthy, with the data beside this
    rejoining: bool = False  # it was added to a cluster that exists, as a new member with empty data
    cluster: str = ""  # and these are that cluster's members
    lineage: int = 0  # what its data began, when a human let it go on alone
    alone: bool = False
    decided: int = 0  # an earlier version left it out: then it counts as done, for it may have been long ago


class MarkFile:
    """The mark on disk. `change` waits for the disk: call it in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changing = threading.Lock()

    def read(self) -> Mark:
        """The mark as it stands; one that cannot be read is that of a member that has joined."""
        try:
            return Mark.from_json(self.path.read_bytes())
        except FileNotFoundError:
            return Mark()
        except ValidationError:
            return Mark(joined=True)  # torn: the careful reading

    def change(self, following: Callable[[Mark], Mark]) -> Mark:
        """Replace it by `following` of it, durably; returns what stands then."""
        with self._changing:
            before = self.read()
            after = following(before)
            if after != before:
                write_atomically(self.path, after.to_json() + "\n")
            return after
