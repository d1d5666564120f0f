"""`vdc cluster`: can the cluster decide, who votes, how much more may be lost; and who may take part in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcGroup, output_option
from vdc.cli.commands import identities
from vdc.cli.commands.founding import init
from vdc.cli.text import clean

if TYPE_CHECKING:
    from vdc.api.models import ClusterStatus


@click.group(
    cls=VdcGroup,
    example="vdc cluster init\nvdc cluster status\nvdc cluster token create\n"
    "vdc cluster user add alice --role operator -o alice.yaml",
)
def cluster() -> None:
    """The cluster as a whole: whether it can decide, and who may take part in it."""


for command in (
    init, identities.token, identities.user, identities.certificates, identities.revoke, identities.renew,
    identities.ca,
):  # fmt: skip
    cluster.add_command(command)


@cluster.command(example="vdc cluster status\nvdc cluster status -o json")
@output_option()
def status(output: str) -> None:
    """The etcd members, the majority, witnesses and the lineage; exit code 1 without a majority."""
    from vdc.cli.errors import ReportedError
    from vdc.cli.render import print_values, values_of
    from vdc.cli.session import call

    found = call(lambda api: api.cluster())
    if output in ("json", "yaml"):
        print_values(values_of(found), output)
    else:
        print("\n".join(status_text(found)))
    if not found.majority:
        raise ReportedError(1)


def status_text(found: ClusterStatus) -> list[str]:
    """The lines for people."""
    healthy = sum(bool(member["healthy"]) for member in found.members)
    majority = f"yes, {found.may_lose} more may be lost" if found.majority else "NO: nothing can be decided"
    lines = [
        f"Seen by:   {found.host} ({found.version})",
        f"Leader:    {found.leader or '-'}",
        f"Store:     {found.store}",
        f"Majority:  {majority}",
        f"Witnesses: {', '.join(found.witnesses) or '-'}",
    ]
    if found.lineage.number:
        left_out = f", left out: {', '.join(found.lineage.left_out)}" if found.lineage.left_out else ""
        since = f"since {found.lineage.at}, from {found.lineage.host}, by {clean(found.lineage.by) or '?'}"
        lines.append(f"Lineage:   {found.lineage.number} ({since}{left_out})")
    if found.forcing:
        lines.append(f"Forcing:   {clean(found.forcing)}")
    lines.append(f"Members:   {healthy} of {len(found.members)} answer")
    for member in found.members:
        word = (
            "leader"
            if member["leader"]
            else "ok"
            if member["healthy"]
            else f"lost: {clean(str(member.get('error') or '?'))}"
        )
        lines.append(f"  {member['endpoint']}  {word}")
    return lines + [f"note: {clean(note)}" for note in found.notes]
