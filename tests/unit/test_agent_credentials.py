"""The upkeep of credentials: entered, renewed, authorities followed and rotated, revocations written out."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from cryptography import x509
from identity_world import Agent, World, admin, world
from pki_support import CLUSTER, NOW, authority

from hostagent.agent.credentials import open_keyring
from vdc.api import identities as wire
from vdc.model.credentials import Authorities, Revocation
from vdc.model.errors import VdcError
from vdc.model.identity import Role
from vdc.protection.rotation import Phase, begin, phase_of
from vdc.security import cluster
from vdc.security import folder as pki
from vdc.security.authorities import entry_of, sign
from vdc.security.keys import make_request, new_key
from vdc.store import keys
from vdc.store.protocol import Delete, Put

__all__ = ["world"]
DAY = timedelta(days=1)


def held(agent: Agent) -> set[str]:
    return {one.fingerprint for one in agent.keyring.credentials.held}


def own(agent: Agent):
    return agent.keyring.credentials.certificate


async def test_whatever_was_issued_offline_is_entered_and_can_be_revoked(world: World) -> None:
    await world.found("h1", "h2", "w1")
    await world.agents["h1"].mirror.read_all()
    known = {found.value.identity.uri for found in world.agents["h1"].mirror.certificates.values()}
    assert known == {f"vdc://{CLUSTER}/{who}" for who in ("host/h1", "host/h2", "witness/w1", "admin/admin")}
    assert list(world.agents["h1"].mirror.users) == ["admin"]
    assert not list((world.agents["h1"].folder / "issued").iterdir())


async def test_somebody_else_s_certificate_is_not_entered(world: World) -> None:
    await world.found("h1")
    agent = world.agents["h1"]
    eve = cluster.issue_user(authority(number=1), name="eve", role=Role.ADMIN, now=NOW)
    cluster.enter_later(agent.folder, eve.certificate_pem)
    await world.settle()
    assert "eve" not in agent.mirror.users


async def test_a_certificate_is_renewed_at_two_thirds_and_not_before(world: World) -> None:
    await world.found("h1", "w1")
    told: list[str] = []
    for agent in world.agents.values():
        agent.keyring.subscribe(lambda credentials: told.append(credentials.certificate.serial))
    before = {name: own(agent).serial for name, agent in world.agents.items()}
    world.pass_time(59 * DAY)
    await world.settle()
    assert {name: own(agent).serial for name, agent in world.agents.items()} == before
    assert set(told) <= set(before.values()), "at most the list of the revoked was signed anew"
    world.pass_time(2 * DAY)
    await world.settle()
    for name, agent in world.agents.items():  # the witness, which has no key, by the host
        assert own(agent).serial != before[name]
        assert own(agent).not_after == world.clock.now + 90 * DAY
        pki.load_credentials(agent.folder)
    assert {own(agent).serial for agent in world.agents.values()} <= set(told)
    assert len(await world.events("certificate-renewed")) == 2


async def test_a_renewal_that_fails_is_told_once_and_tried_again(world: World) -> None:
    await world.found("h1", "w1")
    await world.silence("h1")
    world.pass_time(61 * DAY)
    await world.settle()
    assert len(await world.events("renewal-failed")) == 1
    assert own(world.agents["w1"]).not_after == NOW + 90 * DAY
    agent = Agent(world, "h1", 1, Role.HOST)
    await agent.start()
    await world.settle()
    assert own(world.agents["w1"]).not_after == world.clock.now + 90 * DAY


async def test_new_addresses_need_a_new_certificate(world: World) -> None:
    await world.found("h1")
    agent = world.agents["h1"]
    agent.keeper._addresses = ("10.0.0.77",)
    await world.settle()
    assert own(agent).addresses == ("10.0.0.77", "127.0.0.1")


async def test_a_host_that_slept_past_its_expiry_renews_itself_at_its_start_and_a_witness_cannot(
    world: World,
) -> None:
    await world.found("h1", "w1")
    late = NOW + 100 * DAY
    assert open_keyring(world.agents["h1"].folder, late).credentials.certificate.not_after == late + 90 * DAY
    with pytest.raises(VdcError) as caught:
        open_keyring(world.agents["w1"].folder, late)
    assert caught.value.code == "certificate-expired"
    with pytest.raises(VdcError) as caught:
        open_keyring(world.agents["w1"].folder, NOW - DAY)
    assert caught.value.code == "certificate-early"


@pytest.mark.parametrize("days", [70, 100])
async def test_a_host_that_was_removed_while_it_was_off_stays_so(world: World, days: int) -> None:
    await world.found("h1", "h2")
    gone = world.agents["h2"]
    serial = own(gone).serial
    await world.silence("h2")
    removed = [Delete(keys.machine("h2")), Delete(keys.host("h2"))]
    await (await world.ask("h1", admin())).revoke(serial)
    await world.store.commit([], removed)
    world.pass_time(days * DAY)
    await world.settle()

    agent = Agent(world, "h2", 2, Role.HOST)
    await agent.start()
    assert (own(agent).serial == serial) == (days < 90), "else nobody would know it as revoked"
    await world.store.commit([], [Delete(keys.host("h2"))])
    for _ in range(2):
        await agent.mirror.read_all()
        await agent.keeper.step()
    assert await world.store.get(keys.machine("h2")) is None
    assert await world.store.get(keys.certificate(own(agent).serial)) is None or days < 90


async def test_a_host_that_knows_that_it_was_revoked_does_not_give_itself_another(world: World) -> None:
    await world.found("h1", "h2")
    agent = world.agents["h2"]
    await (await world.ask("h1", admin())).revoke(own(agent).serial)
    await world.settle()
    with pytest.raises(VdcError) as caught:
        open_keyring(agent.folder, NOW + 100 * DAY)
    assert caught.value.code == "certificate-expired"


async def test_a_host_without_the_cluster_s_key_gets_it_from_another_and_a_witness_does_not(
    world: World,
) -> None:
    await world.found("h1", "h2", "w1")
    (world.agents["h2"].folder / "ca.key").unlink()
    world.agents["h2"].keyring.reload()
    assert not held(world.agents["h2"])
    await world.settle()
    assert held(world.agents["h2"]) == held(world.agents["h1"])
    assert not held(world.agents["w1"])
    assert not (world.agents["w1"].folder / "ca.key").exists()
    assert await world.events("authority-handed-over") == ["h2 got the cluster's key"]


async def test_a_witness_that_asks_for_the_key_is_refused(world: World) -> None:
    await world.found("h1", "w1")
    for who in (own(world.agents["w1"]).identity, admin()):
        with pytest.raises(VdcError, match="needs the role host") as caught:
            await (await world.ask("h1", who)).peer_authority()
        assert caught.value.code == "role-missing"


async def test_a_removed_host_that_asks_for_the_key_is_refused(world: World) -> None:
    await world.found("h1", "h2")
    await world.store.commit([], [Delete(keys.machine("h2")), Delete(keys.host("h2"))])
    with pytest.raises(VdcError) as caught:
        await (await world.ask("h1", own(world.agents["h2"]).identity)).peer_authority()
    assert caught.value.code == "wrong-host"


async def test_revocations_are_written_out_signed_on_every_host(world: World) -> None:
    await world.found("h1", "w1")
    serial = own(world.agents["w1"]).serial
    await (await world.ask("h1", admin())).revoke(serial)
    await world.settle()
    for agent in world.agents.values():
        listed = x509.load_pem_x509_crl((agent.folder / "revoked.crl").read_bytes())
        assert [f"{entry.serial_number:032x}" for entry in listed] == [serial]
        assert listed.is_signature_valid(world.authority.certificate.public_key())


@pytest.mark.parametrize("poison", ["zz", "", "0" * 32, "f" * 64, "0A" * 16, "a/b"])
async def test_what_is_no_serial_number_keeps_nobody_from_being_revoked(world: World, poison: str) -> None:
    """A witness can write it; every agent of the cluster would end by it, and again after each start."""
    await world.found("h1", "h2", "w1")
    serial = own(world.agents["w1"]).serial
    said = Revocation(serial=serial, at=datetime(1900, 1, 1, tzinfo=UTC), until=NOW + DAY)
    await world.store.commit([], [Put(keys.revoked(poison), "{}"), Put(keys.revoked(serial), said.to_json())])
    await world.settle()
    written = {}
    for agent in world.agents.values():
        listed = x509.load_pem_x509_crl((agent.folder / "revoked.crl").read_bytes())
        assert [f"{entry.serial_number:032x}" for entry in listed] == [serial]
        written[agent.name] = (agent.folder / "revoked.crl").read_bytes()
    await world.settle()
    assert written == {a.name: (a.folder / "revoked.crl").read_bytes() for a in world.agents.values()}


async def test_records_that_make_no_sense_end_no_agent(world: World) -> None:
    await world.found("h1", "h2", "w1")
    own_record = await world.store.get(keys.certificate(own(world.agents["w1"]).serial))
    found = await world.store.get(keys.AUTHORITIES)
    assert own_record is not None and found is not None
    naive = json.loads(own_record.value) | {"not_after": "2026-03-01T12:00:00", "serial": "1" * 32}
    revoked = {"serial": "1" * 32, "at": "2026-03-01T12:00:00", "until": "2026-03-01T12:00:00"}
    empty = json.loads(found.value) | {"entries": [], "number": 9}
    await world.store.commit(
        [],
        [
            Put(keys.certificate("1" * 32), json.dumps(naive)),
            Put(keys.revoked("1" * 32), json.dumps(revoked)),
            Put(keys.AUTHORITIES, json.dumps(empty)),
            Put(keys.LEADER, "h1"),
        ],
    )
    world.pass_time(2 * DAY)
    await world.settle()


async def test_a_revoked_host_does_not_renew_itself(world: World) -> None:
    await world.found("h1", "h2")
    serial = own(world.agents["h2"]).serial
    await (await world.ask("h1", admin())).revoke(serial)
    world.pass_time(61 * DAY)
    await world.settle()
    assert own(world.agents["h2"]).serial == serial


# ---- rotation


async def test_the_authority_is_replaced_while_everything_goes_on(world: World) -> None:
    await world.found("h1", "h2", "w1")
    api = await world.ask("h1", admin())
    old = world.authority.fingerprint
    await api.rotate_authority()
    await world.settle(5)
    status = await api.authority_status()
    new = next(one.fingerprint for one in status.authorities if one.is_issuing)
    assert (status.phase, new != old, status.untrusting) == ("issuing", True, ())
    for agent in world.agents.values():
        found = pki.load_credentials(agent.folder)
        assert found.certificate.issuer == world.agents["h1"].keyring.credentials.authority.key_identifier
        assert held(agent) == (set() if agent.name == "w1" else {old, new})
    assert [str(holder) for holder in status.holders] == ["admin admin"]
    with pytest.raises(VdcError, match="admin admin") as caught:
        await api.retire_authority()
    assert caught.value.code == "authority-in-use"
    key = new_key()
    me = admin("admin")
    await (await world.ask("h2", me)).renew(wire.RenewRequest(request=make_request(key)))
    await (await world.ask("h2", admin())).retire_authority()
    await world.settle()
    for agent in world.agents.values():
        found = pki.load_credentials(agent.folder)
        assert len(found.authorities) == 1
        assert held(agent) == (set() if agent.name == "w1" else {new})
    assert len((world.agents["h1"].folder / "ca.key").read_text().split("BEGIN")) == 2
    with pytest.raises(VdcError) as caught:
        await api.retire_authority()
    assert caught.value.code == "no-rotation"


async def test_a_host_is_counted_on_when_its_etcd_knows_the_new_authority_too(world: World) -> None:
    """Members that do not would refuse the others' new certificates, and a majority might be lost by that."""
    await world.found("h1", "h2")
    member = Member()
    world.agents["h2"].keeper._member = cast(Any, member)
    api = await world.ask("h1", admin())
    await api.rotate_authority()
    await world.settle(5)
    status = await api.authority_status()
    assert (status.phase, status.untrusting) == ("introduced", ("h2",))
    member.knows = True
    await world.settle()
    assert (await api.authority_status()).phase == "issuing"


