"""A rotation goes through its phases in one order, held up by whoever is not ready and by nobody else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vdc.model.credentials import Authorities, AuthorityEntry, IssuedCertificate
from vdc.model.errors import VdcError
from vdc.model.identity import Identity, Role
from vdc.protection.rotation import Phase, advance, begin, holders, missing_trust, phase_of, retire

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
A, B = (AuthorityEntry(fingerprint=name, key_id=f"key-{name}", certificate=f"PEM {name}\n") for name in "ab")
STABLE = Authorities(number=4, entries=(A,), issuing="a", signed_by="a", signature="00")
BOTH = {"h1": ("a", "b"), "h2": ("a", "b")}


def certificate(name: str, issuer: AuthorityEntry, *, issued: int = 0, until: int = 90) -> IssuedCertificate:
    return IssuedCertificate(
        serial=f"{name}-{issuer.fingerprint}-{issued}", issuer=issuer.key_id, key="k",
        identity=Identity(cluster="0" * 12, role=Role.HOST, name=name),
        issued_at=NOW + issued * DAY, not_after=NOW + until * DAY,
    )  # fmt: skip


def code_of(work) -> str:
    with pytest.raises(VdcError) as caught:
        work()
    return caught.value.code


def test_the_way_from_one_to_the_other() -> None:
    introduced = begin(STABLE, B)
    issuing = advance(introduced, BOTH, ["h1", "h2"])
    assert issuing is not None
    after = retire(issuing, [])
    steps = (STABLE, introduced, issuing, after)
    assert [phase_of(step) for step in steps] == [Phase.STABLE, Phase.INTRODUCED, Phase.ISSUING, Phase.STABLE]
    assert [step.issuing for step in steps] == ["a", "a", "b", "b"]
    assert [step.number for step in steps] == [4, 5, 6, 7]
    assert after.entries == (B,)
    assert {step.signature for step in steps[1:]} == {""}, "a step has to be signed anew"


def test_the_bundle_begins_with_the_one_that_issues() -> None:
    introduced = begin(STABLE, B)
    issuing = advance(introduced, BOTH, ["h1"])
    assert issuing is not None
    assert (introduced.bundle, issuing.bundle) == ("PEM a\nPEM b\n", "PEM b\nPEM a\n")


def test_every_known_host_has_to_trust_before_the_new_one_issues() -> None:
    introduced = begin(STABLE, B)
    partly = {**BOTH, "h2": ("a",)}
    assert missing_trust(introduced, partly, ["h1", "h2", "h3"]) == ("h2", "h3")
    assert advance(introduced, partly, ["h1", "h2"]) is None
    assert advance(introduced, partly, ["h1"]) is not None
    assert advance(STABLE, BOTH, []) is None


def test_nothing_out_of_turn() -> None:
    introduced = begin(STABLE, B)
    assert code_of(lambda: begin(introduced, B)) == "rotation-running"
    assert code_of(lambda: retire(STABLE, [])) == "no-rotation"
    assert code_of(lambda: retire(introduced, [])) == "authority-not-trusted"


def test_an_authority_that_is_used_is_not_retired_and_its_users_are_named() -> None:
    issuing = advance(begin(STABLE, B), BOTH, ["h1"])
    assert issuing is not None
    found = holders(issuing, [certificate("h1", A), certificate("h2", B)], (), NOW)
    assert [one.name for one in found] == ["h1"]
    with pytest.raises(VdcError, match="host h1") as caught:
        retire(issuing, found)
    assert caught.value.code == "authority-in-use"


@pytest.mark.parametrize(
    ("certificates", "revoked"),
    [
        ([certificate("h1", A), certificate("h1", B, issued=1)], ()),
        ([certificate("h1", B), certificate("h1", A)], ()),
        ([certificate("h1", A)], ("h1-a-0",)),
        ([certificate("h1", A, until=-1)], ()),
    ],
    ids=["renewed", "renewed in the same instant", "revoked", "run out"],
)
def test_what_does_not_hold_it_up(certificates, revoked) -> None:
    issuing = advance(begin(STABLE, B), BOTH, [])
    assert issuing is not None
    assert holders(issuing, certificates, revoked, NOW) == ()


def test_an_older_certificate_of_the_new_one_does_not_hide_a_newer_of_the_old() -> None:
    issuing = advance(begin(STABLE, B), BOTH, [])
    assert issuing is not None
    found = holders(issuing, [certificate("h1", B), certificate("h1", A, issued=1)], (), NOW)
    assert [one.name for one in found] == ["h1"]
