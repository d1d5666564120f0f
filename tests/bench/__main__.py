"""`python -m tests.bench`: measure, print a table, write JSON. See docs/benchmarks.md.

It makes a lab of its own, named `bench`, and takes it away again, whatever happens. It never fails on a
target; its exit status is 1 where something could not be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from tests.bench import (
    api,
    container_imports,
    containers,
    decisions,
    disk_imports,
    encryption,
    gaps,
    images,
    latency,
    lockstep,
    resources,
    resync,
)
from tests.bench.machine import machine
from tests.bench.report import describe, fill, markdown, table
from tests.bench.suite import Options, Suite
from tests.bench.world import World, use_own_context
from vdc.model.errors import VdcError

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_JSON = ROOT / "build" / "bench.json"
LOCK = "\0vdc-bench"  # no file, so nothing is left of it
PAGE = ROOT / "docs" / "benchmarks.md"

MEASUREMENTS: Mapping[str, Callable[[Suite], Awaitable[None]]] = {
    "gap-kill": gaps.killed,
    "gap-power-off": gaps.powerless,
    "gap-planned": gaps.planned,
    "gap-others": gaps.others,
    "latency": latency.compare,
    "tls": encryption.compare,
    "idle": resources.idle,
    "load": lockstep.loaded,
    "entry": lockstep.entries,
    "create": lockstep.creations,
    "resync": resync.resync,
    "import-disk": disk_imports.imports,
    "images": images.distribution,
    "import-container": container_imports.imports,
    "container": containers.containers,
    "help": resources.help_text,
    "api": api.requests,
    "decisions": decisions.decisions,
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--runs", type=_positive, default=defaults.runs, help="of each event (%(default)s)")
    add("--rounds", type=_positive, default=defaults.rounds, help="of the latency comparison (%(default)s)")
    add("--seconds", type=float, default=defaults.seconds, help="per service and round (%(default)s)")
    add("--idle-s", type=float, default=defaults.idle_s, help="seconds of the idle measurement (%(default)s)")
    add("--load-s", type=float, default=defaults.load_s, help="seconds of checkpoint load (%(default)s)")
    add("--only", nargs="+", choices=list(MEASUREMENTS), metavar="NAME", help=", ".join(MEASUREMENTS))
    add("--json", type=Path, default=DEFAULT_JSON, metavar="FILE", help="where all raw values go")
    add("--write-docs", action="store_true", help="measure nothing; put the last JSON's table into the docs")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def write_docs(source: Path) -> int:
    """Fill the marked place of the page."""
    try:
        PAGE.write_text(fill(PAGE.read_text(), markdown(json.loads(source.read_text()))))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stderr.write(f"{PAGE.relative_to(ROOT)} now shows {source}\n")
    return 0


async def measure(arguments: argparse.Namespace, folder: Path) -> int:
    """Bring the lab up, measure what was asked for, take it down."""
    began = time.monotonic()

    def say(sentence: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:6.1f} s  {sentence}\n")

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    use_own_context(folder)
    facts = machine()
    chosen = {name: MEASUREMENTS[name] for name in MEASUREMENTS if name in (arguments.only or MEASUREMENTS)}
    world = World(say)
    options = Options(arguments.runs, arguments.rounds, arguments.seconds, arguments.idle_s, arguments.load_s)
    suite = Suite(options, world, facts, arguments.json, say)
    async with world:
        facts["qemu"], facts["accelerator"] = await world.versions()
        for name, work in chosen.items():
            await _one(suite, name, work)
    sys.stdout.write(f"{describe(facts)}\n\n{table(suite.figures)}")
    sys.stdout.writelines(f"failed: {problem}\n" for problem in suite.problems)
    sys.stdout.write(f"\nAll values: {arguments.json}\n")
    return 1 if suite.problems else 0


async def _one(suite: Suite, name: str, work: Callable[[Suite], Awaitable[None]]) -> None:
    """One measurement; when it fails the next one begins with a whole, empty cluster."""
    suite.say(f"--- {name}")
    began = time.monotonic()
    try:
        await work(suite)
    except (VdcError, OSError, TimeoutError) as error:
        suite.problem(f"{name}: {error or type(error).__name__}")
        try:
            await suite.world.heal()
            await suite.world.delete()
        except (VdcError, TimeoutError) as trouble:
            suite.problem(f"{name}: the lab could not be put in order: {trouble}")
    finally:
        for crash in suite.world.crashes:
            suite.problem(f"{name}: {crash}")
        suite.world.crashes.clear()
        suite.took_s[name] = round(time.monotonic() - began, 1)
        suite.save()


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if options.write_docs:
        return write_docs(options.json)
    if os.geteuid() != 0:
        sys.stderr.write("the benchmark needs root (network namespaces, taps): run it again with sudo\n")
        return 1
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(LOCK)
        except OSError:
            sys.stderr.write("another benchmark runs on this machine\n")
            return 1
        with tempfile.TemporaryDirectory(prefix="vdc-bench-") as folder:
            return _run(options, Path(folder))


def _run(options: argparse.Namespace, folder: Path) -> int:
    try:
        return asyncio.run(measure(options, folder))
    except VdcError as error:
        hint = f"\nhint: {error.problem.hint}" if error.problem.hint else ""
        sys.stderr.write(f"{error} ({error.code}){hint}\n")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write(f"interrupted; what was measured is in {options.json}\n")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