class Member:
    knows = False

    async def knows_authorities(self) -> bool:
        return self.knows


async def test_an_authority_is_in_use_while_a_host_is_known_by_it(world: World) -> None:
    """Its newest certificate was issued, and did not reach it: it would be a stranger, and taken for dead."""
    await world.found("h1", "h2")
    old = world.agents["h2"].keyring.credentials.certificate_pem
    api = await world.ask("h1", admin())
    await api.rotate_authority()
    await world.settle(5)
    await (await world.ask("h2", admin("admin"))).renew(wire.RenewRequest(request=make_request(new_key())))
    for certificate, refusal in ((old, "used by host h2"), ("garbage", "used by host h2"), (None, "")):
        shown = certificate or world.agents["h2"].keyring.credentials.certificate_pem
        record = world.agents["h2"].record.with_(certificate=shown)
        await world.store.commit([], [Put(keys.host("h2"), record.to_json())])
        await world.settle()
        if not refusal:
            await api.retire_authority()
            continue
        with pytest.raises(VdcError, match=refusal) as caught:
            await api.retire_authority()
        assert caught.value.code == "authority-in-use"


async def test_two_who_rotate_at_once_leave_an_authority_that_somebody_has_the_key_of(world: World) -> None:
    await world.found("h1", "h2")
    api = await world.ask("h1", admin())
    ended = await asyncio.gather(api.rotate_authority(), api.rotate_authority(), return_exceptions=True)
    assert sorted(type(each).__name__ for each in ended) == ["Acknowledged", "ConflictError"]
    await world.settle(5)
    assert (await api.authority_status()).phase == "issuing"


