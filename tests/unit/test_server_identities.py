"""Joining, renewing, users, tokens and revocation over the API: what is handed out, and each refusal."""

from __future__ import annotations

from datetime import timedelta

import pytest
from identity_world import Agent, World, admin, world
from pki_support import CLUSTER, NOW, identity

from vdc.api import identities as wire
from vdc.model.errors import VdcError
from vdc.model.identity import Identity, Role
from vdc.security.certificates import check_certificate, read_certificate
from vdc.security.keys import make_request, new_key
from vdc.security.tokens import parse_token
from vdc.store import keys
from vdc.store.protocol import Delete, StoreUnavailableError

__all__ = ["world"]
DAY = timedelta(days=1)


@pytest.fixture
async def pair(world: World) -> World:
    await world.found("h1", "h2", "w1")
    return world


async def code_of(work) -> str:
    with pytest.raises(VdcError) as caught:
        await work
    return caught.value.code


async def token_of(world: World, role: Role = Role.HOST, **more) -> str:
    api = await world.ask("h1", admin())
    return (await api.create_token(wire.TokenRequest(role=role, **more))).token


def joining(token: str, name: str = "h3", role: Role = Role.HOST, key=None, addresses=("10.0.0.9",)):
    request = make_request(key or new_key())
    return wire.JoinRequest(token=token, name=name, role=role, request=request, addresses=addresses)


# ---- joining


async def test_a_token_makes_a_member_once(pair: World) -> None:
    token = await token_of(pair)
    assert parse_token(token).endpoint == "https://10.0.0.1:7400"
    assert parse_token(token).authority == pair.authority.fingerprint
    stranger = await pair.ask("h1", None)
    membership = await stranger.join(joining(token))
    found = check_certificate(membership.certificate, (pair.authority.certificate,), NOW)
    assert found.identity == identity(Role.HOST, "h3")
    assert found.addresses == ("10.0.0.9", "127.0.0.1")
    assert "BEGIN X509 CRL" in membership.revoked
    assert await code_of(stranger.join(joining(token, name="h4", addresses=()))) == "token-used"
    item = await pair.store.get(keys.certificate(found.serial))
    assert item is not None
    assert await pair.events("host-joined") == ["h3 joined as host, by a token of root"]


async def test_a_token_of_another_role_or_agent_or_time_is_refused(pair: World) -> None:
    stranger, elsewhere = await pair.ask("h1", None), await pair.ask("h2", None)
    token = await token_of(pair, Role.WITNESS, ttl_s=60)
    assert await code_of(stranger.join(joining(token))) == "role-mismatch"
    assert await code_of(elsewhere.join(joining(token, role=Role.WITNESS))) == "token-invalid"
    assert await code_of(stranger.join(joining("vdcjoin1.x"))) == "token-invalid"
    pair.pass_time(timedelta(seconds=60))
    assert await code_of(stranger.join(joining(token, role=Role.WITNESS))) == "token-expired"


@pytest.mark.parametrize("role", [Role.ADMIN, Role.OPERATOR, Role.VIEWER, Role.NOBODY])
async def test_no_token_makes_a_person(pair: World, role: Role) -> None:
    api = await pair.ask("h1", admin())
    assert await code_of(api.create_token(wire.TokenRequest(role=role))) == "role-invalid"
    token = await token_of(pair)
    assert await code_of((await pair.ask("h1", None)).join(joining(token, role=role))) == "role-mismatch"


async def test_a_name_that_is_known_is_taken_until_its_host_is_removed(pair: World) -> None:
    stranger = await pair.ask("h1", None)
    token = await token_of(pair)
    assert await code_of(stranger.join(joining(token, name="h2", addresses=()))) == "host-known"
    same_key = pair.agents["h2"].keyring.credentials.key
    again = await stranger.join(joining(token, name="h2", key=same_key, addresses=("10.0.0.2",)))
    assert read_certificate(again.certificate).identity.name == "h2"


