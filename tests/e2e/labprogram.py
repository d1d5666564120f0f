"""Real programs in the lab: their images imported as they are, protected, and their own clients beside them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from labconsole import consoles_at_failure
from labcontainer import KERNEL
from pacing import wait_for
from testlab import VM

from tests.debian_programs import missing, program_root

if TYPE_CHECKING:
    from testlab import Lab

CLIENTS = Path(__file__).with_name("program_clients.py")
START_S = 120.0
WORK_S = 120.0  # for what clients are waited for to do
PATIENCE_S = 60.0  # that a client waits for an answer: a lab on a busy machine, not what is promised

needs_programs = pytest.mark.skipif(bool(missing()), reason=missing())


@contextmanager
def imported(lab: Lab, source: str, name: str, *options: str) -> Iterator[None]:
    """The image is in the lab under a name, until the end of the block, with all that was made from it."""
    if not any(KERNEL in entry.names for entry in lab.ask(lambda api: api.list_images()).items):
        pytest.skip(f"{KERNEL} was not built: make images")
    lab.ok("image", "import", source, "--name", name, *options)
    try:
        with consoles_at_failure(lab):
            yield
    finally:
        lab.remove_all_vms()
        lab.ok("image", "rm", name)


def protected(lab: Lab, name: str, image: str, port: int, *options: str) -> VM:
    """Make it in one command; in lockstep, and its program answers."""
    vm = lab.create(name, "--image", image, *options, timeout_s=START_S)
    wait_listening(lab, vm, port)
    vm.wait_lockstep(START_S)
    return vm


def wait_listening(lab: Lab, vm: VM, port: int) -> None:
    """Until its program takes connections."""
    probe = lab.in_client(["bash", "-c", f"exec 3<>/dev/tcp/{vm.address}/{port}"])

    def listens() -> bool:
        return subprocess.run(probe, capture_output=True, timeout=20, check=False).returncode == 0

    wait_for(listens, START_S, f"{vm.name} listens at port {port}", every_s=0.5)


def own_client(lab: Lab, program: str, work: Path, argv: Sequence[str]) -> list[str]:
    """The command line of one of the program's own tools, from its packages, in the lab's client namespace.

    `work` is its working directory.
    """
    root = program_root(program)
    view = [
        "--ro-bind", f"{root}/usr", "/usr", "--ro-bind", f"{root}/etc", "/etc", "--dev", "/dev", "--proc", "/proc",
        "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
        "--tmpfs", "/tmp", "--bind", str(work), "/work", "--chdir", "/work", "--die-with-parent",
    ]  # fmt: skip
    return lab.in_client(["bwrap", *view, "--clearenv", "--setenv", "PATH", "/usr/bin", *argv])


def lose_the_primary(lab: Lab, vm: VM) -> None:
    """Power off its primary's host; the guest is on the secondary's afterwards."""
    second = vm.secondary
    lab.fault("power-off", vm.primary)
    vm.wait_primary(second, PATIENCE_S)
