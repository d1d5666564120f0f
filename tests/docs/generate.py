"""Text of the documentation that follows from the code: the pair's table and diagrams, the agent's options, what
is not kept of Kubernetes' objects.

A page holds each part between `<!-- generated: NAME -->` and `<!-- end -->`. `tests/unit/test_docs.py` fails
where a page says something else than the code; `python -m tests.docs` brings it up to date.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from hostagent.config import AgentConfig, EmbeddedEtcd, EtcdConfig, GuestUids, HostAddress, Timings
from tests.docs.kubernetes import noted_table, refused_table
from vdc.api.routes import ROUTES
from vdc.model.explanations import EXPLANATIONS
from vdc.model.identity import Role
from vdc.model.network import Network
from vdc.model.step import Step
from vdc.protection.table import TABLE, State
from vdc.protection.timing import RULES

ROOT = Path(__file__).parents[2]
_SENTENCES = "docs/failover.md"
_OPTIONS = "docs/operations.md"
_STEPS = "docs/development.md"
_KUBERNETES = "docs/kubernetes-manifests.md"

# What each option of the agent's configuration means; its type and default are read from the model.
MEANINGS = {
    "host": "Name of this host, a DNS label, unique in the cluster",
    "state_dir": "Absolute folder, at most 29 characters, for disks, images, sockets and the etcd member",
    "management": "Address and interface of this host on the management network: API, etcd, overlay, heartbeats",
    "replication": "Address and interface of this host on the replication network: lockstep, heartbeats",
    "*.address": "IPv4 address; a host must have it before the agent starts",
    "*.interface": "Interface that carries it",
    "overlay_address": "This host's own address on the overlay, inside `network.cidr`, below the guests' range",
    "network": "The overlay; the first agent that reaches etcd stores it, so it must be the same everywhere",
    "network.name": "Part of the interface names `br-NAME` and `vx-NAME`",
    "network.cidr": "Addresses of hosts and guests",
    "network.vni": "VXLAN network identifier",
    "network.guest_first": "First address that guests are given",
    "network.guest_last": "Last address that guests are given",
    "network.domain": "Domain of the guests' names",
    "network.mtu": "MTU of the overlay; the management network needs 50 bytes more",
    "network.external_vteps": "VXLAN endpoints that are no hosts, such as a gateway",
    "witness": "Vote and lead, but run no guests; `replication` and `overlay_address` may then be left out",
    "etcd": "Either `embedded` or `endpoints`",
    "etcd.embedded": "Run a member on this host",
    "etcd.embedded.members": "Every host with a member and its management address, this host included",
    "etcd.embedded.heartbeat_ms": "etcd's heartbeat; at least the round trip between members",
    "etcd.embedded.election_ms": "etcd's election timeout; at least five heartbeats and ten round trips",
    "etcd.embedded.client_port": "The same on all members",
    "etcd.embedded.peer_port": "The same on all members",
    "etcd.endpoints": "URLs (https) of an etcd that exists already",
    "etcd.ca": "Whom to trust at `etcd.endpoints` (PEM file); without it the machine's authorities",
    "etcd.certificate": "What to show at `etcd.endpoints` (PEM file)",
    "etcd.key": "Its private key (PEM file)",
    "api_port": "TCP port of the API on the management address",
    "heartbeat_port": "UDP port of the heartbeats on both networks; the same on all hosts",
    "runtime": "Runtime root with QEMU, swtpm, etcd and dnsmasq; without it the host's own programs are used",
    "cache_dir": "Where findings about this machine are kept for one boot; without it below `state_dir`",
    "memory": "What guests may use in all, for example `48GiB`; without it what the host has less a reserve",
    "labels": "For `placement.nodeSelector` of manifests",
    "timings": "See [failover.md](failover.md); values that contradict each other are refused",
    "timings.heartbeat_ms": "One heartbeat to each peer on each network",
    "timings.suspect_ms": "Silence that makes a peer suspect, at least three heartbeats; widened by jitter",
    "timings.isolated_pause_ms": "With neither etcd nor the other copy, a primary in lockstep is paused after this",
    "timings.secondary_delay_ms": "The primary's head start when only replication is cut (plus `suspect_ms`)",
    "timings.liveness_ttl_s": "Lease of the key that says that this agent lives",
    "timings.leader_ttl_s": "Lease of the agent that leads",
    "timings.reprotect_backoff_s": "How long a host that failed as a secondary is left alone; doubles, at most 600 s",
    "accelerator": (
        "`auto` runs a probe guest on KVM once per boot; `tcg` does not try; "
        "`kvm` refuses to start where the probe guest does not run"
    ),
    "use_libvirt": "Ask libvirt for the CPU model that all hosts have",
    "log_level": "Of the log on standard error",
    "guest_uids": "Users of this host that VMs and helper programs run as; nobody else may have them",
    "guest_uids.first": "The first one",
    "guest_uids.count": "How many; the last 16 are for etcd, dnsmasq and the probe of QEMU",
    "image_mbit": "Mbit/s that images may take, sent and fetched together, while a VM of this host has, or gets, a "
    "second copy; 0: no limit",
    "resync_mbit": "Mbit/s that a copy of disk and memory to a secondary may take; 0: no limit",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One generated part of one page."""

    page: str
    name: str
    make: Callable[[], str]


