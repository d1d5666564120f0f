"""What a shell offers when somebody presses Tab and the answer is in the cluster; nothing where no agent answers."""

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
