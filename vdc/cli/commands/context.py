"""`vdc context`: which cluster this program talks to, and as whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vdc.cli.base import VdcGroup, output_option


def _complete_context(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from vdc.api.context import load_contexts
    from vdc.model.errors import VdcError

    try:
        return [name for name in load_contexts().contexts if name.startswith(incomplete)]
    except VdcError:
        return []


@click.group(cls=VdcGroup, example="vdc context ls\nvdc context use lab\nvdc context import alice.yaml")
def context() -> None:
    """Which cluster this program talks to, and as whom."""


@context.command("ls", example="vdc context ls\nvdc context ls -o json")
@output_option()
def list_contexts(output: str) -> None:
    """List the contexts of your file; keys are never shown."""
    from vdc.api.context import load_contexts
    from vdc.cli.render import print_records, print_values
    from vdc.cli.text import Column

    file = load_contexts()
    rows = [_row(name, found, is_current=name == file.current) for name, found in file.contexts.items()]
    if output in ("json", "yaml"):
        print_values({"items": rows}, output)
        return
    columns: list[Column[dict[str, Any]]] = [
        Column("CURRENT", lambda row: "*" if row["current"] else ""),
        Column("NAME", lambda row: row["name"]),
        Column("USER", lambda row: row["user"]),
        Column("ROLE", lambda row: row["role"]),
        Column("VALID UNTIL", lambda row: row["valid_until"]),
        Column("ENDPOINTS", lambda row: row["endpoints"]),
        Column("CLUSTER", lambda row: row["cluster"], wide=True),
    ]
    print_records(
        rows, columns, output, empty="there are no contexts; vdc lab up, or vdc context import FILE"
    )


def _row(name: str, found: Any, *, is_current: bool) -> dict[str, Any]:
    from vdc.model.errors import VdcError
    from vdc.security.certificates import read_certificate

    row: dict[str, Any] = {
        "name": name, "current": is_current, "endpoints": list(found.endpoints),
        "user": None, "role": None, "cluster": None, "valid_until": None,
    }  # fmt: skip
    if found.credentials is not None:
        try:
            said = read_certificate(found.credentials.certificate_pem)
        except VdcError as error:
            return {**row, "user": f"unreadable ({error.code})"}
        row |= {
            "user": said.identity.name,
            "role": said.identity.role.value,
            "cluster": said.identity.cluster,
        }
        row["valid_until"] = said.not_after.isoformat(timespec="seconds")
    return row


@context.command("use", example="vdc context use lab")
@click.argument("name", shell_complete=_complete_context)
def use(name: str) -> None:
    """Make a context the current one."""
    from vdc.api.context import use_context

    use_context(name)
    print(f"context/{name} is used now")


@context.command("import", example="vdc context import alice.yaml")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def import_file(file: Path) -> None:
    """Add the contexts of a file that `vdc cluster user add` wrote; the first becomes the current one.

    The file holds a private key: remove it afterwards.
    """
    from vdc.api.context import import_contexts, load_contexts
    from vdc.model.errors import InvalidError

    given = load_contexts(file)
    if not file.exists():
        raise InvalidError(f"there is no file {file}", code="context-invalid")
    if not given.contexts:
        raise InvalidError(f"{file} has no context in it", code="context-invalid")
    import_contexts(given)
    for name in given.contexts:
        print(f"context/{name} imported")


@context.command("remove", example="vdc context remove lab")
@click.argument("name", shell_complete=_complete_context)
def remove(name: str) -> None:
    """Forget a context and its key; the one that was current before it comes back."""
    from vdc.api.context import find_context, load_contexts, remove_context

    find_context(load_contexts(), name)
    remove_context(name)
    print(f"context/{name} removed")
