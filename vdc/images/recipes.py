"""Recipes: folders with a `build.sh` that make an image, or the runtime root, of packages of this machine's mirror.

They come with the source tree (`images/`) or beside an installed package (`share/vdc/images`). What they make lies in
`VDC_CACHE_DIR`, named by a digest of what it is made from; one that is there already is not made again.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vdc.confinement.roots import cache_root, runtime_root
from vdc.images.sources import RECIPE_FILE
from vdc.model.errors import NotFoundError, RefusedError

RUNTIME: Final = "runtime"
SCRIPT: Final = "build.sh"
_SENTENCE = re.compile(r"(.*?\.)(?= [A-Z]|$)")
_END_S: Final = 30.0
_LONGEST: Final = 400  # of what a recipe says in one line
_KEPT_LINES: Final = 20


@dataclass(frozen=True, slots=True)
class BuildRecipe:
    """One of them. `description` is what the first sentence of its script says it builds."""

    name: str
    description: str
    script: Path

    @property
    def output(self) -> Path | None:
        """What it has made last, if that is an image: a folder that can be imported."""
        folder = cache_root() / "images" / self.name / "current"
        return folder.resolve() if (folder / RECIPE_FILE).is_file() else None

    @property
    def is_built(self) -> bool:
        """Whether it has made something, of this version or an earlier one."""
        return self.output is not None or (self.name == RUNTIME and runtime_root() is not None)


def recipe_folder() -> Path:
    """Where the recipes are; raises NotFoundError (`recipes-missing`)."""
    beside_source = Path(__file__).resolve().parents[2] / "images"
    for folder in (beside_source, Path(sys.prefix) / "share" / "vdc" / "images"):
        if (folder / "lib" / "common.sh").is_file():
            return folder
    raise NotFoundError(
        "the recipes are not installed",
        hint="run it from a source tree, or install the package with its data",
        code="recipes-missing",
    )


def list_recipes(folder: Path) -> tuple[BuildRecipe, ...]:
    """All of them, by name."""
    return tuple(
        BuildRecipe(script.parent.name, _description(script), script)
        for script in sorted(folder.glob(f"*/{SCRIPT}"))
    )


def find_recipe(folder: Path, name: str) -> BuildRecipe:
    """Raises NotFoundError (`recipe-not-found`)."""
    known = {recipe.name: recipe for recipe in list_recipes(folder)}
    if name not in known:
        raise NotFoundError(
            f"there is no recipe {name[:80]!r} (known: {', '.join(known)})",
            hint="vdc image build --list",
            code="recipe-not-found",
        )
    return known[name]


def build(recipe: BuildRecipe, tell: Callable[[str], None]) -> None:
    """Run it to its end; `tell` hears its steps. Raises RefusedError (`recipe-failed`) with its own last word.

    However this ends, by Ctrl-C too, nothing of it runs any more.
    """
    process = subprocess.Popen(
        ["bash", str(recipe.script)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    said: deque[str] = deque(maxlen=_KEPT_LINES)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.strip()[:_LONGEST])
            if said[-1].startswith("==> "):
                tell(said[-1].removeprefix("==> "))
        if process.wait() != 0:
            raise _failed(recipe, said)
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """It ends itself when it is asked to, and takes away its folder; what it has started ends with its group."""
    if process.poll() is None:
        timer = threading.Timer(_END_S, process.kill)
        timer.start()
        process.terminate()
        process.wait()
        timer.cancel()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdout is not None:
        process.stdout.close()


def _failed(recipe: BuildRecipe, said: deque[str]) -> RefusedError:
    """The recipes end with one line, `error: WHAT; HINT`."""
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    what, _, hint = (errors[-1] if errors else said[-1] if said else "it said nothing").partition("; ")
    return RefusedError(f"recipe {recipe.name}: {what}", hint=hint, code="recipe-failed")


def _description(script: Path) -> str:
    """Of the comment that the script begins with."""
    words = []
    for line in script.read_text(encoding="utf-8", errors="replace").splitlines()[1:]:
        if not line.startswith("# "):
            break
        words.append(line.removeprefix("# "))
    text = " ".join(words)
    found = _SENTENCE.match(text)
    sentence = found[1] if found else text
    return sentence.partition(": ")[2] or sentence
