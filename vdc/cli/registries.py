"""What commands that speak with a registry of container images are told about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from vdc.images.oci.registries import RegistryOptions

F = TypeVar("F", bound=Callable[..., Any])


def registry_options(command: F) -> F:
    """`--authfile`, `--ca` and `--insecure`; `to_options` takes their values."""
    for option in (
        click.option(
            "--insecure",
            is_flag=True,
            help="Believe any certificate of the registry, or speak in clear with it.",
        ),
        click.option(
            "--ca",
            type=click.Path(),
            help="Whose certificate the registry has: a file, or a folder like docker's certs.d.",
        ),
        click.option(
            "--authfile",
            type=click.Path(),
            help="Credentials for the registry; otherwise podman's or docker's.",
        ),
    ):
        command = option(command)
    return command


def to_options(authfile: str | None, ca: str | None, insecure: bool) -> RegistryOptions:
    """As the image modules have them."""
    from vdc.images.oci.registries import RegistryOptions

    return RegistryOptions(Path(ca) if ca else None, insecure, Path(authfile) if authfile else None)
