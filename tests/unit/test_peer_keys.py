"""Whom an agent hears follows from certificates, and not from what the store says."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest
from heartbeat_support import make_beats
from pki_support import CLUSTER, NOW, authority, contradictory, identity
from protection_world import host

from hostagent.agent.doctor import _links
from hostagent.agent.peers import PeerKeys, follow_peers, when_peers_change
from hostagent.server.metrics import _Figures
from vdc.model.host import HostRole
from vdc.model.identity import Role
from vdc.security.authority import Authority
from vdc.security.certificates import read_certificate
from vdc.security.folder import HostCredentials
from vdc.security.keys import new_key
from vdc.store import keys as store_keys

KEYS = {name: new_key() for name in ("h1", "h2", "h3", "w1")}


def certificate(name, *, role=Role.HOST, by=None, cluster=CLUSTER, key=None, at=NOW):
    return (by or authority()).issue(
        identity(role, name, cluster), (key or KEYS[name]).public_key(), at, addresses=["10.0.0.1"]
    )


class Ring:
    """As vdc.security.keyring, without files."""

    def __init__(self, name="h1"):
        self._name, self._listeners = name, []
        self.change(authority().pem)

    def change(self, bundle):
        pem = certificate(self._name)
        self.credentials = HostCredentials(read_certificate(pem), pem, KEYS[self._name], bundle)
        for listener in self._listeners:
            listener(self.credentials)

    def subscribe(self, listener):
        self._listeners.append(listener)


def record(name, pem, **more):
    return host(name.replace("w", "h")).with_(name=name, certificate=pem, **more)


@pytest.fixture
def said():
    return []


@pytest.fixture
def ring():
    return Ring()


@pytest.fixture
def keys(said, ring):
    return PeerKeys(ring, said.append)


def test_two_hosts_find_the_same_key(keys, said):
    ours = keys.introduce("h2", record("h2", certificate("h2"), incarnation=77))
    theirs = PeerKeys(Ring("h2"), said.append).introduce("h1", record("h1", certificate("h1")))
    assert ours.key and ours.key == theirs.key
    assert ours.incarnation == 77
    assert ours.addresses == {"management": "10.70.0.2", "replication": "10.71.0.2"}
    assert said == []


def test_a_witness_is_a_peer_on_its_one_network(keys):
    pem = certificate("w1", role=Role.WITNESS)
    found = keys.introduce("w1", record("w1", pem, role=HostRole.WITNESS, replication_address=""))
    assert found.key and list(found.addresses) == ["management"]


def foreign():
    return certificate("h2", by=Authority.create(CLUSTER, NOW))


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        ("", "its host record has no certificate"),
        ("-----BEGIN nonsense", "this is not a certificate"),
        (contradictory(authority()), "the certificate's extensions make no sense"),
        (contradictory(authority(number=1)), "was not issued by this cluster's authority"),
        ("\udc80", "this is not a certificate"),
        (foreign(), "was not issued by this cluster's authority"),
        (authority().pem, "was not issued by this cluster's authority"),
        (certificate("h3"), f"is that of vdc://{CLUSTER}/host/h3, not of vdc://{CLUSTER}/host/h2"),
        (certificate("h2", role=Role.WITNESS), f"vdc://{CLUSTER}/witness/h2, not of"),
        (authority().issue(identity(Role.ADMIN, "h2"), KEYS["h2"].public_key(), NOW), "/admin/h2, not of"),
    ],
    ids=["none", "garbage", "extensions twice", "extensions twice, of another authority", "no text",
         "another authority", "the authority's own", "another host", "a witness", "a person"],
)  # fmt: skip
def test_a_record_without_its_own_certificate_gives_a_peer_that_is_never_heard(keys, said, pem, why):
    for _ in range(3):
        found = keys.introduce("h2", record("h2", pem))
        assert not found.key
        assert why in found.unheard_because
    assert len(said) == 1, "said once"
    assert said[0].startswith("h2 cannot be heard: ") and why in said[0]


def test_a_record_under_another_hosts_name_is_nobody(keys):
    assert not keys.introduce("h3", record("h2", certificate("h2"))).key


def test_a_certificate_that_has_expired_is_one_still(keys):
    """No decision depends on a clock that can be set."""
    assert keys.introduce("h2", record("h2", certificate("h2", at=NOW - timedelta(days=4000)))).key


def test_a_renewed_certificate_gives_the_same_key_and_another_key_another(keys):
    first = keys.introduce("h2", record("h2", certificate("h2"))).key
    renewed = certificate("h2", at=NOW + timedelta(days=60))
    assert keys.introduce("h2", record("h2", renewed)).key == first
    assert keys.introduce("h2", record("h2", certificate("h2", key=new_key()))).key != first


def test_it_is_looked_at_again_when_the_record_or_the_authorities_change(keys, ring, said):
    assert not keys.introduce("h2", record("h2", foreign())).key
    assert keys.introduce("h2", record("h2", certificate("h2"))).key
    assert not keys.introduce("h2", record("h2", foreign())).key
    assert len(said) == 2
    successor = Authority.create(CLUSTER, NOW)
    later = record("h2", certificate("h2", by=successor))
    assert not keys.introduce("h2", later).key
    ring.change(authority().pem + successor.pem)
    assert keys.introduce("h2", later).key
    ring.change(authority().pem)
    assert not keys.introduce("h2", later).key


def test_one_that_was_revoked_is_none_until_the_host_has_another(keys, said):
    pem = certificate("h2")
    serial = read_certificate(pem).serial
    assert keys.introduce("h2", record("h2", pem), {"0" * 32}).key
    for _ in range(3):
        found = keys.introduce("h2", record("h2", pem), {serial})
        assert (found.key, found.unheard_because) == (b"", "the certificate in its host record was revoked")
    assert said == ["h2 cannot be heard: the certificate in its host record was revoked"]
    assert keys.introduce("h2", record("h2", certificate("h2")), {serial}).key


def node(*records):
    hosts = {one.name: SimpleNamespace(value=one) for one in records}
    return SimpleNamespace(
        name="h1", heartbeats=make_beats(), mirror=SimpleNamespace(hosts=hosts, endophytes={}, revoked=()),
        store_silent_ms=lambda: 0,
    )  # fmt: skip


def test_the_peers_are_looked_at_when_a_record_a_revocation_or_an_own_key_changes(ring):
    listeners = []
    mirror = SimpleNamespace(subscribe=listeners.append)
    changed = when_peers_change(SimpleNamespace(mirror=mirror), ring)
    (tell,) = listeners
    for key, counts in (
        ("", True),
        (store_keys.host("h2"), True),
        (store_keys.revoked("0" * 32), True),
        (store_keys.liveness("h2"), False),
    ):
        tell(key)
        assert changed.is_set() is counts, key
        changed.clear()
    ring.change(authority().pem)
    assert changed.is_set()


def test_a_revoked_host_is_followed_no_more(keys):
    pem = certificate("h2")
    here = node(record("h2", pem))
    here.mirror.revoked = {read_certificate(pem).serial}
    follow_peers(here, keys)
    assert "revoked" in here.heartbeats.unheard_because("h2")


def test_the_doctor_names_who_cannot_be_heard_and_why(keys):
    here = node(*(record(name, certificate(name)) for name in ("h1", "h2")), record("h3", ""))
    follow_peers(here, keys)
    heard, unheard = _links(here)
    assert (heard.level, heard.sentence) == ("ok", "h2 is heard on both networks")
    assert unheard.level == "error"
    assert unheard.sentence == "h3 cannot be heard: its host record has no certificate"
    assert "publishes its certificate" in unheard.hint


def test_what_was_refused_is_counted_for_prometheus(keys):
    here = node(record("h1", certificate("h1")), record("h2", certificate("h2")))
    follow_peers(here, keys)
    for _ in range(3):
        here.heartbeats._hear("management", b"forged", "10.70.0.2")
    figures = {figure.name: figure for figure in _Figures(SimpleNamespace(host=here)).collect()}
    (sample,) = figures["vdc_heartbeats_refused"].samples
    assert (sample.name, sample.labels, sample.value) == (
        "vdc_heartbeats_refused_total", {"peer": "h2", "reason": "forged"}, 3
    )  # fmt: skip
