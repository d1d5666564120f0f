"""The contexts file: private, atomic, and giving back what was current before."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from vdc.api import context as ctx
from vdc.model.errors import InvalidError, NotFoundError, RefusedError
from vdc.security.credentials import UserCredentials

SOCKET = "unix:///run/h1/api.sock"
REMOTE = "https://10.0.0.1:7777"
ALICE = UserCredentials("AUTHORITY", "CERTIFICATE", "KEY")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "deep" / "config.yaml"
    monkeypatch.setenv(ctx.ENV_FILE, str(path))
    monkeypatch.delenv(ctx.ENV_CONTEXT, raising=False)
    return path


def test_an_absent_file_is_empty(file: Path) -> None:
    assert ctx.load_contexts() == ctx.Contexts()
    assert not file.exists()


def test_a_written_context_is_current_private_and_leaves_no_temporary(file: Path) -> None:
    ctx.put_context("lab", [SOCKET])
    assert ctx.resolve_context() == ("lab", ctx.Context(endpoints=(SOCKET,)))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert sorted(p.name for p in file.parent.iterdir()) == ["config.yaml", "config.yaml.lock"]
    assert "current-context: lab" in file.read_text()


def test_removal_gives_back_the_previous_context(file: Path) -> None:
    ctx.put_context("work", [REMOTE], credentials=ALICE)
    ctx.put_context("lab", [SOCKET])
    ctx.put_context("lab", [SOCKET])  # a second `lab up` must not make the lab its own predecessor
    assert ctx.remove_context("lab").current == "work"


def test_nested_contexts_may_go_in_any_order(file: Path) -> None:
    ctx.put_context("work", [REMOTE], credentials=ALICE)
    ctx.put_context("lab", [SOCKET])
    ctx.put_context("lab-two", [SOCKET])
    assert ctx.remove_context("lab").current == "lab-two"
    assert ctx.remove_context("lab-two").current == "work"


def test_a_context_that_the_user_chose_since_stays_current(file: Path) -> None:
    ctx.put_context("work", [REMOTE], credentials=ALICE)
    ctx.put_context("lab", [SOCKET])
    ctx.use_context("work")
    assert ctx.remove_context("lab").current == "work"


def test_removing_what_is_not_there_changes_nothing(file: Path) -> None:
    before = ctx.put_context("lab", [SOCKET])
    assert ctx.remove_context("other") == before


def test_the_order_of_choice_is_option_then_environment_then_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        ctx.put_context(name, [SOCKET])
    assert ctx.resolve_context()[0] == "c"
    monkeypatch.setenv(ctx.ENV_CONTEXT, "b")
    assert ctx.resolve_context()[0] == "b"
    assert ctx.resolve_context("a")[0] == "a"


def test_unknown_and_missing_contexts_are_told_apart(file: Path) -> None:
    with pytest.raises(NotFoundError) as missing:
        ctx.resolve_context()
    with pytest.raises(NotFoundError) as unknown:
        ctx.resolve_context("x")
    assert (missing.value.code, unknown.value.code) == ("context-missing", "context-not-found")


@pytest.mark.parametrize("text", ["- a", "contexts: 1", "contexts: {a: {}}", "x: [", "current: 1", "\x00"])
def test_a_broken_file_is_named_and_kept(file: Path, text: str) -> None:
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(InvalidError, match=r"config\.yaml") as caught:
        ctx.put_context("lab", [SOCKET])
    assert caught.value.code == "context-invalid"
    assert file.read_text() == text


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidError, match="cannot be written"):
        ctx.put_context("lab", [SOCKET], tmp_path / "file" / "config.yaml")


def test_an_endpoint_is_checked_before_it_is_written(file: Path) -> None:
    with pytest.raises(InvalidError):
        ctx.put_context("lab", ["nonsense"])
    assert not file.exists()


def test_credentials_come_back_in_the_words_of_the_file(file: Path) -> None:
    ctx.put_context("work", [REMOTE], credentials=ALICE)
    ctx.put_context("lab", [SOCKET])
    ctx.remove_context("lab")
    _, context = ctx.resolve_context()
    assert context.credentials == ALICE
    assert "KEY" not in repr(context)
    assert "client-key-data: KEY" in file.read_text()
    assert "certificate-authority-data: AUTHORITY" in file.read_text()


def test_nothing_is_sent_in_clear_nor_without_credentials(file: Path) -> None:
    with pytest.raises(InvalidError) as plain:
        ctx.put_context("work", ["http://10.0.0.1:7777"], credentials=ALICE)
    with pytest.raises(InvalidError) as nobody:
        ctx.put_context("work", [REMOTE])
    assert (plain.value.code, nobody.value.code) == ("endpoint-invalid", "context-invalid")
    file.parent.mkdir()
    file.write_text('contexts: {a: {endpoints: ["http://h:1"]}, b: {endpoints: ["unix:///s"]}}')
    assert ctx.resolve_context("b")[0] == "b"
    with pytest.raises(InvalidError) as found:
        ctx.resolve_context("a")
    assert found.value.code == "endpoint-invalid"


def test_a_key_that_others_can_read_is_refused(file: Path) -> None:
    ctx.put_context("lab", [SOCKET])
    file.chmod(0o644)
    assert ctx.resolve_context()[0] == "lab"  # nothing in it is secret
    ctx.put_context("work", [REMOTE], credentials=ALICE)
    file.chmod(0o640)
    with pytest.raises(RefusedError) as caught:
        ctx.resolve_context()
    assert caught.value.code == "key-exposed"


def test_a_context_keeps_what_it_learned_and_everything_else(file: Path) -> None:
    ctx.put_context("lab", [SOCKET])
    ctx.put_context("work", [REMOTE], credentials=ALICE)
    ctx.replace_authorities("work", "OTHERS")
    found = ctx.load_contexts().contexts["work"]
    assert found.credentials == UserCredentials("OTHERS", "CERTIFICATE", "KEY")
    assert (found.endpoints, found.previous) == ((REMOTE,), "lab")
    before = ctx.load_contexts()
    assert ctx.replace_authorities("gone", "OTHERS") == before