def updated(page: str, text: str) -> str:
    """The page with all its parts as they should be; raises ValueError where one has no markers."""
    for part in PARTS:
        if part.page != page:
            continue
        begin = f"<!-- generated: {part.name} -->\n"
        pattern = re.compile(re.escape(begin) + r".*?(?=<!-- end -->)", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"{page} needs exactly one part named {part.name}")
        generated = (begin + part.make()).replace("\\", r"\\")
        text = pattern.sub(generated, text)
    return text


# ---- the pair


def rows_table() -> str:
    """Every row of the table, in its order."""
    lines = ["| state | when | action | then | sentence |", "|---|---|---|---|---|"]
    last: State | None = None
    for row in TABLE:
        state = f"`{row.state}`" if row.state is not last else ""
        then = f"`{row.to}`" if row.to is not row.state else ""
        lines.append(f"| {state} | `{row.event}` | `{row.action}` | {then} | {row.sentence} |")
        last = row.state
    return "\n".join([*lines, ""])


def diagram(members: Callable[[State], bool]) -> str:
    """The rows that lead from one of `members` to another state, as a Mermaid state diagram."""
    edges: defaultdict[tuple[State, State], list[str]] = defaultdict(list)
    for row in TABLE:
        if members(row.state) and row.to is not row.state:
            edges[row.state, row.to].append(row.event)
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    {source} --> {to}: {_listed(events)}" for (source, to), events in edges.items()]
    return "\n".join([*lines, "```", ""])


def _listed(events: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(events))


def primary_diagram() -> str:
    """The host that the record names primary."""
    return diagram(lambda state: state.startswith("p_"))


def secondary_diagram() -> str:
    """Every other host."""
    return diagram(lambda state: not state.startswith("p_"))


# ---- the steps


def steps_table() -> str:
    """Every named step, in the order of its operation."""
    lines = ["| step | when it is reached |", "|---|---|"]
    lines += [f"| `{step.value}` | {step.sentence} |" for step in Step]
    return "\n".join([*lines, ""])


# ---- the agent's configuration


def options_table() -> str:
    """Every option with its type, its default and its meaning."""
    lines = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for path, type_name, default in options():
        lines.append(f"| `{path}` | {type_name} | {default} | {meaning_of(path)} |")
    return "\n".join([*lines, ""])


def options() -> list[tuple[str, str, str]]:
    """(path, type, default) of each option, depth first."""
    return _options(AgentConfig, "")


def meaning_of(path: str) -> str:
    """Raises KeyError for an option that nobody has described."""
    return MEANINGS.get(path) or MEANINGS["*." + path.rpartition(".")[2]]


_NESTED: dict[str, type[BaseModel]] = {
    "management": HostAddress,
    "replication": HostAddress,
    "network": Network,
    "etcd": EtcdConfig,
    "etcd.embedded": EmbeddedEtcd,
    "guest_uids": GuestUids,
    "timings": Timings,
}
_TYPES = {
    "str": "text",
    "int": "number",
    "float": "number",
    "bool": "yes or no",
    "Path": "folder",
    "IPv4Address": "address",
    "IPv4Network": "network",
}


def _options(model: type[BaseModel], prefix: str) -> list[tuple[str, str, str]]:
    found = []
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        nested = _NESTED.get(path)
        if nested is None:
            found.append((path, _type_name(field.annotation), _default(field)))
        else:
            must = "required" if field.is_required() else ""
            found += [(path, "block", must), *_options(nested, f"{path}.")]
    return found


def _type_name(annotation: Any) -> str:
    if annotation == AgentConfig.model_fields["memory"].annotation:
        return "size"
    text = getattr(annotation, "__name__", "") if isinstance(annotation, type) else str(annotation)
    if "dict" in text:
        return "map"
    if "tuple" in text:
        return "list"
    return next((word for name, word in _TYPES.items() if re.search(rf"\b{name}\b", text)), "text")


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.default_factory() if field.default_factory else field.default
    if value is PydanticUndefined or value is None or value in ((), {}):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def roles_table() -> str:
    """Every route with the least role that may call it."""
    lines = ["| request | what | role | also |", "|---|---|---|---|"]
    for route in ROUTES:
        also = [f"forced: `{route.forced_role}`"] if route.forced_role else []
        if route.by_hosts:
            also.append("hosts" if route.by_hosts is Role.HOST else "hosts and witnesses")
        role = "" if route.role is Role.NOBODY else f"`{route.role}`"
        lines.append(f"| `{route.method} {route.path}` | {route.summary} | {role} | {', '.join(also)} |")
    return "\n".join([*lines, ""])


def rules_list() -> str:
    """Every rule about durations, with its reason."""
    lines = ["| rule | else |", "|---|---|"]
    return "\n".join([*lines, *(f"| {rule.says} | {rule.why} |" for rule in RULES), ""])


def events_table() -> str:
    """Every event code, what it means and what to do."""
    lines = ["| code | severity | what happened | what to do |", "|---|---|---|---|"]
    for code, told in EXPLANATIONS.items():
        lines.append(f"| `{code}` | {told.severity} | {told.meaning} | {told.advice} |")
    return "\n".join([*lines, ""])


PARTS = (
    Part(_SENTENCES, "timings", rules_list),
    Part(_SENTENCES, "primary", primary_diagram),
    Part(_SENTENCES, "secondary", secondary_diagram),
    Part(_SENTENCES, "table", rows_table),
    Part(_OPTIONS, "events", events_table),
    Part(_OPTIONS, "options", options_table),
    Part(_OPTIONS, "roles", roles_table),
    Part(_STEPS, "steps", steps_table),
    Part(_KUBERNETES, "refused", refused_table),
    Part(_KUBERNETES, "noted", noted_table),
)
