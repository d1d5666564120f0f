"""A certificate that does not count, on either side, becomes one line that says whose and why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from gate_support import MONTH, Agent, serving_agent, shown
from pki_support import CLUSTER, authority_now

from vdc.api.client import ApiClient
from vdc.api.endpoints import parse_endpoint
from vdc.api.refusals import refusal_of
from vdc.model.errors import ForbiddenError, UnauthenticatedError, VdcError
from vdc.model.identity import Role
from vdc.security.authority import Authority
from vdc.security.credentials import UserCredentials

OTHER = Authority.create(CLUSTER, datetime.now(UTC))


@pytest.fixture
async def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agent]:
    async with serving_agent(tmp_path, monkeypatch) as made:
        yield made


def credentials(*pair: str, bundle: str = "") -> UserCredentials:
    return UserCredentials(bundle or authority_now().pem, *pair)


async def refused(endpoint: str, who: UserCredentials, *more: str) -> VdcError:
    with pytest.raises((UnauthenticatedError, ForbiddenError)) as caught:
        async with ApiClient([endpoint, *more], credentials=who) as api:
            await api.list_nodes()
    return caught.value


async def test_whose_certificate_does_not_count_is_said(agent: Agent) -> None:
    here = agent.url("")
    expired = credentials(*shown(Role.VIEWER, "old", issued_ago=MONTH + timedelta(days=1)))
    assert (await refused(here, expired)).code == "certificate-expired"

    stranger = shown(Role.ADMIN, "eve", authority=OTHER)
    found = await refused(here, credentials(*stranger))
    assert found.code == "certificate-foreign" and f"the agent at {here} does not accept" in str(found)

    found = await refused(here, credentials(*stranger, bundle=OTHER.pem))
    assert found.code == "certificate-foreign" and f"whoever answers at {here}" in str(found)

    agent.revoked.add(_serial(shown(Role.VIEWER, "gone")))
    assert (await refused(here, credentials(*shown(Role.VIEWER, "gone")))).code == "certificate-revoked"


@pytest.mark.parametrize(
    "cut", [aiohttp.ServerDisconnectedError(), aiohttp.ClientOSError(104, "reset")], ids=str
)
def test_a_connection_that_is_cut_without_a_word_is_explained_by_what_was_shown(cut: Exception) -> None:
    endpoint = parse_endpoint("https://10.0.0.1:7400")
    stranger = credentials(*shown(Role.ADMIN, "eve", authority=OTHER))
    found = refusal_of(endpoint, cut, stranger)
    assert found is not None and found.code == "certificate-foreign"
    assert refusal_of(endpoint, cut, credentials(*shown(Role.VIEWER, "alice"))) is None
    assert refusal_of(endpoint, cut, None) is None


async def test_a_host_that_shows_another_hosts_certificate_is_not_believed(agent: Agent) -> None:
    found = await refused(f"https://localhost:{agent.port}", credentials(*shown(Role.VIEWER, "alice")))
    assert found.code == "wrong-host"


async def test_an_impostor_beside_the_cluster_keeps_nobody_from_it(agent: Agent) -> None:
    alice = credentials(*shown(Role.VIEWER, "alice"))
    impostor = f"https://localhost:{agent.port}"
    async with ApiClient([impostor, agent.url("")], credentials=alice) as api:
        assert (await api.openapi())["reached"] == "openapi"
    assert (await refused(impostor, alice, impostor.replace("localhost", "localhost."))).code == "wrong-host"


async def test_a_kept_connection_is_used_again(agent: Agent) -> None:
    async with ApiClient([agent.url("")], credentials=credentials(*shown(Role.VIEWER, "alice"))) as api:
        for _ in range(3):
            await api.openapi()
        [session] = api.transport._sessions.values()
        assert isinstance(session, aiohttp.ClientSession)
        assert sum(map(len, session.connector._conns.values())) == 1  # type: ignore[union-attr]


def _serial(pair: tuple[str, str]) -> str:
    from gate_support import serial_of

    return serial_of(pair[0])
