"""Commands and groups of this command line: examples in the help, lazy loading, options that many share."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

CONTEXT_KEY = "vdc.context"
HELP_NAMES = {"help_option_names": ["-h", "--help"]}
DEFAULT_WAIT_S = 300.0


def _remember_context(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta[CONTEXT_KEY] = value


def context_option() -> click.Option:
    """`--context NAME`, understood before and after the name of a command."""
    return click.Option(
        ["--context"],
        metavar="NAME",
        expose_value=False,
        callback=_remember_context,
        help="Talk to this cluster instead of the current one ($VDC_CONTEXT).",
    )


class VdcCommand(click.Command):
    """A command whose help ends with an example."""

    def __init__(self, *args: Any, example: str = "", **options: Any) -> None:
        options.setdefault("context_settings", HELP_NAMES)
        super().__init__(*args, **options)
        self.example = example
        self.params.append(context_option())

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example, line by line as it is."""
        _write_example(self.example, formatter)


class VdcGroup(click.Group):
    """A group whose commands are `VdcCommand`s and whose help ends with an example."""

    command_class = VdcCommand

    def __init__(self, *args: Any, example: str = "", **options: Any) -> None:
        options.setdefault("context_settings", HELP_NAMES)
        super().__init__(*args, **options)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example, line by line as it is."""
        _write_example(self.example, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is answered with the nearest."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None:
            close = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            advice = f"; did you mean {close[0]}?" if close else ""
            raise click.UsageError(f"there is no command {name[:60]!r}{advice}", ctx)
        return command.name, command, args[1:]


def _write_example(example: str, formatter: click.HelpFormatter) -> None:
    if example:
        with formatter.section("Example"):
            for line in example.strip().splitlines():
                formatter.write(f"  {line}\n")


class OutputGone(Exception):  # noqa: N818 - nothing is wrong
    """Whoever read the output does not any more. No OSError, because click answers that one by itself."""


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command is defined, and its one line in the overview."""

    module: str
    attribute: str
    help: str


class LazyGroup(VdcGroup):
    """A group that imports a command when it is called; the overview needs none of them."""

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], **options: Any) -> None:
        super().__init__(*args, **options)
        self.lazy = dict(lazy)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; raises `OutputGone` where the output is a pipe that nobody reads."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise OutputGone from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        entry = self.lazy.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.lazy.items()])


def output_option(*more: str, table: bool = True) -> Callable[[F], F]:
    """`-o table|wide|json|yaml` and `more`."""
    formats = [*(["table", "wide"] if table else []), "json", "yaml", *more]
    return click.option(
        "-o",
        "--output",
        type=click.Choice(formats),
        default="table" if table else None,
        show_default=table,
        help="How to print.",
    )


def wait_options(what: str) -> Callable[[F], F]:
    """`--wait` and `--timeout`."""

    def decorate(function: F) -> F:
        timeout = click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=DEFAULT_WAIT_S,
            show_default=True,
            metavar="SECONDS",
            help="How long --wait waits.",
        )
        return click.option("--wait", is_flag=True, help=f"Return when {what}.")(timeout(function))

    return decorate


def to_size(_ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Callback of an option that takes a size: bytes, or a usage error."""
    from vdc.model.units import parse_size

    try:
        return None if value is None else parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error), param=param) from error


def to_duration(_ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Callback of an option that takes a time (`90s`, `24h`, `7d`): seconds, or a usage error."""
    from vdc.model.units import parse_duration

    try:
        return None if value is None else int(parse_duration(value))
    except ValueError as error:
        raise click.BadParameter(str(error), param=param) from error


def to_reference(_ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Callback of a parameter that names an image: its full form, or a usage error."""
    from vdc.images.reference import normalise_reference
    from vdc.model.errors import InvalidError

    try:
        return None if value is None else str(normalise_reference(value))
    except InvalidError as error:
        raise click.BadParameter(f"{error}; {error.problem.hint}", param=param) from error


def to_image(_ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """As `to_reference`, for a parameter that takes a digest as well."""
    from vdc.images.reference import is_digest

    return value if value is not None and is_digest(value) else to_reference(_ctx, param, value)


def to_image_or_source(_ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """As `to_image`, for a parameter that also takes where an image comes from."""
    from vdc.cli.local_images import is_source

    return value if value is not None and is_source(value) else to_image(_ctx, param, value)


def to_reason(_ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Callback of a parameter that others are shown: at most 500 characters, or a usage error."""
    if len(value) > 500:
        raise click.BadParameter(f"{len(value)} characters; at most 500", param=param)
    return value


def to_name(_ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Callback of a parameter that names an object: the name, or a usage error."""
    from vdc.model.ids import check_dns_label

    try:
        return None if value is None else check_dns_label(value)
    except ValueError as error:
        raise click.BadParameter(str(error), param=param) from error
