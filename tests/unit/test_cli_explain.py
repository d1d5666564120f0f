"""`vdc doctor --explain`: what an event means and what to do, without asking any agent."""

from __future__ import annotations

import json

import pytest

from vdc.cli.main import run
from vdc.model.explanations import EXPLANATIONS


@pytest.mark.parametrize("code", ["isolated", "placed"])
def test_one_event(code, capsys):
    assert run(["doctor", "--explain", code]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{code} ({EXPLANATIONS[code].severity}): {EXPLANATIONS[code].meaning}")
    assert (EXPLANATIONS[code].advice or "nothing") in printed


def test_all_events_as_json(capsys):
    assert run(["doctor", "--explain", "all", "-o", "json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert [item["code"] for item in items] == list(EXPLANATIONS)


def test_an_unknown_event_is_answered_with_the_nearest(capsys):
    assert run(["doctor", "--explain", "isolatd"]) == 2
    assert "did you mean isolated?" in capsys.readouterr().err
