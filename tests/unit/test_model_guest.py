"""What a container's guest is told: names that its init reads, and the form in which it comes back."""

from __future__ import annotations

import json

from vdc.model.guest import (
    FW_CFG_NAME,
    GuestConfig,
    GuestFile,
    GuestNic,
    GuestProcess,
    GuestVolume,
    ProgramStatus,
)
from vdc.model.process import EmptyDir, HttpProbe, Probe, RestartPolicy, SecurityContext

CONFIG = GuestConfig(
    hostname="redis-0",
    domain="vdc",
    nameservers=("10.77.0.1",),
    nics=(GuestNic(mac="52:54:00:00:00:01", address="10.77.0.10", prefix=16, mtu=1450, gateway="10.77.0.1"),),
    volumes=(GuestVolume(disk=1, path="/data"),),
    empty_dirs=(EmptyDir(path="/tmp", medium="Memory", size_limit=4096),),
    files=(GuestFile(path="/etc/secret", content_base64="aHVudGVyMg==", mode=0o600),),
    process=GuestProcess(
        argv=("redis-server", "--requirepass", "hunter2"),
        env=("PASSWORD=hunter2",),
        working_dir="/",
        user="999:999",
        stop_signal="SIGTERM",
        stop_seconds=30,
        restart_policy=RestartPolicy.ALWAYS,
        security_context=SecurityContext(fs_group=999),
        liveness_probe=Probe(http_get=HttpProbe(port=80)),
    ),
)  # fmt: skip


def test_the_names_are_those_that_the_init_reads() -> None:
    told = json.loads(CONFIG.to_json())
    assert set(told) == {
        "version", "hostname", "domain", "nameservers", "nics", "volumes", "empty_dirs", "files", "process",
        "seed",
    }  # fmt: skip
    assert told["version"] == 1
    assert set(told["process"]) == {
        "argv", "env", "working_dir", "user", "stop_signal", "stop_seconds", "restart_policy", "security_context",
        "startup_probe", "liveness_probe", "readiness_probe",
    }  # fmt: skip
    assert told["process"]["liveness_probe"]["httpGet"] == {
        "port": 80, "path": "/", "scheme": "HTTP", "httpHeaders": [],
    }  # fmt: skip
    assert told["process"]["security_context"] == {
        "fsGroup": 999, "supplementalGroups": [], "readOnlyRootFilesystem": False, "allowPrivilegeEscalation": True,
        "capabilities": {"add": [], "drop": []},
    }  # fmt: skip
    assert told["empty_dirs"] == [{"path": "/tmp", "medium": "Memory", "sizeLimit": 4096, "readOnly": False}]
    assert told["volumes"] == [{"disk": 1, "path": "/data", "read_only": False}]


def test_it_comes_back_as_it_went_and_is_the_same_bytes_each_time() -> None:
    again = GuestConfig.from_json(CONFIG.to_json())
    assert again == CONFIG and again.to_json() == CONFIG.to_json()


def test_a_newer_agent_may_say_more() -> None:
    told = {**json.loads(CONFIG.to_json()), "later": 1}
    assert GuestConfig.from_json(json.dumps(told)) == CONFIG


def test_its_secrets_are_in_no_repr() -> None:
    for secret in ("hunter2", "aHVudGVyMg=="):
        assert secret not in repr(CONFIG)


def test_a_program_that_never_ran_has_a_status() -> None:
    status = ProgramStatus.from_json('{"state": "starting"}')
    assert (status.ready, status.pid, status.restarts, status.exit_code, status.reason) == (
        False,
        0,
        0,
        None,
        "",
    )
    assert ProgramStatus.from_json(status.to_json()) == status


def test_qemu_takes_the_name() -> None:
    assert FW_CFG_NAME.startswith("opt/") and len(FW_CFG_NAME) <= 55  # docs/specs/fw_cfg.rst