async def test_a_refusal_does_not_use_the_token_up(pair: World) -> None:
    stranger = await pair.ask("h1", None)
    token = await token_of(pair)
    assert await code_of(stranger.join(joining(token, name="h1", addresses=()))) == "host-known"
    assert await code_of(stranger.join(joining(token, addresses=("10.0.0.2",)))) == "address-taken"
    assert await code_of(stranger.join(joining(token, addresses=("0.0.0.0",)))) == "address-invalid"
    assert await code_of(stranger.join(joining(token, addresses=("h2",)))) == "address-invalid"
    broken = joining(token).with_(request="x")
    assert await code_of(stranger.join(broken)) == "request-invalid"
    await stranger.join(joining(token))


async def test_of_two_hosts_that_want_one_name_one_gets_it(pair: World) -> None:
    first, second = await token_of(pair), await token_of(pair)
    stranger = await pair.ask("h1", None)
    await stranger.join(joining(first))
    assert await code_of(stranger.join(joining(second))) == "host-known"


async def test_a_witness_cannot_invite(pair: World) -> None:
    api = await pair.ask("w1", admin())
    assert await code_of(api.create_token(wire.TokenRequest())) == "is-witness"
    assert await code_of(api.add_user(user_request())) == "is-witness"
    assert (await pair.agents["w1"].issuer.identities.user("admin"))[0].role is Role.ADMIN


