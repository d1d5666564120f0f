"""`python -m tests.fuzz [--runs N] [TARGET...]`: atheris on each target, guided by coverage, from its seeds.

A crash is left in `.fuzz/TARGET/`; `python -m tests.fuzz TARGET --once FILE` has it again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

FOLDER = Path(__file__).parents[2] / ".fuzz"
MAX_BYTES = 4096
INPUT_S = 10  # the longest that one input may take
MEMORY_MB = 2048


def main() -> int:
    """Exit code 1 where a target fell."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all, if none is named")
    parser.add_argument("--runs", type=int, default=10_000, help="inputs per target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--once", type=Path, help="run one input and nothing else")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.inside:
        fuzz(chosen.targets[0], chosen.runs, chosen.seed)
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: skipped: there is no atheris for this Python (see pyproject.toml)")
        return 0
    from tests.fuzz.targets import BY_NAME

    if unknown := set(chosen.targets) - BY_NAME.keys():
        parser.error(f"there is no target {', '.join(sorted(unknown))}; there are {', '.join(BY_NAME)}")
    names = chosen.targets or list(BY_NAME)
    if chosen.once is not None:
        BY_NAME[names[0]].run(chosen.once.read_bytes())
        return 0
    return max(run(BY_NAME[name], chosen.runs, chosen.seed) for name in names)


def run(target: Target, runs: int, seed: int) -> int:
    """One target in a process of its own: libFuzzer ends the process."""
    seeds = FOLDER / target.name / "seeds"
    seeds.mkdir(parents=True, exist_ok=True)
    for content in target.seeds:
        (seeds / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
    command = [sys.executable, "-m", "tests.fuzz", target.name, "--inside"]
    command += ["--runs", str(runs), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    if done.returncode == 0:
        print(f"fuzz: {target.name}: {last(lines, 'DONE') or last(lines, 'Done')}", flush=True)
        return 0
    print(f"fuzz: {target.name}: FELL", *lines[-40:], sep="\n    ", flush=True)
    return 1


def last(lines: list[str], word: str) -> str:
    """The last of libFuzzer's lines that has a word."""
    return next((" ".join(line.split()) for line in reversed(lines) if word in line.split()), "")


def fuzz(name: str, runs: int, seed: int) -> None:
    """Does not return."""
    import atheris

    with atheris.instrument_imports(include=["vdc", "hostagent"]):
        from tests.fuzz.targets import BY_NAME
    options = [
        f"-runs={runs}", f"-seed={seed}", f"-max_len={MAX_BYTES}", f"-timeout={INPUT_S}",
        f"-rss_limit_mb={MEMORY_MB}", f"-artifact_prefix={FOLDER / name}/",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(FOLDER / name / "seeds")], BY_NAME[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
