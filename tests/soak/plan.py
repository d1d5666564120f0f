"""Which fault comes next: a pure choice by seed and number, so that any fault of a history can be had again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Part(StrEnum):
    """Which host of the VM it befalls; who that is shows when it comes."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    SPARE = "spare"


class Kind(StrEnum):
    """What happens."""

    KILL_QEMU = "kill QEMU"
    STOP_QEMU = "stop QEMU"
    KILL_AGENT = "kill the agent"
    STOP_AGENT = "stop the agent for a while"
    KILL_ETCD = "kill etcd"
    POWER_OFF = "power off"
    SUSPEND = "suspend the host for a while"
    CUT = "cut a network"
    SLOW = "slow the networks down"
    PROMOTE = "promote by command"
    MOVE = "promote to the spare by command"
    UNPROTECT = "unprotect and protect"
    CONTROLLER = "kill the leading agent"


@dataclass(frozen=True)
class Fault:
    """One fault of a history."""

    number: int
    kind: Kind
    part: Part | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        more = ", ".join(f"{key} {value}" for key, value in self.details.items())
        return f"{self.kind}{f' of the {self.part}' if self.part else ''}{f' ({more})' if more else ''}"


NETWORKS, DIRECTIONS = ("management", "replication", "all"), ("in", "out", "both")
_COPIES = (Part.PRIMARY, Part.SECONDARY)
_ANY = (*_COPIES, Part.SPARE)


def _hold(rng: random.Random) -> dict[str, Any]:
    """A time that is short or long beside every limit of the detection, seldom near one."""
    return {"hold_s": rng.choice((0.1, 0.3, 1.0, 3.0, 6.0))}


# Kind, how often it comes beside the others, whom it befalls, and its details.
_CHOICES: tuple[tuple[Kind, int, tuple[Part, ...], Callable[[random.Random], dict[str, Any]]], ...] = (
    (Kind.KILL_QEMU, 4, _COPIES, lambda rng: {}),
    (Kind.STOP_QEMU, 2, _COPIES, _hold),
    (Kind.KILL_AGENT, 3, _ANY, lambda rng: {}),
    (Kind.STOP_AGENT, 2, _ANY, _hold),
    (Kind.KILL_ETCD, 2, _ANY, lambda rng: {}),
    (Kind.POWER_OFF, 5, _ANY, lambda rng: {"off_s": rng.choice((0.5, 4.0))}),
    (Kind.SUSPEND, 2, _ANY, _hold),
    (
        Kind.CUT, 6, _ANY,
        lambda rng: {"network": rng.choice(NETWORKS), "direction": rng.choice(DIRECTIONS), **_hold(rng)},
    ),
    (Kind.SLOW, 1, _COPIES, lambda rng: {"rate": "20mbit", "hold_s": 3.0}),
    (Kind.PROMOTE, 3, (), lambda rng: {}),
    (Kind.MOVE, 1, (), lambda rng: {}),
    (Kind.UNPROTECT, 1, (), lambda rng: {}),
    (Kind.CONTROLLER, 1, (), lambda rng: {}),
)  # fmt: skip


def fault(seed: int, number: int) -> Fault:
    """The fault of this number; the same for the same seed whatever came before."""
    rng = random.Random(f"{seed}/{number}")
    kind, _, parts, details = rng.choices(_CHOICES, weights=[weight for _, weight, _, _ in _CHOICES])[0]
    return Fault(number, kind, rng.choice(parts) if parts else None, details(rng))


def moment_s(seed: int, number: int) -> float:
    """How long after the last proof of health it comes: at no particular phase of a checkpoint."""
    return random.Random(f"{seed}/{number}/moment").uniform(0.0, 1.0)
