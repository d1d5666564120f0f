"""What a shell offers when somebody presses Tab and the answer is elsewhere; nothing where nobody answers."""

from __future__ import annotations

import asyncio

import click

_PATIENCE_S = 2.0


def complete_image(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Names of images; their digests once `sha256:` was begun."""
    from vdc.api.client import ApiClient
    from vdc.cli.session import call
    from vdc.model.errors import VdcError

    async def names(api: ApiClient) -> list[str]:
        async with asyncio.timeout(_PATIENCE_S):
            items = (await api.list_images()).items
        if incomplete.startswith("sha256:"):
            return [entry.digest for entry in items]
        return [name for entry in items for name in entry.names]

    try:
        return sorted(name for name in call(names) if name.startswith(incomplete))
    except (VdcError, OSError, TimeoutError):
        return []


def complete_backup(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """`VM@ID` of the backups of the repository that stands before it; VMs alone while no `@` was written."""
    from vdc.backup.repository import Repository
    from vdc.model.errors import VdcError

    place = ctx.params.get("repository")
    if not isinstance(place, str):
        return []
    try:
        found = Repository.open(place).names()
    except (VdcError, OSError):
        return []
    names = {f"{vm}@{one}" if "@" in incomplete else vm for vm, one in found}
    return sorted(name for name in names if name.startswith(incomplete))
