"""Output of a guest that nobody has read yet: about as large in memory as its bytes, in whatever pieces. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from hostagent.drivers.guest.frames import MOST_PAYLOAD

MOST_APART: Final = 1_024  # pieces; beyond that their order among the two kinds is given up


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes of standard output, or of an archive."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Errors:
    """Bytes of standard error."""

    data: bytes


Kind = type[Output] | type[Errors]


class Arrivals:
    """In the order in which they came. What follows a piece of its kind is made one with it."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[Kind, bytearray]] = deque()

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def put(self, kind: Kind, data: bytes) -> None:
        """Behind all that is there."""
        for there, piece in self._latest():
            if there is kind and len(piece) + len(data) <= MOST_PAYLOAD:
                piece.extend(data)
                return
        self._pieces.append((kind, bytearray(data)))

    def _latest(self) -> list[tuple[Kind, bytearray]]:
        """What may take more: the last piece, and among too many the last one of the other kind, too."""
        count = 2 if len(self._pieces) > MOST_APART else min(1, len(self._pieces))
        return [self._pieces[-1 - i] for i in range(count)]

    def take(self) -> Output | Errors:
        """The first piece, which is there."""
        kind, data = self._pieces.popleft()
        return kind(bytes(data))

    def clear(self) -> None:
        """Nobody will read it."""
        self._pieces.clear()
