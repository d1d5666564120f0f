"""`vdc promote replica NAME --force`: say what is at stake, have the name typed, and ask the one host that can.

A lost majority leaves hosts that answer and cannot act; so each agent of the context is asked in turn, and the
first that is the right one does it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from contextlib import suppress

from vdc.api.client import ApiClient
from vdc.api.context import Context
from vdc.api.models import ClusterStatus, EndophyteDescription, PromoteResult
from vdc.cli.errors import UsageFault
from vdc.cli.text import clean
from vdc.model.errors import NotFoundError, Problem, UnavailableError, VdcError
from vdc.model.pair import Pair, SyncState

PROGRESS_EVERY_S = 1.0
_ELSEWHERE = ("agent-unreachable", "host-unreachable", "no-copy", "no-secondary")


async def forced(context: Context, name: str, to: str | None, confirm: str | None) -> PromoteResult:
    """Ask for the name unless `confirm` gives it, then force. Raises UsageFault where nobody can be asked."""
    description, cluster = await _look(context, name)
    print(explanation(description, cluster, to), file=sys.stderr)
    confirm_name(name, confirm)
    failure: VdcError = UnavailableError("no agent answers", code="agent-unreachable")
    for endpoint in context.endpoints:
        async with ApiClient.of(context, endpoint) as api:
            try:
                request = api.promote_endophyte(name, to=to, force=True, confirm=name)
                return await _told(api, request)
            except VdcError as error:
                is_better = failure.code in _ELSEWHERE or error.code not in _ELSEWHERE
                failure = error if is_better else failure
                if error.code not in _ELSEWHERE:
                    break
    raise failure


async def _told(api: ApiClient, request: Awaitable[PromoteResult]) -> PromoteResult:
    """Wait for the answer, and say meanwhile what the agent is doing."""
    telling = asyncio.create_task(_tell(api), name="progress")
    try:
        return await request
    except asyncio.CancelledError:
        print("What has begun goes on without you; the same command again joins it.", file=sys.stderr)
        raise
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _tell(api: ApiClient) -> None:
    said = ""
    while True:
        await asyncio.sleep(PROGRESS_EVERY_S)
        with suppress(VdcError):
            doing = (await api.cluster()).forcing
            if doing not in ("", said):
                said = doing
                print(f"  {clean(said)}", file=sys.stderr)


async def _look(context: Context, name: str) -> tuple[EndophyteDescription, ClusterStatus]:
    """What is known of the VM: from an agent whose host is not the silent one, where there is a choice."""
    failure: VdcError = UnavailableError("no agent answers", code="agent-unreachable")
    for endpoint in context.endpoints:
        async with ApiClient.of(context, endpoint) as api:
            try:
                return await api.describe_endophyte(name), await api.cluster()
            except NotFoundError:
                raise
            except VdcError as error:
                failure = error
    raise failure


def explanation(description: EndophyteDescription, cluster: ClusterStatus, to: str | None) -> str:
    """One screen: what may be lost, and what whoever goes on asserts."""
    pair, name = description.pair, description.view.metadata.name
    lines = [f"Forcing {name} to go on without asking the cluster."]
    if pair is None:
        return lines[0]
    target = to or pair.secondary or pair.primary
    other = pair.primary if target != pair.primary else pair.secondary
    copies = f"primary {pair.primary}, secondary {pair.secondary or 'none'}"
    lines += [f"  record:  {copies}, {pair.sync}, epoch {pair.epoch}"]
    lines += [f"  changed: {pair.changed_at}: {clean(pair.reason)}", "", "What may be lost:"]
    lines += [f"  - {text}" for text in _losses(pair, cluster, target)]
    lines += ["", "You assert, and nothing can check it for you:"]
    lines += [
        f"  - {other or 'every host that does not answer'} is OFF, and stays off until it is re-joined;"
    ]
    if not cluster.majority:
        lines += [
            "  - so is every other host whose etcd member does not answer;",
            f"  - the history goes on from {target}'s etcd member; the others re-join with empty data",
            "    (`hostagent rejoin` on each of them, when they are back).",
            f"Every other VM with a replica in sync on {target} is promoted there as well.",
        ]
    lines += ["If that is not so, two copies may answer clients until the hosts hear each other again."]
    return "\n".join(lines)


def _losses(pair: Pair, cluster: ClusterStatus, target: str) -> list[str]:
    found = []
    if target == pair.primary:
        found.append(f"nothing of the guest: its running copy on {target} goes on")
    elif pair.sync is SyncState.IN_SYNC:
        found.append(
            "nothing that the guest has acknowledged: the replica was in sync, and it goes on with its"
        )
        found.append(
            "memory and its connections, unless its own process has ended: then it starts from its disk"
        )
    else:
        found.append("a replica that is not in sync is no copy to go on from; this will be refused")
    if not cluster.majority:
        found.append("what other members decided and this one has not heard of, events above all")
    return found


def confirm_name(name: str, confirm: str | None) -> None:
    """Raise UsageFault unless the name was given, or is typed now."""
    if confirm is None:
        if not sys.stdin.isatty():
            raise UsageFault(
                Problem(
                    code="confirm-missing", message="--force asks for the VM's name, and there is no terminal",
                    hint=f"vdc promote replica {name} --force --confirm {name}",
                )
            )  # fmt: skip
        print("Type the name of the VM to go on: ", end="", file=sys.stderr, flush=True)
        confirm = sys.stdin.readline().strip()
    if confirm != name:
        raise UsageFault(
            Problem(code="confirm-wrong", message=f"{confirm[:60]!r} is not {name}: nothing was done")
        )
