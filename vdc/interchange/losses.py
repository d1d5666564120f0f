"""What of a description cannot be kept, said line by line. Nothing of it is passed over in silence.

`Ledger.look` walks the children of an element by a table: what stands in it is known, and everything else is said
to be unknown. So an element that libvirt gains next year shows up in the list, instead of missing in the VM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from vdc.interchange.element import Element

MAX_LOSSES = 200
_MAX_TEXT = 300


class Verdict(StrEnum):
    """What becomes of it."""

    DROPPED = "not kept"
    CHANGED = "changed"
    LEFT_TO_DO = "to do"


@dataclass(frozen=True, slots=True)
class Loss:
    """One line for people."""

    verdict: Verdict
    path: str
    text: str
    place: int = 0  # in the document

    def __str__(self) -> str:
        return f"{self.verdict}: {self.path}: {self.text}"


Handler = Callable[[Element], None]
Rule = (
    Handler | str | None
)  # what reads it; why it is not kept; nothing: it is the same here, or means nothing here
Rules = Mapping[str, Rule]


class Ledger:
    """Collects losses."""

    def __init__(self) -> None:
        self._found: list[Loss] = []

    def drop(self, element: Element, text: str, part: str = "") -> None:
        """It has no counterpart. `part`: `@attribute`, or another part of it."""
        self._add(element, Verdict.DROPPED, text, part)

    def change(self, element: Element, text: str, part: str = "") -> None:
        """It becomes something else."""
        self._add(element, Verdict.CHANGED, text, part)

    def look(self, element: Element, rules: Rules) -> None:
        """Apply a table to the children of an element."""
        for child in element.children:
            rule = rules.get(child.tag, "not known here")
            if isinstance(rule, str):
                self.drop(child, rule)
            elif rule is not None:
                rule(child)

    def attributes(self, element: Element, known: Iterable[str], text: str = "not known here") -> None:
        """Say which attributes there are beside the known ones."""
        others = sorted(set(element.attributes) - set(known))
        if others:
            self.drop(element, text, "@" + ",@".join(others))

    @property
    def found(self) -> tuple[Loss, ...]:
        """All of them."""
        return tuple(self._found)

    def _add(self, element: Element, verdict: Verdict, text: str, part: str) -> None:
        path = (element.path or "domain") + part
        self._found.append(Loss(verdict, path[:_MAX_TEXT], text[:_MAX_TEXT], element.place))


def in_order(losses: Iterable[Loss]) -> tuple[Loss, ...]:
    """As the document has them; the last one says so where there are too many."""
    ordered = sorted(losses, key=lambda loss: loss.place)
    if len(ordered) <= MAX_LOSSES:
        return tuple(ordered)
    return (*ordered[:MAX_LOSSES], Loss(Verdict.DROPPED, "...", f"and {len(ordered) - MAX_LOSSES} more"))
