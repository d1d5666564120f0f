"""How an agent speaks to others: by name, with its own certificate, to whoever shows the one of that name."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gate_support import ADDRESS, Agent, build
from pki_support import authority_now, make_member
from pydantic import ValidationError

from hostagent.config import EtcdConfig
from hostagent.drivers.peers import PeerSessions
from hostagent.drivers.trust import Trust, etcd_context
from hostagent.server.context import ServerContext
from vdc.api.client import ApiClient
from vdc.model.errors import InvalidError, RefusedError, UnauthenticatedError, UnavailableError
from vdc.model.identity import Identity, Role
from vdc.security.cluster import issue_user


@pytest.fixture
async def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agent]:
    with socket.create_server((ADDRESS, 0)) as free:
        port = free.getsockname()[1]
    made = Agent(tmp_path / "h1", port)
    async with made.serving(build(made, monkeypatch)):
        yield made


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[PeerSessions]:
    """h2's. Whatever name, the configuration has the address of h1."""
    members = dict.fromkeys(("h1", "h3"), ADDRESS)
    config: Any = SimpleNamespace(
        management=SimpleNamespace(address=ADDRESS),
        etcd=SimpleNamespace(embedded=SimpleNamespace(members=members)),
    )
    made = PeerSessions(make_member(tmp_path / "h2", "h2"), config)
    yield made
    await made.close()


async def test_a_peer_is_whoever_shows_the_certificate_of_its_name(
    agent: Agent, sessions: PeerSessions
) -> None:
    api = ApiClient([f"https://h1:{agent.port}"], session=sessions())
    for _ in range(2):
        assert await api.transport.request(_health())
    assert sum(map(len, sessions().connector._conns.values())) == 1  # type: ignore[union-attr]
    with pytest.raises(UnauthenticatedError) as caught:
        await ApiClient([f"https://h3:{agent.port}"], session=sessions()).health()
    assert caught.value.code == "wrong-host"
    with pytest.raises(UnavailableError):
        await ApiClient([f"https://h9:{agent.port}"], session=sessions()).health()


async def test_the_records_go_before_the_configuration(agent: Agent, sessions: PeerSessions) -> None:
    found = SimpleNamespace(value=SimpleNamespace(management_address="127.0.0.9"))
    sessions.mirror = SimpleNamespace(hosts={"h1": found})  # type: ignore[assignment]
    with pytest.raises(UnavailableError):
        await ApiClient([f"https://h1:{agent.port}"], session=sessions()).health()


async def test_a_new_certificate_is_shown_on_new_connections_alone(
    agent: Agent, sessions: PeerSessions
) -> None:
    before = sessions()
    api = ApiClient([f"https://h1:{agent.port}"], session=before)
    assert await api.transport.request(_health())
    sessions._trust._keyring.reload()
    assert sessions() is not before and not before.closed
    assert await api.transport.request(_health())


def _health() -> Any:
    from vdc.api.call import make_call

    return make_call("health")


@pytest.mark.parametrize(("host", "witness"), [("h2", False), ("h1", True)])
def test_a_certificate_of_another_host_does_not_start(tmp_path: Path, host: str, witness: bool) -> None:
    trust = make_member(tmp_path, "h1")
    config: Any = SimpleNamespace(host=host, witness=witness)
    with pytest.raises(RefusedError) as caught:
        trust.check(config)
    assert caught.value.code == "wrong-host"


@pytest.mark.parametrize(
    "config",
    [
        {"endpoints": ["http://10.0.0.1:2379"]},
        {"endpoints": ["https://10.0.0.1:2379"], "certificate": "/c"},
        {"embedded": {"members": {"h1": "10.0.0.1"}}, "ca": "/c"},
    ],
    ids=["in clear", "no key", "embedded with files"],
)
def test_an_etcd_without_tls_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EtcdConfig.model_validate(config)


def test_an_etcd_of_ones_own_is_shown_what_the_configuration_says(tmp_path: Path) -> None:
    trust: Trust = make_member(tmp_path, "h1")
    alice = issue_user(authority_now(), name="alice", role=Role.VIEWER, now=datetime.now(UTC))
    (tmp_path / "ca").write_text(alice.authority_pem)
    (tmp_path / "crt").write_text(alice.certificate_pem)
    (tmp_path / "key").write_text(alice.key_pem)
    files = {name: tmp_path / file for name, file in (("ca", "ca"), ("certificate", "crt"), ("key", "key"))}
    config = EtcdConfig.model_validate({"endpoints": ["https://10.0.0.1:2379"], **files})
    assert [one["serialNumber"] for one in etcd_context(config, trust).get_ca_certs()]
    (tmp_path / "key").write_text("no key")
    with pytest.raises(InvalidError, match="cannot be used"):
        etcd_context(config, trust)


def test_a_witness_hands_nothing_on() -> None:
    host = SimpleNamespace(value=SimpleNamespace(peer_url="https://h1:7400"))
    mirror = SimpleNamespace(hosts={"h1": host}, alive={"h1"})
    config = SimpleNamespace(witness=True)
    context: Any = SimpleNamespace(
        host=SimpleNamespace(name="w1", mirror=mirror, config=config), sessions=lambda: None
    )
    person = Identity(cluster="0123456789ab", role=Role.ADMIN, name="alice")
    with pytest.raises(UnavailableError) as caught:
        ServerContext.peer(context, "h1", person)
    assert caught.value.code == "is-witness"
    assert not ServerContext.peer(context, "h1").transport._headers
