"""Whose certificate does not count is in the audit log: over real TLS and the real gate, by the refusal's code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from gate_support import ADDRESS, MONTH, Agent, path_of, serial_of, serving_agent, session_of, shown
from pki_support import CLUSTER

from vdc.api.routes import BY_NAME
from vdc.model.identity import Role


@pytest.fixture
async def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agent]:
    async with serving_agent(tmp_path, monkeypatch) as made:
        yield made


REVOKED = shown(Role.ADMIN, "revoked")
EXPIRED = shown(Role.ADMIN, "old", issued_ago=MONTH + timedelta(days=1))


@pytest.mark.parametrize(
    ("pair", "who", "result"),
    [
        ((), "nobody", "certificate-missing"),
        (EXPIRED, f"vdc://{CLUSTER}/admin/old", "certificate-expired"),
        (REVOKED, f"vdc://{CLUSTER}/admin/revoked", "certificate-revoked"),
        (shown(Role.VIEWER, "bob"), f"vdc://{CLUSTER}/viewer/bob", "role-missing"),
        (shown(Role.WITNESS, "w1"), f"vdc://{CLUSTER}/witness/w1", "role-missing"),
        (shown(Role.HOST, "h9"), f"vdc://{CLUSTER}/host/h9", "wrong-host"),
    ],
    ids=lambda value: value if isinstance(value, str) and "/" not in value else "",
)  # fmt: skip
async def test_a_refusal_is_written_with_who_and_why(
    agent: Agent, pair: tuple[str, ...], who: str, result: str
) -> None:
    agent.revoked = {serial_of(REVOKED[0])}
    url = agent.url(path_of(BY_NAME["create_token"]))
    async with session_of(*pair) as session, session.post(url, data=b"{}") as answer:
        assert answer.status in (401, 403)
    (entry,) = agent.audit.spool.waiting(10)
    assert (entry.who, entry.what, entry.result, entry.address) == (who, "create_token", result, ADDRESS)
