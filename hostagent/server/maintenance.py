"""Handlers of maintenance: drain and resume hosts, move VMs; and how the leader asks for a planned promotion."""

from __future__ import annotations

from aiohttp import web

from hostagent.server import views
from hostagent.server.context import ServerContext
from hostagent.server.http import parse_body
from hostagent.server.identity import name_of
from hostagent.server.promotion import promote
from vdc.api import models as wire
from vdc.control.drain import Promote
from vdc.model.event import Severity
from vdc.model.maintenance import DrainReport
from vdc.store import keys


def promoter(context: ServerContext) -> Promote:
    """What the controller calls for a planned promotion; the secondary's agent carries it out."""

    async def ask(name: str) -> None:
        await promote(context, name, wire.PromoteRequest())

    return ask


class MaintenanceHandlers:
    """One method per route, named like it."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._wishes = context.maintenance
        self._mirror = context.host.mirror

    async def drain_node(self, request: web.Request) -> DrainReport:
        """See the route table."""
        name = request.match_info["name"]
        body = wire.DrainRequest.model_validate(await parse_body(request))
        report = await self._wishes.drain(
            name,
            by=name_of(request),
            reason=body.reason,
            leave_stopped=body.leave_stopped,
            dry_run=body.dry_run,
        )
        if not body.dry_run:
            because = f": {body.reason}" if body.reason else ""
            await self._log(name, "draining", f"everything moves off {name}{because}")
        return await self._with_warnings(report)

    async def drain_report(self, request: web.Request) -> DrainReport:
        """See the route table."""
        name = request.match_info["name"]
        await self._mirror.refresh(keys.maintenance(name))
        await self._wishes.require_host(name)
        return await self._with_warnings(self._wishes.report(name))

    async def resume_node(self, request: web.Request) -> wire.Acknowledged:
        """See the route table."""
        name = request.match_info["name"]
        if await self._wishes.resume(name) is None:
            return wire.Acknowledged(sentence=f"{name} was not drained")
        await self._log(name, "resumed", f"{name} is used again")
        return wire.Acknowledged(sentence=f"{name} is used again")

    async def remove_node(self, request: web.Request) -> wire.Acknowledged:
        """See the route table."""
        name = request.match_info["name"]
        found = self._mirror.hosts.get(name)
        lost = await self._wishes.remove(name, force=request.query.get("force", "") in ("1", "true"))
        sentence = f"removed {name}"
        if lost:
            sentence += f"; lost with it, and to be deleted: {', '.join(lost)}"
        await self._log(name, "host-removed", sentence, Severity.WARNING if lost else Severity.NORMAL)
        members = await self._context.members()
        address = found.value.management_address if found else ""
        if any(f"//{address}:" in member.endpoint for member in members):
            sentence += f"; its member of etcd ({address}) remains: `etcdctl member remove`"
        return wire.Acknowledged(sentence=sentence)

    async def move_endophyte(self, request: web.Request) -> wire.EndophyteView:
        """See the route table."""
        name = request.match_info["name"]
        body = wire.MoveRequest.model_validate(await parse_body(request))
        await views.find_endophyte(self._mirror, name)
        await self._mirror.refresh(keys.pair(name))
        if body.to is None:
            endophyte = await self._wishes.give_up_move(name)
        else:
            endophyte = await self._wishes.move(name, body.to, by=name_of(request))
        await self._mirror.refresh(keys.endophyte(name))
        return views.endophyte_view(self._mirror, endophyte)

    # ---- helpers

    async def _log(self, host: str, code: str, sentence: str, severity: Severity = Severity.NORMAL) -> None:
        events = self._context.host.events
        await events.append(events.make(host, code, sentence, severity=severity, kind="node"))

    async def _with_warnings(self, report: DrainReport) -> DrainReport:
        """What the operator should know before this host is switched off."""
        host = self._mirror.hosts.get(report.host)
        members = await self._context.members()
        mine = [m for m in members if host and f"//{host.value.management_address}:" in m.endpoint]
        healthy_without = sum(member.is_healthy for member in members if member not in mine)
        if mine and healthy_without <= len(members) // 2:
            warning = (
                f"without {report.host} etcd has no majority ({healthy_without} of {len(members)} members left): "
                "switch it off only when the others are back"
            )
            return report.with_(warnings=(*report.warnings, warning))
        return report
