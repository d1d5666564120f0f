"""A context that knows the old authority alone follows to the new one, and to nobody else."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
from aiohttp import web

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
sys.path.insert(0, str(Path(__file__).parent))

from identity_world import World, admin, world
from test_joining import LOOPBACK, Heard, serving

from vdc.api import learning
from vdc.api.client import ApiClient
from vdc.api.endpoints import parse_endpoint
from vdc.api.identities import AuthorityBundle, RenewRequest
from vdc.model.errors import VdcError
from vdc.model.identity import Role
from vdc.security import cluster
from vdc.security.authorities import entry_of, first_record, sign
from vdc.security.certificates import parse_bundle
from vdc.security.credentials import UserCredentials
from vdc.security.keys import make_request, new_key
from vdc.store import keys
from vdc.store.protocol import Put

__all__ = ["world"]


@pytest.fixture
async def rotated(world: World) -> World:
    world.clock.now = datetime.now(UTC)
    await world.found("h1", "h2")
    await (await world.ask("h1", admin())).rotate_authority()
    await world.settle(5)
    return world


def of_old(world: World) -> UserCredentials:
    made = cluster.issue_user(world.authority, name="alice", role=Role.ADMIN, now=world.clock.now)
    return UserCredentials(world.authority.pem, made.certificate_pem, made.key_pem)


async def test_a_context_learns_the_new_authority_from_the_old_ones_signature(rotated: World) -> None:
    agent = rotated.agents["h1"]
    async with (
        serving(agent.app(admin()), agent.keyring.credentials) as endpoint,
        ApiClient([endpoint], credentials=of_old(rotated)) as api,
    ):
        assert [user.name for user in (await api.identities.list_users()).items] == ["admin"]
        learned = api.transport.credentials
    assert learned is not None
    assert len(parse_bundle(learned.authority_pem)) == 2
    assert learned.authority_pem == agent.keyring.credentials.bundle_pem


async def test_somebody_elses_authority_is_not_learned_whatever_it_says(
    rotated: World, tmp_path: Path
) -> None:
    evil = cluster.init(tmp_path, host="h1", addresses=[LOOPBACK], now=rotated.clock.now)
    own = first_record(evil.authority)
    true = rotated.agents["h1"].keyring.authorities()
    assert true is not None
    mixed = sign(true.with_(entries=(*true.entries, entry_of(evil.authority))), evil.authority)
    for record in (None, own, mixed, mixed.with_(signed_by=true.signed_by, signature=true.signature)):
        heard, bundle = Heard(), evil.authority.pem
        answer = AuthorityBundle(cluster=evil.cluster, bundle=bundle, record=record).to_json()

        async def authority(_: web.Request, text: str = answer) -> web.Response:
            return web.Response(text=text, content_type="application/json")

        app = web.Application(middlewares=[heard.note])
        app.router.add_get("/v1/authority", authority)
        async with (
            serving(app, evil.host) as endpoint,
            ApiClient([endpoint], credentials=of_old(rotated)) as api,
        ):
            with pytest.raises(VdcError) as caught:
                await api.identities.list_users()
        assert caught.value.code == "certificate-foreign"
        assert heard == ["GET /v1/authority"]


async def test_a_context_gives_the_old_authority_up_when_the_cluster_has(rotated: World) -> None:
    """Else a thief of the old one's key could pose as an agent to it for ten years."""
    agent = rotated.agents["h1"]
    new = agent.keyring.credentials.authority
    assert new is not None
    alice = cluster.issue_user(new, name="alice", role=Role.ADMIN, now=rotated.clock.now)
    both = UserCredentials(agent.keyring.credentials.bundle_pem, alice.certificate_pem, alice.key_pem)

    async def following() -> str:
        async with (
            serving(agent.app(admin()), agent.keyring.credentials) as endpoint,
            ApiClient([endpoint], credentials=both) as api,
        ):
            await api.identities.list_users()
            await api.transport.follow_rotation()
            assert api.transport.credentials is not None
            return api.transport.credentials.authority_pem

    assert await following() == both.authority_pem
    key = make_request(new_key())
    await (await rotated.ask("h1", admin("admin"))).renew(RenewRequest(request=key))
    await (await rotated.ask("h1", admin())).retire_authority()
    await rotated.settle()
    learned = await following()
    assert learned == agent.keyring.credentials.bundle_pem
    assert len(parse_bundle(learned)) == 1


async def test_an_authority_that_does_not_issue_any_more_has_no_say(rotated: World) -> None:
    old, agent = rotated.authority, rotated.agents["h1"]
    found = agent.keyring.authorities()
    assert found is not None
    stolen = sign(first_record(old).with_(number=found.number + 1), old)

    both = UserCredentials(agent.keyring.credentials.bundle_pem, "", "")
    with pytest.MonkeyPatch.context() as patch:
        answered = AuthorityBundle(cluster="", bundle=old.pem, record=stolen)
        patch.setattr(learning, "_ask", AsyncMock(return_value=answered))
        assert await learning.learn_authorities([parse_endpoint("https://127.0.0.1:1")], both) is None

    await rotated.store.commit([], [Put(keys.AUTHORITIES, stolen.to_json())])
    await rotated.settle()
    with pytest.raises(VdcError) as caught:
        await (await rotated.ask("h1", admin())).rotate_authority()
    assert caught.value.code == "authority-forged"
    for host in rotated.agents.values():
        assert len(host.keyring.credentials.authorities) == 2
