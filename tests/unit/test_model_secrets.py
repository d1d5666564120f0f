"""Secrets of manifests: hidden where they are shown, kept where what was shown is applied again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdc.model.errors import InvalidError
from vdc.model.manifest import EndophyteManifest
from vdc.model.secrets import MASK, masked, unmasked

Item = dict[str, Any]


def manifest(env: list[Item] | None = None, files: list[Item] | None = None) -> EndophyteManifest:
    return EndophyteManifest.model_validate({
        "metadata": {"name": "a"},
        "spec": {"image": "x", "virtualComputer": {"type": "container"},
                 "process": {"env": env or [], "files": files or []}},
    })  # fmt: skip


def secret(name: str, value: str) -> Item:
    return {"name": name, "value": value, "secret": True}


STORED = manifest(
    [{"name": "HOST", "value": "db"}, secret("PASSWORD", "hunter2"), secret("EMPTY", "")],
    [{"path": "/a", "content": "open"}, {"path": "/b", "content": "hunter3", "mode": 0o600, "secret": True},
     {"path": "/c", "contentBase64": "aHVudGVy/w==", "secret": True}],
)  # fmt: skip


def test_only_secrets_are_hidden() -> None:
    process = masked(STORED).spec.process
    assert process is not None
    assert [one.value for one in process.env] == ["db", MASK, MASK]
    assert [(one.content, one.content_base64, one.mode) for one in process.files] == [
        ("open", None, 0o644), (MASK, None, 0o600), (MASK, None, 0o644),
    ]  # fmt: skip
    assert "hunter" not in masked(STORED).to_json() and "aHVudGVy" not in masked(STORED).to_json()


def test_nothing_to_hide_changes_nothing() -> None:
    plain = EndophyteManifest.model_validate({"metadata": {"name": "a"}, "spec": {"image": "x"}})
    assert masked(plain) is plain and unmasked(plain, None) is plain
    bare = manifest([{"name": "A", "value": "b"}])
    assert masked(bare) is bare and unmasked(bare, None) is bare


def test_what_was_shown_keeps_what_is_stored() -> None:
    assert unmasked(masked(STORED), STORED) == STORED
    assert unmasked(STORED, STORED) == STORED


def test_a_new_value_replaces_a_stored_one() -> None:
    wanted = manifest([secret("PASSWORD", "new"), secret("EMPTY", MASK)])
    process = unmasked(wanted, STORED).spec.process
    assert process is not None and [one.value for one in process.env] == ["new", ""]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (
            manifest([secret("OTHER", MASK)]),
            "spec.process.env[0].value: <secret> keeps a stored value, and none is",
        ),
        (manifest([secret("HOST", MASK)]), "none is stored for HOST"),
        (
            manifest(files=[{"path": "/d", "content": MASK, "secret": True}]),
            "spec.process.files[0].content: <secret>",
        ),
        (manifest(files=[{"path": "/a", "content": MASK, "secret": True}]), "none is stored for /a"),
        (
            manifest([{"name": "PASSWORD", "value": MASK}]),
            "the stored value of PASSWORD is a secret; to show it",
        ),
        (manifest(files=[{"path": "/b", "content": MASK}]), "the stored value of /b is a secret"),
    ],
)
def test_a_mask_with_nothing_behind_it_is_refused(wanted: EndophyteManifest, words: str) -> None:
    with pytest.raises(InvalidError) as caught:
        unmasked(wanted, STORED)
    assert caught.value.code == "secret-missing" and words in str(caught.value)


def test_nothing_is_stored_where_there_is_no_endophyte_or_no_process() -> None:
    plain = EndophyteManifest.model_validate({"metadata": {"name": "a"}, "spec": {"image": "x"}})
    for stored in (None, plain):
        with pytest.raises(InvalidError):
            unmasked(masked(STORED), stored)


def test_the_same_words_are_no_mask_where_nothing_is_secret() -> None:
    plain = manifest([{"name": "A", "value": MASK}], [{"path": "/x", "content": MASK}])
    assert unmasked(plain, STORED) == plain and masked(plain) == plain


values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(st.dictionaries(st.text("ABC", min_size=1, max_size=2), st.tuples(values, st.booleans()), max_size=4))
def test_showing_and_applying_is_no_change(env: dict[str, tuple[str, bool]]) -> None:
    made = manifest([{"name": name, "value": text, "secret": hidden} for name, (text, hidden) in env.items()])
    assert unmasked(masked(made), made) == made
    assert masked(masked(made)) == masked(made)
