"""What the agent writes for the init of a container's guest is what that reads: one file, tested on both sides.

`UPDATE_GOLDEN=1 pytest tests/unit/test_guest_config.py` rewrites it; images/container/init/internal/config reads it.
"""

import base64
import json
import os
from pathlib import Path

from vdc.model.guest import GuestConfig, GuestFile, GuestNic, GuestProcess, GuestVolume
from vdc.model.process import (
    Capabilities,
    EmptyDir,
    ExecProbe,
    HttpHeader,
    HttpProbe,
    Probe,
    RestartPolicy,
    SecurityContext,
    TcpProbe,
)

GOLDEN = Path(__file__).parents[2] / "images/container/init/internal/config/testdata/config.json"
PROCESS = GuestProcess(
    argv=("/bin/app", "--flag", 'ä "quoted" <&>'),
    env=("A=1", "B=x=y"),
    working_dir="/srv",
    user="app:web",
    stop_signal="SIGQUIT",
    stop_seconds=45,
    restart_policy=RestartPolicy.ON_FAILURE,
    security_context=SecurityContext(
        fs_group=2000,
        supplemental_groups=(7, 8),
        read_only_root_filesystem=True,
        allow_privilege_escalation=False,
        capabilities=Capabilities(add=("CHOWN",), drop=("ALL",)),
    ),
    startup_probe=Probe(
        exec=ExecProbe(command=("test", "-e", "/tmp/up")),
        period_seconds=1,
        timeout_seconds=2,
        failure_threshold=30,
    ),
    liveness_probe=Probe(tcp_socket=TcpProbe(port=5432)),
    readiness_probe=Probe(
        http_get=HttpProbe(
            port=8443,
            path="/ready?full=1",
            scheme="HTTPS",
            http_headers=(HttpHeader(name="X-Probe", value="yes"),),
        ),
        initial_delay_seconds=5,
        period_seconds=3,
        timeout_seconds=4,
        success_threshold=2,
        failure_threshold=6,
    ),
)
CONFIG = GuestConfig(
    hostname="web",
    domain="example.test",
    nameservers=("10.0.0.1",),
    nics=(GuestNic(mac="52:54:00:00:00:01", address="10.0.0.5", prefix=24, mtu=1400, gateway="10.0.0.1"),),
    volumes=(GuestVolume(disk=1, path="/data", read_only=True),),
    empty_dirs=(EmptyDir(path="/run/scratch", medium="Memory", size_limit=2**20, read_only=True),),
    files=(
        GuestFile(path="/etc/app.conf", content_base64=base64.b64encode(b"a=1\n\0\xff").decode(), mode=0o640),
    ),
    process=PROCESS,
    seed=base64.b64encode(b"random bytes").decode(),
)


def test_the_init_is_tested_with_what_the_agent_writes() -> None:
    text = json.dumps(json.loads(CONFIG.to_json()), indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text)
    assert GOLDEN.read_text() == text


def test_every_field_of_the_form_is_in_it() -> None:
    """A field that is left at its default would not be seen to be lost."""
    for record in (CONFIG, PROCESS, PROCESS.security_context, CONFIG.volumes[0], CONFIG.empty_dirs[0]):
        left = {
            name
            for name, field in type(record).model_fields.items()
            if getattr(record, name) == field.default and name != "version"
        }
        assert not left, type(record).__name__
