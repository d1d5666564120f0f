"""The number of an agent's start only grows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.agent.incarnation import INCARNATION_FILE, next_incarnation
from vdc.model.errors import ConflictError
from vdc.model.host import MAX_INCARNATION


def test_it_is_the_wall_clock_where_that_is_ahead(tmp_path):
    assert next_incarnation(tmp_path / "new", 1_800_000_000_000) == 1_800_000_000_000
    assert next_incarnation(tmp_path / "new", 1_800_000_000_500) == 1_800_000_000_500


def test_it_grows_though_the_clock_was_set_back(tmp_path):
    next_incarnation(tmp_path, 1_800_000_000_000)
    assert next_incarnation(tmp_path, 5) == 1_800_000_000_001
    assert next_incarnation(tmp_path, 1_800_000_000_001) == 1_800_000_000_002


@given(times=st.lists(st.integers(0, 2**50), max_size=10))
def test_it_grows_whatever_the_clock_shows(tmp_path_factory, times):
    folder = tmp_path_factory.mktemp("agent")
    found = [next_incarnation(folder, time) for time in times]
    assert found == sorted(set(found))


@pytest.mark.parametrize("text", ["", "abc", "-1", "-5", "1 2", str(MAX_INCARNATION), "9" * 5000, "\u0665"])
def test_one_that_cannot_be_read_is_not_guessed(tmp_path, text):
    (tmp_path / INCARNATION_FILE).write_text(text)
    with pytest.raises(ConflictError, match="incarnation cannot be read") as caught:
        next_incarnation(tmp_path, 7)
    assert caught.value.code == "incarnation-unreadable"
    assert (tmp_path / INCARNATION_FILE).read_text() == text