async def test_a_rotation_whose_key_died_with_its_host_is_begun_anew(world: World) -> None:
    await world.found("h1", "h2")
    await (await world.ask("h1", admin())).rotate_authority()
    await world.silence("h1")
    await world.settle(5)
    api = await world.ask("h2", admin())
    assert (await api.authority_status()).phase == "introduced"
    await world.store.commit([], [Delete(keys.machine("h1")), Delete(keys.host("h1"))])
    await world.settle(5)
    assert (await api.authority_status()).phase == "introduced", "nobody can sign by it"
    await api.rotate_authority()
    await world.settle(5)
    status = await api.authority_status()
    assert (status.phase, len(status.authorities)) == ("issuing", 2)
    assert held(world.agents["h2"]) == {one.fingerprint for one in status.authorities}
    with pytest.raises(VdcError) as caught:
        await api.rotate_authority()
    assert caught.value.code == "rotation-running"


async def test_a_host_that_does_not_answer_holds_a_rotation_up_and_is_named(world: World) -> None:
    await world.found("h1", "h2")
    await world.silence("h2")
    api = await world.ask("h1", admin())
    await api.rotate_authority()
    await world.settle(5)
    status = await api.authority_status()
    assert (status.phase, status.untrusting) == ("introduced", ("h2",))
    assert own(world.agents["h1"]).issuer == world.authority.key_identifier
    with pytest.raises(VdcError) as caught:
        await api.retire_authority()
    assert caught.value.code == "authority-not-trusted"
    with pytest.raises(VdcError) as caught:
        await api.rotate_authority()
    assert caught.value.code == "rotation-running"
    await world.store.commit([], [Delete(keys.host("h2"))])  # vdc node remove h2
    await world.settle(5)
    assert (await api.authority_status()).phase == "issuing"


