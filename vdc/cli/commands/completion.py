"""`vdc completion`: the completion script of a shell."""

from __future__ import annotations

import click

from vdc.cli.base import VdcCommand


@click.command(
    cls=VdcCommand,
    example='eval "$(vdc completion bash)"\nvdc completion fish >~/.config/fish/completions/vdc.fish',
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import BashComplete, get_completion_class

    from vdc.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(cli, {}, "vdc", "_VDC_COMPLETE")
    # Bash's own method runs bash first, to ask for its version; printing a text needs no process.
    print(
        script.source_template % script.source_vars() if isinstance(script, BashComplete) else script.source()
    )
