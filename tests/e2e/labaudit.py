"""The audit of a lab: records, hosts and kernel have to say the same, and nothing may be left over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from labkernel import Tap, taps_of, vm_of

from vdc.api.models import EndophyteDescription
from vdc.lab.audit import audit
from vdc.lab.processes import Process
from vdc.model.endophyte import CopyRole, CopyStage, Phase

if TYPE_CHECKING:
    from testlab import Lab

_OFF = (None, CopyStage.ABSENT, CopyStage.DEAD, CopyStage.FAILED)


def audit_of(lab: Lab) -> list[str]:
    """What is left over, or what the records, the hosts and the kernel say differently."""
    found = list(audit(lab.name, settings=lab.settings))
    taps: dict[str, list[Tap]] = {host: taps_of(lab.plan.host(host)) for host in lab.hosts_up()}
    qemus = {host: {vm_of(process): process for process in lab.qemus(host)} for host in lab.hosts}
    names = lab.vm_names()
    for name in names:
        description = lab.ask(lambda api, name=name: api.describe_endophyte(name))  # type: ignore[misc]
        found += _audit_vm(description, qemus, taps)
    uids = {lab.view(name).metadata.uid for name in names}
    for host in lab.hosts_up():
        found += [f"QEMU of {name} runs on {host} and is no VM's" for name in qemus[host].keys() - set(names)]
        found += [f"tap {tap.name} on {host} is no VM's" for tap in taps[host] if tap.uid not in uids]
        folder = lab.plan.host(host).state_dir / "vms"
        present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        found += [f"files of {name} are left on {host}" for name in sorted(present - set(names))]
    return found


def _audit_vm(
    description: EndophyteDescription,
    qemus: Mapping[str, Mapping[str, Process]],
    taps: Mapping[str, Sequence[Tap]],
) -> Iterator[str]:
    """One owner: the record, what each host says of its copy, the processes and the bridges agree."""
    view, pair = description.view, description.pair
    name, uid = view.metadata.name, view.metadata.uid
    if pair is None:
        if view.status.phase not in (Phase.PENDING, Phase.STOPPED):
            yield f"{name} is {view.status.phase} and nobody's"
        return
    for copy in description.copies:
        if copy.host not in taps:
            continue  # no power: it says nothing any more
        process = qemus[copy.host].get(name)
        pid = process.pid if process else None
        if copy.pid != pid:
            yield f"{copy.host} says that {name} is process {copy.pid}, and runs {pid}"
        if copy.role is not None and copy.stage not in _OFF:
            part = CopyRole.PRIMARY if copy.host == pair.primary else CopyRole.SECONDARY
            if copy.host not in pair.hosts or copy.role is not part or copy.epoch != pair.epoch:
                yield f"{copy.host}: {copy.role} of {name}, epoch {copy.epoch}; the record: {pair.to_json()}"
    for host in sorted({host for host, present in qemus.items() if name in present} - set(pair.hosts)):
        yield f"{name} runs on {host}, too; the record says {pair.hosts}"
    for host, found in taps.items():
        if host != pair.primary and any(tap.is_live for tap in found if tap.uid == uid):
            yield f"{name} is on the network at {host}; its primary is {pair.primary}"
