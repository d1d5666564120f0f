"""Random faults for a time.

    python -m tests.soak [--minutes 30] [--faults N] [--seed N] [--from N] [--log FILE] [--lab NAME]

Prints every fault as it comes; at a violation the history, the events and the ends of the agents' logs, and how to
have the same fault again. Exit code 1 then.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from testlab import Lab

from tests.soak.run import History, soak

MOST_FAULTS = 1_000_000


def main() -> int:
    """Run, report, and take the lab away."""
    options = _options()
    say = _Voice(options.log)
    history = History(options.seed)
    say(
        f"seed {options.seed}: {options.faults or 'any number of'} faults in at most {options.minutes:g} minutes"
    )
    began = time.monotonic()
    numbers = range(options.first, options.first + (options.faults or MOST_FAULTS))
    with (
        tempfile.TemporaryDirectory(prefix="vdc-soak-") as folder,
        Lab(options.lab, Path(folder) / "config.yaml") as lab,
    ):
        try:
            soak(lab, options.seed, numbers, until_s=began + options.minutes * 60, say=say, history=history)
        except BaseException as error:  # reported, and raised again where it is no finding
            say(_report(lab, history, error))
            if not isinstance(error, Exception):
                raise
            return 1
    say(_summary(history, time.monotonic() - began))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make soak")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--faults", type=int, default=0, help="stop after so many (0: by time alone)")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--from", dest="first", type=int, default=1, help="number of the first fault")
    parser.add_argument("--log", type=Path, default=None, help="write everything to this file, too")
    parser.add_argument("--lab", default="soak", help="another name: a soak beside this one")
    options = parser.parse_args()
    options.seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    return options


class _Voice:
    """Prints and keeps."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def __call__(self, text: str) -> None:
        print(text, flush=True)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(text + "\n")


def _report(lab: Lab, history: History, error: BaseException) -> str:
    lines = ["", "VIOLATION", "".join(traceback.format_exception(error)), "History:"]
    lines += [str(entry) for entry in history.entries]
    lines += [f"then: {history.present}", "", f"to have it again: {history.replay()}", "", "Events:"]
    lines.append(lab.cli("events", timeout_s=30).stdout[-16_000:])
    for host in lab.hosts:
        lines += ["", f"Log of the agent of {host}:", lab.agent_log(host)]
    return "\n".join(lines)


def _summary(history: History, took_s: float) -> str:
    entries = history.entries
    kinds = Counter(entry.fault.kind for entry in entries)
    lines = [
        f"{len(entries)} faults in {took_s / 60:.1f} minutes without a violation (seed {history.seed})",
        f"epochs: {entries[-1].epoch}" if entries else "",
    ]
    for kind, count in sorted(kinds.items()):
        gaps = [entry.gap_ms for entry in entries if entry.fault.kind is kind]
        again = [entry.protected_after_s for entry in entries if entry.fault.kind is kind]
        lines.append(
            f"  {kind:38} {count:4d}  gap median {statistics.median(gaps):6.0f} ms, most {max(gaps):6.0f} ms; "
            f"protected after {statistics.median(again):5.1f} s, most {max(again):5.1f} s"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
