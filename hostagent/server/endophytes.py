"""Handlers about Endophytes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from hostagent.drivers.process.foreign import open_foreign
from hostagent.drivers.process.users import GUEST_DIR
from hostagent.drivers.qemu.spec import OUTPUT_LOG, SERIAL_LOG
from hostagent.server import peers, views
from hostagent.server.context import ServerContext
from hostagent.server.http import number, parse_body, stream_lines
from hostagent.server.identity import person_of, require_role
from hostagent.server.promotion import promote
from hostagent.supervisor.logs import earlier_log
from hostagent.supervisor.machine import is_container
from vdc.api import models as wire
from vdc.api.routes import BY_NAME
from vdc.control.desired import parse_manifest
from vdc.control.tombstones import bury
from vdc.model.base import Record
from vdc.model.endophyte import Endophyte, RunState
from vdc.model.errors import ConflictError, InvalidError, NotFoundError
from vdc.model.identity import Role
from vdc.store import keys

LOG_TAIL_BYTES = 256 * 1024
MOST_LINES = 100_000
MIRROR_LAG_S = 2.0


class EndophyteHandlers:
    """One method per route, named like it."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._mirror = context.host.mirror

    async def list_endophytes(self, request: web.Request) -> wire.EndophyteList:
        """See the route table."""
        items = sorted(self._mirror.endophytes.items())
        return wire.EndophyteList(
            items=tuple(views.endophyte_view(self._mirror, found.value) for _, found in items)
        )

    async def get_endophyte(self, request: web.Request) -> wire.EndophyteView:
        """See the route table."""
        endophyte = await views.find_endophyte(self._mirror, _name(request))
        return views.endophyte_view(self._mirror, endophyte)

    async def describe_endophyte(self, request: web.Request) -> wire.EndophyteDescription:
        """See the route table."""
        endophyte = await views.find_endophyte(self._mirror, _name(request))
        return await views.describe(self._context.host, endophyte)

    async def create_endophyte(self, request: web.Request) -> wire.EndophyteView:
        """See the route table."""
        manifest = parse_manifest(await parse_body(request))
        return await self._shown(await self._context.desired.create(manifest))

    async def apply_endophyte(self, request: web.Request) -> wire.ApplyResult:
        """See the route table."""
        manifest = parse_manifest(await parse_body(request))
        if manifest.metadata.name != _name(request):
            raise InvalidError("the name in the path and in the manifest differ", code="name-mismatch")
        is_dry = request.query.get("dry_run", "") in ("1", "true")
        action, endophyte = await self._context.desired.apply(manifest, dry_run=is_dry)
        view = views.endophyte_view(self._mirror, endophyte) if is_dry else await self._shown(endophyte)
        return wire.ApplyResult(action=action, dry_run=is_dry, endophyte=view)

    async def delete_endophyte(self, request: web.Request) -> wire.Acknowledged:
        """See the route table."""
        name = _name(request)
        try:
            endophyte = await self._context.desired.delete(name)
        except NotFoundError:
            context = self._context.host
            if not (hosts := await bury(context.store, context.mirror, name, context.clock)):
                raise
            return wire.Acknowledged(sentence=f"what {', '.join(hosts)} kept of {name} is being deleted")
        return wire.Acknowledged(sentence=f"{endophyte.name} is being deleted")

    async def run_endophyte(self, request: web.Request) -> wire.EndophyteView:
        """See the route table."""
        body = wire.RunRequest.model_validate(await parse_body(request))
        name = _name(request)

        def change(endophyte: Endophyte) -> Endophyte:
            if body.state is RunState.PAUSED and endophyte.run is RunState.STOPPED:
                raise ConflictError(f"{name} is stopped", code="stopped", hint=f"vdc start {name}")
            return endophyte.with_(run=body.state, force_off=body.force and body.state is RunState.STOPPED)

        return await self._shown(await self._context.desired.change(name, change))

    async def restart_endophyte(self, request: web.Request) -> wire.EndophyteView:
        """See the route table."""
        body = wire.RestartRequest.model_validate(await parse_body(request))
        return await self._shown(await self._context.desired.restart(_name(request), force=body.force))

    async def protect_endophyte(self, request: web.Request) -> wire.EndophyteView:
        """See the route table."""
        body = wire.ProtectionRequest.model_validate(await parse_body(request))
        return await self._shown(
            await self._context.desired.set_protection(_name(request), enabled=body.enabled)
        )

    async def watch_endophytes(self, request: web.Request) -> web.StreamResponse:
        """See the route table."""
        return await stream_lines(request, self._changes(request.query.get("name")))

    async def _changes(self, only: str | None) -> AsyncIterator[Record]:
        changed = asyncio.Event()
        due: dict[
            str, None
        ] = {}  # names, each once: whoever reads slowly misses states in between, nothing else
        shown: dict[str, wire.EndophyteView] = {}

        def note(key: str) -> None:
            due.update(dict.fromkeys(self._named_by(key)))
            changed.set()

        unsubscribe = self._mirror.subscribe(note)
        try:
            note("")
            while True:
                await changed.wait()
                changed.clear()
                while due:
                    name = next(iter(due))
                    del due[name]
                    endophyte = self._mirror.endophyte(name)
                    if endophyte is None or (only and name != only):
                        continue
                    view = views.endophyte_view(self._mirror, endophyte)
                    if shown.get(name) != view:
                        shown[name] = view
                        yield view
        finally:
            unsubscribe()

    def _named_by(self, key: str) -> list[str]:
        for prefix in (keys.ENDOPHYTES, keys.PAIRS, keys.OBSERVED):
            if key.startswith(prefix):
                return [key.removeprefix(prefix).partition("/")[0]]
        is_about_all = not key or key.startswith((keys.LIVENESS, keys.HOSTS))
        return sorted(self._mirror.endophytes) if is_about_all else []

    # ---- promotion

    async def promote_endophyte(self, request: web.Request) -> wire.PromoteResult:
        """See the route table."""
        body = wire.PromoteRequest.model_validate(await parse_body(request))
        if body.force:
            require_role(request, BY_NAME["promote_endophyte"].forced_role or Role.ADMIN)
        return await promote(self._context, _name(request), body, person_of(request))

    async def peer_quiesce(self, request: web.Request) -> wire.Acknowledged:
        """See the route table."""
        body = wire.PeerRequest.model_validate(await parse_body(request))
        await peers.check_peer(self._context.host, request, body, peers.secondary)
        await self._context.supervisors.find(_name(request)).quiesce(body.epoch)
        return wire.Acknowledged(sentence="silent")

    async def peer_credentials(self, request: web.Request) -> wire.Credentials:
        """See the route table."""
        body = wire.CredentialsRequest.model_validate(await parse_body(request))
        await peers.check_peer(self._context.host, request, body, peers.secondary)
        supervisor = self._context.supervisors.find(_name(request))
        return await supervisor.sign_credentials(body)

    async def peer_follow(self, request: web.Request) -> wire.Acknowledged:
        """See the route table."""
        body = wire.PeerRequest.model_validate(await parse_body(request))
        await peers.check_peer(self._context.host, request, body, peers.takes_over(body.epoch))
        await self._context.supervisors.follow(_name(request), body.epoch)
        return wire.Acknowledged(sentence="following")

    # ---- the guest's logs

    async def endophyte_log(self, request: web.Request) -> wire.LogText:
        """See the route table. Read on the primary's host; others hand the request on."""
        name = _name(request)
        offset = number(request.query["offset"], 0, 2**63) if "offset" in request.query else None
        lines = number(request.query.get("lines", "200"), 0, MOST_LINES)
        wants_console = request.query.get("console", "") in ("1", "true")
        host = await self._primary_host(name)
        if host != self._context.host.name:
            peer = self._context.peer(host, person_of(request))
            return await peer.endophyte_log(
                name, lines=None if offset is not None else lines, offset=offset, console=wants_console
            )
        endophyte = self._mirror.endophyte(name)
        is_output = endophyte is not None and is_container(endophyte) and not wants_console
        folder = self._context.host.vms_dir / name
        log = OUTPUT_LOG if is_output else SERIAL_LOG
        text, end = await asyncio.to_thread(_read_log, folder, log, lines, offset)
        return wire.LogText(
            name=name, host=host, text=text, end_offset=end, form="cri" if is_output else "text"
        )

    async def peer_output(self, request: web.Request) -> wire.LogText:
        """See the route table."""
        body = wire.OutputRequest.model_validate(await parse_body(request))
        await peers.check_peer(self._context.host, request, body, peers.secondary)
        folder = self._context.supervisors.find(_name(request)).copy.folder
        text, end = await asyncio.to_thread(_read_log, folder, OUTPUT_LOG, MOST_LINES, body.offset)
        host = self._context.host.name
        return wire.LogText(name=_name(request), host=host, text=text, end_offset=end, form="cri")

    async def _primary_host(self, name: str) -> str:
        await views.find_endophyte(self._mirror, name)
        pair = self._mirror.pair(name)
        if pair is None:
            raise ConflictError(f"{name} has not been placed yet", code="not-placed")
        return pair.primary

    async def _shown(self, endophyte: Endophyte) -> wire.EndophyteView:
        """The view once the mirror shows the change, so that whoever asked sees what it did."""
        changed = asyncio.Event()
        unsubscribe = self._mirror.subscribe(lambda key: changed.set())
        try:
            async with asyncio.timeout(MIRROR_LAG_S):
                while (present := self._mirror.endophyte(endophyte.name)) is None or present != endophyte:
                    if (
                        present is not None
                        and present.uid == endophyte.uid
                        and present.generation > endophyte.generation
                    ):
                        break
                    changed.clear()
                    await changed.wait()
        except TimeoutError:  # the watch hangs with its etcd member; the store itself answers
            await self._mirror.refresh(keys.endophyte(endophyte.name))
        finally:
            unsubscribe()
        return views.endophyte_view(self._mirror, endophyte)


def _name(request: web.Request) -> str:
    return request.match_info["name"]


def _read_log(folder: Path, log: str, lines: int, offset: int | None) -> tuple[str, int]:
    """From the byte `offset` on, or the last `lines`; with the offset of the end. A shorter log begins anew."""
    try:
        with open_foreign(folder / GUEST_DIR / log) as file:
            size = file.seek(0, os.SEEK_END)
            begin = max(0, size - LOG_TAIL_BYTES) if offset is None else offset if offset <= size else 0
            file.seek(begin)
            data = file.read(LOG_TAIL_BYTES)
    except OSError:  # none yet, or what the guest's QEMU put there is no file
        return "", 0
    if offset is None and len(data) < LOG_TAIL_BYTES:
        data = earlier_log(log, folder, LOG_TAIL_BYTES - len(data)) + data
        begin = size - len(data)
    text = data.decode(errors="replace")
    if offset is None:
        text = "".join(text.splitlines(keepends=True)[-lines:]) if lines else ""
    return text, begin + len(data)
