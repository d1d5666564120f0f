"""`vdc image build`: which recipes there are, and what becomes of one that fails or is interrupted."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from vdc.cli.main import cli
from vdc.images import recipes
from vdc.images.recipes import build, find_recipe, list_recipes, recipe_folder
from vdc.model.errors import NotFoundError, RefusedError

ROOT = Path(__file__).parents[2]


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name / "build.sh"
    path.parent.mkdir(parents=True)
    path.write_text("#!/usr/bin/env bash\n" + text)
    return path


def test_the_source_tree_has_these() -> None:
    found = {recipe.name: recipe for recipe in list_recipes(recipe_folder())}
    assert found.keys() >= {"debian", "mini", "runtime"}
    assert found["debian"].description.startswith("a small Debian server")
    assert all(recipe.description.endswith(".") for recipe in found.values())


def test_an_installed_package_has_all_that_they_need() -> None:
    """A file that is missing in pyproject's list would be missed by whoever has no source tree."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    present = {path for patterns in listed.values() for pattern in patterns for path in ROOT.glob(pattern)}
    for name in ("lib", "runtime", "mini", "debian"):
        folder = ROOT / "images" / name
        wanted = {
            path
            for path in folder.rglob("*")
            if path.is_file() and "test" not in path.parts[len(ROOT.parts) :]
        }
        assert not wanted - present
    for folder, patterns in listed.items():
        for pattern in patterns:
            assert str(Path(pattern).parent) == folder.removeprefix("share/vdc/")


def test_an_unknown_one_is_answered_with_those_there_are(tmp_path: Path) -> None:
    script(tmp_path, "one", "")
    with pytest.raises(NotFoundError, match="known: one"):
        find_recipe(tmp_path, "two")


def test_its_steps_are_told(tmp_path: Path) -> None:
    script(tmp_path, "one", "# Builds it. And more.\necho '==> first'; echo noise; echo '==> second' >&2\n")
    told: list[str] = []
    recipe = find_recipe(tmp_path, "one")
    build(recipe, told.append)
    assert (recipe.description, told) == ("Builds it.", ["first", "second"])


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("echo 'error: it broke; fix it' >&2; exit 1", "recipe one: it broke", "fix it"),
        ("echo 'boom: 7'; exit 3", "recipe one: boom: 7", ""),
        ("exit 3", "recipe one: it said nothing", ""),
        ("yes | head -c 3000000 | tr -d '\\n'; exit 1", "recipe one: " + "y" * 400, ""),
    ],
)
def test_its_last_word_is_the_error(tmp_path: Path, text: str, message: str, hint: str) -> None:
    script(tmp_path, "one", text)
    with pytest.raises(RefusedError) as caught:
        build(find_recipe(tmp_path, "one"), lambda _: None)
    assert (caught.value.problem.message, caught.value.problem.hint) == (message, hint)


def test_nothing_of_it_runs_after_an_interruption(tmp_path: Path) -> None:
    left = tmp_path / "left"
    script(
        tmp_path,
        "one",
        f"trap 'rm -f {left}' EXIT; sleep 60 & echo $! > {left}.pid; touch {left}; echo '==> on'; wait",
    )

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(find_recipe(tmp_path, "one"), interrupt)
    assert not left.exists()
    pid = int(Path(f"{left}.pid").read_text())
    deadline = time.monotonic() + 10
    while (
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    ):
        assert time.monotonic() < deadline, "its child lives"


def test_a_recipe_that_does_not_mind_being_asked_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "_END_S", 0.2)
    script(tmp_path, "one", "trap '' TERM; echo '==> on'; while :; do sleep 0.05; done")

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(find_recipe(tmp_path, "one"), interrupt)


def test_the_command_lists_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VDC_CACHE_DIR", str(tmp_path))
    result = CliRunner().invoke(cli, ["image", "build", "--list"])
    assert result.exit_code == 0
    assert [line.split()[:2] for line in result.output.splitlines()[1:]] == [
        [recipe.name, "no"] for recipe in list_recipes(recipe_folder())
    ]


def test_what_was_made_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VDC_CACHE_DIR", str(tmp_path / "cache"))
    made = tmp_path / "cache/images/one/current"
    script(tmp_path / "recipes", "runtime", "true")
    script(tmp_path / "recipes", "one", f"mkdir -p {made}; echo '{{}}' > {made}/image.json")
    monkeypatch.setattr(recipes, "recipe_folder", lambda: tmp_path / "recipes")
    result = CliRunner().invoke(cli, ["image", "build", "one", "--no-import"])
    assert (result.exit_code, result.output) == (0, f"recipe/one built: {made}\n")
