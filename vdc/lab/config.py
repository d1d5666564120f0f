"""The configuration file of each host's agent. Pure text; the agent validates it when it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vdc.lab.plan import HostPlan, LabPlan, Underlay

_FIRST_UID, _UIDS = 1_900_000_000, 4096


def agent_config(plan: LabPlan, host: HostPlan, *, runtime: Path, cache_dir: Path, memory_bytes: int) -> str:
    """The YAML text for one host: an etcd member among all hosts, both underlays, the client as a VTEP."""
    document: dict[str, Any] = {
        "host": host.name,
        "state_dir": str(host.state_dir),
        "management": _leg(host, Underlay.MANAGEMENT),
        "replication": _leg(host, Underlay.REPLICATION),
        "overlay_address": str(host.overlay),
        "network": plan.network.model_dump(mode="json"),
        "etcd": {
            "embedded": {
                "members": {other.name: str(other.address(Underlay.MANAGEMENT)) for other in plan.hosts}
            }
        },
        "runtime": str(runtime),
        "cache_dir": str(cache_dir),  # one machine plays all hosts, so they share what was found out about it
        "memory": memory_bytes,
        # The hosts of a lab share one kernel, to which two guests with the same user are the same.
        "guest_uids": {"first": _FIRST_UID + host.index * _UIDS, "count": _UIDS},
        "labels": {"lab": plan.name},
    }
    if host.is_witness:
        document["witness"] = True
    return yaml.safe_dump(document, sort_keys=False)


def _leg(host: HostPlan, underlay: Underlay) -> dict[str, str]:
    return {"address": str(host.address(underlay)), "interface": underlay.interface}
