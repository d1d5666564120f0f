"""`vdc image build`: make an image by a recipe, and import it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcCommand, to_reference

if TYPE_CHECKING:
    from pathlib import Path

    from vdc.cli.progress import StatusLine


@click.command(
    "build",
    cls=VdcCommand,
    example="vdc image build --list\nvdc image build debian\nvdc image build debian --name me/debian:13",
)
@click.argument("recipe", required=False)
@click.option("--list", "is_list", is_flag=True, help="List the recipes.")
@click.option("--name", callback=to_reference, metavar="REF", help="Name the image so; otherwise as it says.")
@click.option("--no-import", is_flag=True, help="Only make it, and say where it is.")
def build_image(recipe: str | None, is_list: bool, name: str | None, no_import: bool) -> None:
    """Make an image of Debian's packages by a recipe, and import it.

    Needs root on this machine, and its mirror. What the same recipe has made before is imported as it is.
    """
    from vdc.cli.progress import StatusLine
    from vdc.images.recipes import RUNTIME, build, find_recipe, recipe_folder

    folder = recipe_folder()
    if is_list or recipe is None:
        _list_recipes(folder)
        return
    found = find_recipe(folder, recipe)
    with StatusLine() as line:
        for one in dict.fromkeys(
            (find_recipe(folder, RUNTIME), found)
        ):  # with its programs the others are made
            build(one, line.show)
        output = found.output
        if output is not None and not no_import:
            _import(found.name, output, name, line)
            return
    print(f"recipe/{found.name} built{f': {output}' if output else ''}")


def _import(recipe: str, output: Path, name: str | None, line: StatusLine) -> None:
    from vdc.cli.commands.image import send, tell
    from vdc.images.sources import ImportOptions, plan_import

    with plan_import(str(output), ImportOptions(name=name, progress=line.bytes)) as plan:
        sent = send(plan, line, f"recipe {recipe}")
        line.clear()
        tell(plan, sent, None)


def _list_recipes(folder: Path) -> None:
    from vdc.cli.text import Column, Table
    from vdc.images.recipes import BuildRecipe, list_recipes

    columns: list[Column[BuildRecipe]] = [
        Column("NAME", lambda r: r.name),
        Column("BUILT", lambda r: "yes" if r.is_built else "no"),
        Column("DESCRIPTION", lambda r: r.description),
    ]
    print(Table(columns).render(list_recipes(folder), sys.stdout))
