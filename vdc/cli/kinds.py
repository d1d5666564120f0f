"""The kinds of object that commands take: their names, how to list them, how to print them."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from vdc.api.client import ApiClient
from vdc.cli import tables
from vdc.cli.templates import list_templates
from vdc.cli.text import Column
from vdc.images.reference import candidates
from vdc.model.errors import InvalidError, NotFoundError


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind. `names_of` gives what a record may be called by, its own name first."""

    singular: str
    plural: str
    short: tuple[str, ...]
    columns: Callable[[], list[Column[Any]]]
    list: Callable[[ApiClient], Awaitable[Sequence[Any]]]
    names_of: Callable[[Any], tuple[str, ...]]
    needs_cluster: bool = True

    @property
    def all_names(self) -> tuple[str, ...]:
        """Every word for this kind."""
        return (self.plural, self.singular, *self.short)

    async def get(self, api: ApiClient, name: str) -> Any:
        """One record; `NotFoundError` (`KIND-not-found`)."""
        if self is ENDOPHYTE:
            return await api.get_endophyte(name)
        records = await self.list(api)
        for wanted in _names_of_image(name) if self is IMAGE else (name,):
            for record in records:
                if wanted in self.names_of(record):
                    return record
        known = [self.names_of(record)[0] for record in records]
        close = difflib.get_close_matches(name, known, n=1)
        raise NotFoundError(
            f"there is no {self.singular} {name[:120]!r}",
            hint=f"did you mean {close[0]}?" if close else f"vdc get {self.plural}",
            code=f"{self.singular}-not-found",
        )


def _names_of_image(name: str) -> tuple[str, ...]:
    """What a name may mean; a digest, or its beginning, means itself."""
    try:
        return (*candidates(name), name)
    except InvalidError:
        return (name,)


async def _endophytes(api: ApiClient) -> Sequence[Any]:
    return (await api.list_endophytes()).items


async def _nodes(api: ApiClient) -> Sequence[Any]:
    return (await api.list_nodes()).items


async def _images(api: ApiClient) -> Sequence[Any]:
    return (await api.list_images()).items


async def _networks(api: ApiClient) -> Sequence[Any]:
    return (await api.list_networks()).items


async def _events(api: ApiClient) -> Sequence[Any]:
    return (await api.list_events()).items


async def _templates(_api: ApiClient | None) -> Sequence[Any]:
    return list_templates()


def _image_names(entry: Any) -> tuple[str, ...]:
    bare = entry.digest.removeprefix("sha256:")
    return (*entry.names, entry.digest, bare, bare[:12])


ENDOPHYTE = Kind(
    "endophyte",
    "endophytes",
    ("endo", "ep"),
    tables.endophyte_columns,
    _endophytes,
    lambda v: (v.metadata.name,),
)
NODE = Kind("node", "nodes", ("no", "host", "hosts"), tables.node_columns, _nodes, lambda n: (n.host.name,))
IMAGE = Kind("image", "images", ("img",), tables.image_columns, _images, _image_names)
NETWORK = Kind("network", "networks", ("net",), tables.network_columns, _networks, lambda n: (n.name,))
EVENT = Kind("event", "events", ("ev",), tables.event_columns, _events, lambda e: (e.name,))
TEMPLATE = Kind(
    "template",
    "templates",
    ("tmpl",),
    tables.template_columns,
    _templates,
    lambda t: (t.name,),
    needs_cluster=False,
)
KINDS = (ENDOPHYTE, NODE, IMAGE, NETWORK, EVENT, TEMPLATE)


def find_kind(word: str, among: tuple[Kind, ...] = KINDS) -> Kind:
    """The kind by any of its names; a usage error names the nearest."""
    for kind in among:
        if word.lower() in kind.all_names:
            return kind
    words = [name for kind in among for name in kind.all_names[:2]]
    close = difflib.get_close_matches(word.lower(), words, n=1)
    advice = f"did you mean {close[0]}?" if close else f"one of: {', '.join(kind.plural for kind in among)}"
    raise click.UsageError(
        f"{word[:60]!r} is not a kind of object; {advice}", click.get_current_context(silent=True)
    )
