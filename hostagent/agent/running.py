"""Whether this host's agent runs, for commands that do its work while it does not."""

from __future__ import annotations

import socket
from pathlib import Path

from hostagent.config import AgentConfig

API_SOCKET = "api.sock"
_ASK_S = 2.0


def api_socket(config: AgentConfig) -> Path:
    """Where the agent serves this machine's root."""
    return config.state_dir / API_SOCKET


def agent_runs(config: AgentConfig) -> bool:
    """Whether somebody listens there; a killed agent leaves the socket, and nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_ASK_S)
        try:
            asking.connect(str(api_socket(config)))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:  # too busy to answer, or not to be asked: it is there
            return True
    return True
