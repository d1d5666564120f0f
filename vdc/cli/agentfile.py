"""The little of an agent's configuration that founding a cluster needs; the agent reads all of it itself."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import yaml
from pydantic import ValidationError

from vdc.model.base import Record
from vdc.model.errors import InvalidError
from vdc.model.ids import DnsLabel


class _Address(Record):
    address: IPv4Address


class AgentFile(Record):
    """Who the host is and where it serves."""

    host: DnsLabel
    state_dir: Path
    management: _Address
    replication: _Address | None = None
    api_port: int = 7400

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it serves."""
        found = {self.management.address, (self.replication or self.management).address}
        return tuple(sorted(map(str, found)))


def read_agent(path: Path) -> AgentFile:
    """The little of an agent's configuration that founding needs; InvalidError (`config-...`)."""
    try:
        return AgentFile.model_validate(yaml.safe_load(path.read_text()) or {})
    except OSError as error:
        raise InvalidError(
            f"cannot read {path}: {error.strerror}",
            hint="run it on the first host, or name its agent's configuration with --config",
            code="config-unreadable",
        ) from error
    except yaml.YAMLError as error:
        raise InvalidError(f"{path} is not YAML", hint="hostagent check", code="config-invalid") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InvalidError(
            f"{path}: {where}: {first['msg']}", hint=f"hostagent check --config {path}", code="config-invalid"
        ) from error