async def test_whoever_can_write_to_the_store_introduces_no_authority(world: World) -> None:
    await world.found("h1", "w1")
    own_record = world.agents["h1"].mirror.authorities
    assert own_record is not None
    evil = authority(number=2)
    wanted = begin(own_record.value, entry_of(evil))
    before = (world.agents["h1"].folder / "ca.crt").read_text()
    for forged in (
        wanted,
        sign(wanted, evil),
        wanted.with_(signed_by=world.authority.fingerprint, signature="00"),
    ):
        await world.store.commit([], [Put(keys.AUTHORITIES, forged.to_json())])
        await world.settle()
        assert (world.agents["h1"].folder / "ca.crt").read_text() == before
        with pytest.raises(VdcError) as caught:
            await (await world.ask("h1", admin())).authority_status()
        assert caught.value.code == "authority-forged"


async def test_an_older_record_is_not_taken_back(world: World) -> None:
    await world.found("h1", "h2", "w1")
    older = await world.store.get(keys.AUTHORITIES)
    assert older is not None
    await world.silence("h2")  # so that the rotation stays where the old authority issues
    await (await world.ask("h1", admin())).rotate_authority()
    await world.settle(5)
    after = {name: (agent.folder / "ca.crt").read_text() for name, agent in world.agents.items()}
    agents = dict(world.agents)
    for name in ("w1", "h1"):
        await world.store.commit([], [Put(keys.AUTHORITIES, older.value)])
        world.agents = {name: agents[name]}
        await world.settle()
        assert (agents[name].folder / "ca.crt").read_text() == after[name]
    item = await world.store.get(keys.AUTHORITIES)
    assert item is not None
    found = Authorities.from_json(item.value)
    assert (found.number, phase_of(found)) == (2, Phase.INTRODUCED), "the host puts back what it has seen"
