"""From a command to an agent: the chosen context, the client, one event loop per command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import click

from vdc.api.client import ApiClient
from vdc.api.context import Context, replace_authorities, resolve_context
from vdc.cli.base import CONTEXT_KEY

T = TypeVar("T")


def chosen_context() -> tuple[str, Context]:
    """The context of this command line: `--context`, `$VDC_CONTEXT`, the current one."""
    current = click.get_current_context(silent=True)
    return resolve_context(current.meta.get(CONTEXT_KEY) if current else None)


def call(work: Callable[[ApiClient], Awaitable[T]]) -> T:
    """Run `work` with a client of the chosen context."""
    name, context = chosen_context()

    async def with_client() -> T:
        async with ApiClient.of(context) as api:
            try:
                answer = await work(api)
                await api.transport.follow_rotation()
                return answer
            finally:
                learned = api.transport.credentials
                if learned is not None and learned != context.credentials:
                    replace_authorities(name, learned.authority_pem)

    return run(with_client())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; Ctrl-C cancels it."""
    return asyncio.run(work)
