"""The lab itself: up and down twice, beside another one, and nothing stays behind."""

from __future__ import annotations

from pathlib import Path

from pacing import timed
from testlab import Lab

from vdc.lab.audit import audit, compare, snapshot

UP_S = 60.0  # under 20 on a quiet machine


def test_twice_up_and_twice_down_beside_another_lab(session_lab: Lab, tmp_path: Path) -> None:
    before = snapshot(mentioning=session_lab.settings.state_root / "lab" / "second")
    lab = Lab("second", tmp_path / "config.yaml")
    try:
        for _ in range(2):
            with timed() as elapsed:
                status = lab.up()
            assert elapsed() < UP_S
            assert status.state.value == "up"
            assert [host.state.value for host in status.hosts] == ["up"] * 3
            agents = [host.agent_pid for host in status.hosts]
            assert [host.agent_pid for host in lab.up().hosts] == agents, "up again is no new lab"
            assert not lab.vm_names()
            assert session_lab.status().state.value == "up"
            lab.down()
            lab.down()
            assert lab.status().state.value == "down"
            assert not audit("second")
    finally:
        lab.close()
    after = snapshot(mentioning=session_lab.settings.state_root / "lab" / "second")
    assert not [line for line in compare(before, after) if "second" in line]
    assert session_lab.status().state.value == "up"
