"""Bringing a lab up in order: from nothing, out of what a crash left, or back from faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from vdc.lab import context, faults, lifecycle, survey
from vdc.lab.agents import start_agent, wait_for_agents, wait_for_cluster
from vdc.lab.files import read_record
from vdc.lab.images import place_images, register_images
from vdc.lab.kernel import in_thread
from vdc.lab.models import HostState, LabRecord, LabState, LabStatus
from vdc.lab.plan import DEFAULT_HOSTS, HostPlan, LabPlan, make_plan
from vdc.lab.settings import Settings, memory_per_host
from vdc.model.errors import ConflictError

Progress = Callable[[str], None]


async def bring_up(
    name: str,
    hosts: int | None,
    memory: int | None,
    settings: Settings,
    progress: Progress,
    *,
    wait: bool,
    keep: bool,
    witness: bool = False,
) -> None:
    """Repair the lab that is there, or make one; the caller holds the lab's lock."""
    await in_thread(lambda: survey.check_not_foreign(name, settings))
    present = await in_thread(lambda: survey.lab_status(name, settings))
    record = read_record(survey.widest_plan(name, settings).record_file)
    if record is not None and record.is_complete and present.hosts:
        await _repair(record, hosts, present, settings, progress, wait=wait, witness=witness)
        return
    if present.state is not LabState.DOWN:  # without its wires a lab cannot be repaired from within
        progress("removing what is left of a broken lab")
    await in_thread(lambda: lifecycle.tear_down(name, settings))
    plan = make_plan(name, hosts or DEFAULT_HOSTS, settings.state_root, witness=witness)
    try:
        await _build(plan, memory, settings, progress, wait=wait)
    except BaseException:
        if not keep:
            progress("that failed; removing what was made")
            await asyncio.shield(in_thread(lambda: lifecycle.tear_down(name, settings)))
        raise


async def heal_hosts(
    plan: LabPlan, hosts: Sequence[HostPlan], settings: Settings, progress: Progress
) -> None:
    """Undo every fault of these hosts, and wait until the agents that had to be started answer."""
    started = []
    for host in hosts:
        done = await in_thread(lambda host=host: faults.heal(plan, host, settings))  # type: ignore[misc]
        for sentence in done.sentences or (f"{host.name} is well",):
            progress(sentence)
        if done.is_agent_started:
            started.append(host)
    await wait_for_agents(started, settings)


async def _build(
    plan: LabPlan, memory: int | None, settings: Settings, progress: Progress, *, wait: bool
) -> None:
    count, witness = len(plan.guest_hosts), len(plan.hosts) > len(plan.guest_hosts)
    fresh = LabRecord(
        name=plan.name, hosts=count, witness=witness, memory_bytes=memory or memory_per_host(count)
    )
    third = ", a witness" if witness else ""
    progress(f"making {count} {'host' if count == 1 else 'hosts'}{third}, two networks and a client")
    record = await in_thread(lambda: lifecycle.lay_out(plan, context.with_context_file(fresh), settings))
    images = await place_images(plan, settings, progress)
    progress("starting the agents")
    for host in plan.hosts:
        await in_thread(lambda host=host: start_agent(host, settings))  # type: ignore[misc]
    if wait:
        await wait_for_agents(plan.hosts, settings)
        progress("waiting for a leader")
        await wait_for_cluster(plan.hosts, settings)
        await register_images(plan, images, progress)
    context.write_context(plan, record)
    lifecycle.save_record(plan, record.with_(is_complete=True))
    progress(f"lab {plan.name} is up; the context is {plan.context}")


async def _repair(
    record: LabRecord,
    hosts: int | None,
    present: LabStatus,
    settings: Settings,
    progress: Progress,
    *,
    wait: bool,
    witness: bool,
) -> None:
    name = record.name
    if (hosts is not None and hosts != record.hosts) or (witness and not record.witness):
        raise ConflictError(
            f"lab {name} is up with {record.hosts} hosts{' and a witness' if record.witness else ''}",
            hint="run first: vdc lab down",
            code="lab-hosts-differ",
        )
    plan = make_plan(name, record.hosts, settings.state_root, witness=record.witness)
    is_healthy = present.state is LabState.UP and all(host.state is HostState.UP for host in present.hosts)
    if not is_healthy:
        progress(f"repairing lab {name}")
        await heal_hosts(plan, plan.hosts, settings, progress)
    if wait:
        await wait_for_cluster(plan.hosts, settings)
    context.write_context(plan, record)
    progress(f"lab {name} is up already" if is_healthy else f"lab {name} is up again")