async def test_nobody_is_invited_without_a_majority(pair: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An admin who was revoked by the majority would else get a token of the minority, good for days."""

    async def lost(*_: object, **__: object) -> None:
        raise StoreUnavailableError("no majority")

    api = await pair.ask("h1", admin())
    await token_of(pair)
    handlers = pair.agents["h1"].handlers
    monkeypatch.setattr(handlers._identities._store, "get", lost)
    assert await code_of(api.create_token(wire.TokenRequest())) == "store-unavailable"
    (pair.agents["h1"].folder / "authorities.json").unlink()  # it has never been a member of anything
    await api.create_token(wire.TokenRequest())


async def test_the_bundle_is_public(pair: World) -> None:
    found = await (await pair.ask("w1", None)).authority()
    assert (found.cluster, found.bundle) == (CLUSTER, pair.authority.pem)


# ---- tokens


async def test_tokens_are_listed_and_revoked_wherever_they_were_made(pair: World) -> None:
    here, there = await pair.ask("h1", admin()), await pair.ask("h2", admin("alice"))
    made = await there.create_token(wire.TokenRequest(role=Role.WITNESS))
    listed = await here.list_tokens()
    assert [(one.id, one.host, one.created_by, one.role) for one in listed.items] == [
        (made.id, "h2", "alice", Role.WITNESS)
    ]
    assert made.token not in listed.to_json()
    assert await code_of(here.revoke_token("00" * 8)) == "token-not-found"
    await here.revoke_token(made.id)
    assert (await here.list_tokens()).items == ()
    stranger = await pair.ask("h2", None)
    assert await code_of(stranger.join(joining(made.token, role=Role.WITNESS))) == "token-invalid"


async def test_hosts_that_do_not_answer_are_named_in_the_list(pair: World) -> None:
    del pair.agents["h2"]
    assert (await (await pair.ask("h1", admin())).list_tokens()).silent == ("h2",)


# ---- users


def user_request(name: str = "alice", role: Role = Role.OPERATOR, key=None, **more) -> wire.UserRequest:
    return wire.UserRequest(name=name, role=role, request=make_request(key or new_key()), **more)


async def test_a_user_gets_a_certificate_and_the_addresses(pair: World) -> None:
    api = await pair.ask("h2", admin())
    made = await api.add_user(user_request())
    found = check_certificate(made.membership.certificate, (pair.authority.certificate,), NOW)
    assert (found.identity, found.not_after) == (identity(), NOW + 365 * DAY)
    assert made.endpoints == ("https://10.0.0.2:7400", "https://10.0.0.1:7400", "https://10.0.0.3:7400")
    assert await code_of(api.add_user(user_request(role=Role.VIEWER))) == "user-exists"
    users = {user.name: user for user in (await api.list_users()).items}
    assert (users["alice"].role, users["alice"].created_by) == (Role.OPERATOR, "root")
    assert [one.serial for one in users["alice"].certificates] == [found.serial]


@pytest.mark.parametrize("role", [Role.HOST, Role.WITNESS, Role.NOBODY])
async def test_a_user_is_no_machine(pair: World, role: Role) -> None:
    api = await pair.ask("h1", admin())
    assert await code_of(api.add_user(user_request(role=role))) == "role-invalid"


async def test_the_local_administrator_s_name_is_nobody_else_s(pair: World) -> None:
    api = await pair.ask("h1", admin())
    assert await code_of(api.add_user(user_request("root", Role.VIEWER))) == "name-reserved"


async def test_a_bad_request_leaves_no_user(pair: World) -> None:
    api = await pair.ask("h1", admin())
    assert await code_of(api.add_user(user_request().with_(request="x"))) == "request-invalid"
    assert await code_of(api.add_user(user_request().model_copy(update={"name": "Al ice"}))) == "body-invalid"
    await api.add_user(user_request())


async def test_removing_a_user_revokes_whatever_it_has(pair: World) -> None:
    api = await pair.ask("h1", admin())
    first = (await api.add_user(user_request())).membership.certificate
    second = (await (await pair.ask("h1", identity())).renew(renewal())).certificate
    await api.remove_user("alice")
    revoked = await pair.agents["h1"].issuer.identities.revoked()
    assert revoked == {read_certificate(pem).serial for pem in (first, second)}
    assert await code_of(api.remove_user("alice")) == "user-not-found"
    assert await code_of((await pair.ask("h1", identity())).renew(renewal())) == "user-not-found"
    await api.add_user(user_request(role=Role.VIEWER))


# ---- renewal


def renewal(key=None) -> wire.RenewRequest:
    return wire.RenewRequest(request=make_request(key or new_key()))


async def test_a_user_renews_itself_with_the_role_that_it_has(pair: World) -> None:
    api = await pair.ask("h1", admin())
    await api.add_user(user_request())
    pair.pass_time(300 * DAY)
    renewed = read_certificate((await (await pair.ask("h2", identity())).renew(renewal())).certificate)
    assert (renewed.identity, renewed.not_after) == (identity(), pair.clock.now + 365 * DAY)
    promoted = identity(Role.ADMIN)  # a certificate from before alice was removed and added with less
    assert await code_of((await pair.ask("h1", promoted)).renew(renewal())) == "role-changed"


async def test_what_was_given_for_a_limited_time_is_not_extended(pair: World) -> None:
    api = await pair.ask("h1", admin())
    made = await api.add_user(user_request(valid_for_s=3600))
    assert read_certificate(made.membership.certificate).not_after == NOW + timedelta(hours=1)
    assert await code_of((await pair.ask("h1", identity())).renew(renewal())) == "not-renewable"


async def test_a_host_renews_as_itself_with_its_own_key_alone(pair: World) -> None:
    me = identity(Role.HOST, "h2")
    api = await pair.ask("h1", me)
    assert await code_of(api.renew(renewal())) == "wrong-host"
    key = pair.agents["h2"].keyring.credentials.key
    taken = renewal(key).with_(addresses=("10.0.0.1",))
    assert await code_of(api.renew(taken)) == "address-taken"
    assert read_certificate((await api.renew(renewal(key))).certificate).identity == me


async def test_a_host_that_was_removed_renews_nothing(pair: World) -> None:
    agent: Agent = pair.agents["h2"]
    await pair.store.commit([], [Delete(keys.machine("h2"))])
    api = await pair.ask("h1", Identity(cluster=CLUSTER, role=Role.HOST, name="h2"))
    assert await code_of(api.renew(renewal(agent.keyring.credentials.key))) == "wrong-host"


# ---- revocation


async def test_a_certificate_is_revoked_by_the_digits_that_name_it(pair: World) -> None:
    api = await pair.ask("h1", admin())
    serial = read_certificate((await api.add_user(user_request())).membership.certificate).serial
    assert "of operator alice" in (await api.revoke(serial[:10])).sentence
    shown = {one.certificate.serial: one.is_revoked for one in (await api.list_certificates()).items}
    assert shown.pop(serial) is True
    assert set(shown.values()) == {False}
    assert await code_of(api.revoke("0123")) == "serial-invalid"
    assert await code_of(api.revoke("not-a-serial")) == "serial-invalid"
    assert await code_of(api.revoke("00000000")) == "certificate-not-found"
    assert await code_of(api.revoke("0" * 32)) == "serial-invalid"
    assert "nobody who is known" in (await api.revoke("0" * 31 + "1")).sentence
