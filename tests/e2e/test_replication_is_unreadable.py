"""Nobody on the replication network reads what a guest holds, stores or says; its keys go with their epoch."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from replication_capture import ReplicationCapture
from testlab import VM, Lab, wait_for

from vdc.lab.plan import Underlay

STORE = 7001
_TELL = """
import socket, sys
address, port, text, first = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
with socket.create_connection((address, port), 10) as sock, sock.makefile("rw") as lines:
    for number in range(first, first + 30):
        for request, answer in ((f"PUT {number} {text}", f"OK {number}"), (f"GET {number}", text)):
            lines.write(request + "\\n")
            lines.flush()
            assert answer in lines.readline()
"""


def tell(lab: Lab, vm: VM, text: str, first: int) -> None:
    """Let the guest keep a text in its memory, on its disk and on its network."""
    command = [sys.executable, "-I", "-S", "-c", _TELL, vm.address, str(STORE), text, str(first)]
    subprocess.run(lab.in_client(command), check=True, capture_output=True, timeout=60)


def credentials(lab: Lab, host: str) -> set[str]:
    """The folders of credentials on a host, by name."""
    return {path.name for path in (lab.plan.host(host).state_dir / "vms").rglob("tls-e*") if path.is_dir()}


def authorities(lab: Lab, host: str) -> list[Path]:
    """Keys that could still sign for a pair."""
    return list((lab.plan.host(host).state_dir / "pairs").glob("*"))


def test_a_text_of_the_guest_is_never_on_the_replication_network(
    lab: Lab, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    text = secrets.token_hex(64)
    tell(lab, vm, text, 1)
    with ReplicationCapture(lab.plan.switch(Underlay.REPLICATION), text.encode()) as capture:
        vm.ask_protection(enabled=False)
        vm.wait("unprotected", lambda view: view.status.secondary is None, 20)
        vm.ask_protection(enabled=True)  # its memory and disk are copied once more
        vm.wait_lockstep()
        tell(lab, vm, text, 100)
    assert set(capture.carried) == {"mirror", "compare", "nbd", "migration"}
    assert capture.carried["migration"] > 10 * 2**20
    assert not +capture.found

    epoch = f"tls-e{vm.epoch}"
    for host in (vm.primary, vm.secondary):
        assert credentials(lab, host) == {epoch}, "those of an earlier epoch are gone"
        assert not authorities(lab, host), "nobody may ask for a certificate any more"
        lines = Path(f"/proc/{vm.qemu(host).pid}/net/dev").read_text().splitlines()[2:]
        assert [line.partition(":")[0].strip() for line in lines] == ["lo"]

    first, second = vm.primary, vm.secondary
    vm.kill(first)
    vm.wait_primary(second)
    vm.wait_lockstep()
    assert credentials(lab, second) == {f"tls-e{vm.epoch}"}
    wait_for(lambda: epoch not in credentials(lab, first), 20, "the lost copy's credentials are gone")
