"""What all measurements of one run share: options, the lab, the figures so far, and the problems."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.figures import Figure
from tests.bench.world import Say, World


@dataclass(frozen=True)
class Options:
    """From the command line."""

    runs: int = 10
    rounds: int = 3  # of the latency comparison, each with a fresh VM and a fresh bare pair
    seconds: float = 2.0  # per service and round
    idle_s: float = 60.0
    load_s: float = 20.0


@dataclass
class Suite:
    """One run of the benchmark."""

    options: Options
    world: World
    machine: dict[str, Any]
    path: Path
    say: Say
    began_s: float = field(default_factory=time.monotonic)
    figures: list[Figure] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)

    def add(self, figures: Iterable[Figure]) -> None:
        """Keep figures; those without a value say so by their dashes."""
        self.figures += figures

    def problem(self, sentence: str) -> None:
        """Something could not be measured."""
        self.problems.append(sentence)
        self.say(f"FAILED: {sentence}")

    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "machine": self.machine,
            "options": vars(self.options),
            "took_s": {**self.took_s, "all": round(time.monotonic() - self.began_s, 1)},
            "figures": [figure.to_dict() for figure in self.figures],
            "problems": self.problems,
            "raw": self.raw,
        }

    def save(self) -> None:
        """Write the document; what was measured before an interruption is kept."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.document(), indent=1) + "\n")
