"""How the etcd members are doing, and moving their leadership. Not part of the StateStore protocol."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from vdc.store.etcd_client import Gateway
from vdc.store.etcd_codec import Json
from vdc.store.etcd_errors import CallError, Meaning
from vdc.store.protocol import StoreUnavailableError


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member as it answered itself. Ids are hexadecimal, as etcdctl prints them."""

    endpoint: str
    is_healthy: bool  # answered, knows a leader, reports no alarm
    is_leader: bool = False
    member_id: str = ""
    leader_id: str = ""
    raft_term: int = 0
    raft_index: int = 0
    revision: int = 0
    db_size_bytes: int = 0
    version: str = ""
    rtt_ms: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class ClusterMember:
    """One entry of the membership. A member that was added and never started has no name."""

    member_id: str
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]


class EtcdAdmin:
    """Maintenance requests; each goes to one named member, or to all."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def voters(self, *, deadline_s: float = 1.0) -> tuple[MemberStatus, ...]:
        """How every member that counts for a majority is doing; those that were given up are left out.

        Where nobody tells the membership, every endpoint counts.
        """
        found = await self.status(deadline_s=deadline_s)
        try:
            members = await self.members(deadline_s=deadline_s)
        except StoreUnavailableError:
            return found
        known = {url: member for member in members for url in member.client_urls}
        absent = [m for m in members if not m.client_urls]  # added, and never started
        return (
            *(one for one in found if one.endpoint in known),
            *(MemberStatus(m.peer_urls[0] if m.peer_urls else "?", is_healthy=False, member_id=m.member_id,
                           error="it was added and has not started yet") for m in absent),
        )  # fmt: skip

    async def status(self, *, deadline_s: float = 1.0) -> tuple[MemberStatus, ...]:
        """Ask every member at once; one that does not answer is not healthy and says why."""
        endpoints = self._gateway.endpoints.all
        return tuple(
            await asyncio.gather(*(self.member_status(one, deadline_s=deadline_s) for one in endpoints))
        )

    async def member_status(self, endpoint: str, *, deadline_s: float = 1.0) -> MemberStatus:
        """Ask one member. Never raises for its failure."""
        started = time.monotonic()
        try:
            answer = await self._gateway.call(
                endpoint, "/v3/maintenance/status", {}, timeout_s=deadline_s, requires_leader=False
            )
        except CallError as error:
            return MemberStatus(endpoint, is_healthy=False, error=error.text)
        return parse_status(endpoint, answer, (time.monotonic() - started) * 1000)

    async def move_leader(self, target_member_id: str, *, deadline_s: float = 2.0) -> None:
        """Make another member the leader; raises StoreUnavailableError where that is not done."""
        leader = next((one for one in await self.status() if one.is_leader), None)
        if leader is None:
            raise StoreUnavailableError("etcd has no leader that could hand over", code="etcd-no-leader")
        if leader.member_id == target_member_id:
            return
        body = {"targetID": str(int(target_member_id, 16))}
        try:
            await self._gateway.call(
                leader.endpoint, "/v3/maintenance/transfer-leadership", body, timeout_s=deadline_s
            )
        except CallError as error:
            raise StoreUnavailableError(
                f"etcd did not hand over: {error}", code="etcd-move-leader"
            ) from error

    async def members(self, *, deadline_s: float = 2.0) -> tuple[ClusterMember, ...]:
        """The membership as the cluster has agreed on it; raises StoreUnavailableError."""
        answer = await self._anywhere("/v3/cluster/member/list", {}, deadline_s)
        return tuple(parse_member(one) for one in answer.get("members", ()))

    async def remove_member(self, member_id: str, *, deadline_s: float = 2.0) -> None:
        """Take a member out for good; raises StoreUnavailableError, also while the cluster is unsettled."""
        await self._anywhere("/v3/cluster/member/remove", {"ID": str(int(member_id, 16))}, deadline_s)

    async def add_member(self, peer_url: str, *, deadline_s: float = 2.0) -> None:
        """Announce a new member; raises StoreUnavailableError, also while the cluster is unsettled."""
        await self._anywhere("/v3/cluster/member/add", {"peerURLs": [peer_url]}, deadline_s)

    async def _anywhere(self, path: str, body: Json, deadline_s: float) -> Json:
        last = CallError("etcd", Meaning.NO_EFFECT, "no member to ask")
        for endpoint in self._gateway.endpoints.in_order():
            try:
                return await self._gateway.call(endpoint, path, body, timeout_s=deadline_s)
            except CallError as error:
                last = error
                if error.meaning is not Meaning.NO_EFFECT:
                    break
        raise StoreUnavailableError(f"etcd: {last}", code="etcd-members") from last


def parse_member(member: Json) -> ClusterMember:
    """Read one member of /v3/cluster/member/list."""
    return ClusterMember(
        member_id=f"{int(member.get('ID', 0)):x}",
        name=str(member.get("name", "")),
        peer_urls=tuple(member.get("peerURLs", ())),
        client_urls=tuple(member.get("clientURLs", ())),
    )


def parse_status(endpoint: str, answer: Json, rtt_ms: float) -> MemberStatus:
    """Read the answer of /v3/maintenance/status."""
    header = answer.get("header", {})
    member, leader = int(header.get("member_id", 0)), int(answer.get("leader", 0))
    errors = "; ".join(str(one) for one in answer.get("errors", ()))
    return MemberStatus(
        endpoint=endpoint,
        is_healthy=leader != 0 and not errors,
        is_leader=member == leader != 0,
        member_id=f"{member:x}",
        leader_id=f"{leader:x}" if leader else "",
        raft_term=int(answer.get("raftTerm", 0)),
        raft_index=int(answer.get("raftIndex", 0)),
        revision=int(header.get("revision", 0)),
        db_size_bytes=int(answer.get("dbSize", 0)),
        version=str(answer.get("version", "")),
        rtt_ms=rtt_ms,
        error=errors or ("" if leader else "no leader"),
    )
