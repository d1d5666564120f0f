"""Who is who in a lab: its cluster's authority, every host's credentials, and an administrator's context.

The command line outside uses the hosts' unix sockets. Inside the lab's namespaces only the network leads to an agent:
`admin.yaml` in the lab's folder is for programs there, with VDC_CONFIG.
"""

from __future__ import annotations

from datetime import UTC, datetime

from vdc.api.context import Contexts, new_context, save_contexts
from vdc.lab.plan import HostPlan, LabPlan, Underlay
from vdc.model.identity import Role
from vdc.security.cluster import init, issue_host_folder
from vdc.security.folder import pki_folder

API_PORT = 7400  # the agents' default


def issue(plan: LabPlan) -> None:
    """Found the cluster and make every host a member; their state folders exist."""
    now = datetime.now(UTC)
    first, *others = plan.hosts
    founded = init(pki_folder(first.state_dir), host=first.name, addresses=_addresses(first), now=now)
    for host in others:
        issue_host_folder(
            founded.authority, pki_folder(host.state_dir), name=host.name, addresses=_addresses(host), now=now,
            role=Role.WITNESS if host.is_witness else Role.HOST,
        )  # fmt: skip
    context = new_context(
        [f"https://{host.address(Underlay.MANAGEMENT)}:{API_PORT}" for host in plan.hosts], founded.admin
    )
    save_contexts(Contexts(contexts={plan.context: context}, current=plan.context), plan.admin_file)


def _addresses(host: HostPlan) -> list[str]:
    return [str(host.address(underlay)) for underlay in Underlay]
