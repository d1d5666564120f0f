"""Join tokens: one use, one hour, one host that knows them; every other one refused by its own code."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from pki_support import NOW, authority

from vdc.model.errors import VdcError
from vdc.model.identity import Role
from vdc.security.tokens import DEFAULT_TTL, Token, TokenFolder, parse_token

ENDPOINT = "https://10.0.0.1:7400"
SECOND = timedelta(seconds=1)


@pytest.fixture
def tokens(tmp_path: Path) -> TokenFolder:
    return TokenFolder(tmp_path / "tokens")


def make(tokens: TokenFolder, role: Role = Role.HOST) -> Token:
    return tokens.create(role=role, authority=authority().fingerprint, endpoint=ENDPOINT, now=NOW)[0]


def code_of(work) -> str:
    with pytest.raises(VdcError) as caught:
        work()
    return caught.value.code


def test_a_token_says_where_to_ask_and_whom_to_find_there(tokens: TokenFolder) -> None:
    token = make(tokens)
    assert parse_token(token.text + "\n") == token
    assert (token.endpoint, token.authority) == (ENDPOINT, authority().fingerprint)
    assert token.text.startswith("vdcjoin1.")


def test_it_is_good_once(tokens: TokenFolder) -> None:
    token = make(tokens, Role.WITNESS)
    assert tokens.check(token, NOW).role is Role.WITNESS
    assert tokens.redeem(token, NOW).role is Role.WITNESS
    assert code_of(lambda: tokens.redeem(token, NOW)) == "token-used"
    assert code_of(lambda: tokens.check(token, NOW)) == "token-used"
    assert tokens.list(NOW) == ()


def test_of_many_rivals_one_succeeds(tokens: TokenFolder) -> None:
    token = make(tokens)

    def attempt(_number: int) -> str:
        try:
            tokens.redeem(token, NOW)
        except VdcError as error:
            return error.code
        return "redeemed"

    with ThreadPoolExecutor(8) as pool:
        found = sorted(pool.map(attempt, range(16)))
    assert found == ["redeemed", *["token-used"] * 15]


def test_it_expires(tokens: TokenFolder) -> None:
    token = make(tokens)
    tokens.check(token, NOW + DEFAULT_TTL - SECOND)
    assert code_of(lambda: tokens.redeem(token, NOW + DEFAULT_TTL)) == "token-expired"
    assert tokens.list(NOW + DEFAULT_TTL) == ()


def test_a_forged_one_learns_nothing(tokens: TokenFolder) -> None:
    token = make(tokens)
    wrong_secret = replace(token, secret=bytes(32))
    unknown = replace(token, id="00" * 8)
    assert code_of(lambda: tokens.redeem(wrong_secret, NOW)) == "token-invalid"
    assert code_of(lambda: tokens.redeem(unknown, NOW)) == "token-invalid"
    assert code_of(lambda: tokens.redeem(wrong_secret, NOW + DEFAULT_TTL)) == "token-invalid"
    tokens.redeem(token, NOW)  # the attempts did not use it up
    assert code_of(lambda: tokens.redeem(wrong_secret, NOW)) == "token-invalid"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "vdcjoin1.a.b.c.d",
        "vdcjoin1....",
        "../../etc/passwd",
        "vdcjoin1.AAAAAAAAAAA.AA.AA.AA",
        "é" * 10,
        "v" * 5000,
    ],
)
def test_another_text_is_no_token(text: str) -> None:
    assert code_of(lambda: parse_token(text)) == "token-invalid"


def test_a_token_cut_short_is_no_token(tokens: TokenFolder) -> None:
    text = make(tokens).text
    assert code_of(lambda: parse_token(text.rsplit(".", 1)[0])) == "token-invalid"
    assert code_of(lambda: parse_token(text.replace("vdcjoin1", "vdcjoin2"))) == "token-invalid"


def test_the_secret_is_on_no_disk_and_in_no_repr(tokens: TokenFolder, tmp_path: Path) -> None:
    token = make(tokens)
    secret = token.text.split(".")[2]
    (path,) = (tmp_path / "tokens").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for written in (path.read_text(), repr(token), str(token)):
        assert secret not in written
        assert token.secret.hex() not in written


def test_revoking_and_listing(tokens: TokenFolder) -> None:
    first, second = make(tokens), make(tokens, Role.WITNESS)
    assert {known.id for known in tokens.list(NOW)} == {first.id, second.id}
    tokens.revoke(first.id)
    assert code_of(lambda: tokens.redeem(first, NOW)) == "token-invalid"
    assert code_of(lambda: tokens.revoke(first.id)) == "token-not-found"
    assert code_of(lambda: tokens.revoke("../host")) == "token-not-found"
    assert [known.id for known in tokens.list(NOW)] == [second.id]


def test_what_is_no_token_of_the_folder_is_not_removed(tokens: TokenFolder, tmp_path: Path) -> None:
    make(tokens)
    (tmp_path / "authorities.json").write_text("{}")
    assert code_of(lambda: tokens.revoke("../authorities")) == "token-not-found"
    assert (tmp_path / "authorities.json").exists()


def test_people_get_no_join_tokens_and_none_lasts_for_ever(tokens: TokenFolder) -> None:
    def create(role: Role = Role.HOST, ttl: timedelta = DEFAULT_TTL) -> None:
        tokens.create(role=role, authority="00" * 32, endpoint=ENDPOINT, now=NOW, ttl=ttl)

    assert code_of(lambda: create(Role.ADMIN)) == "role-invalid"
    assert code_of(lambda: create(ttl=timedelta())) == "ttl-invalid"
    assert code_of(lambda: create(ttl=timedelta(days=8))) == "ttl-invalid"


def test_a_broken_file_is_nobody_s_token_and_old_ones_are_swept(tokens: TokenFolder, tmp_path: Path) -> None:
    token = make(tokens)
    (path,) = (tmp_path / "tokens").iterdir()
    path.write_text("{")
    assert code_of(lambda: tokens.redeem(token, NOW)) == "token-invalid"
    assert tokens.list(NOW) == ()
    make(tokens)
    assert len(list((tmp_path / "tokens").iterdir())) == 1
