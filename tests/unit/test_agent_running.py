"""Whether an agent runs, told by its socket."""

from __future__ import annotations

import socket
from pathlib import Path

from etcd_support import CONFIG

from hostagent.agent.running import agent_runs, api_socket
from hostagent.config import AgentConfig


def test_an_agent_runs_while_somebody_listens_and_not_where_a_killed_one_left_its_socket(
    tmp_path: Path,
) -> None:
    config = AgentConfig.model_validate(CONFIG).model_copy(update={"state_dir": tmp_path})
    assert not agent_runs(config)
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(api_socket(config)))
        agent.listen()
        assert agent_runs(config)
    assert api_socket(config).exists()
    assert not agent_runs(config)
