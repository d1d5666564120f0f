"""One lab for all specifications; each begins with three healthy hosts and no VM, and ends with an audit."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from labconsole import consoles
from testlab import VM, Lab

from vdc.control.clock import SystemClock

_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")  # each has a lab of its own
LAB = (os.environ.get("VDC_TEST_LAB") or "test") + _WORKER  # another name: a run beside this one
OTHER_RUN_S = 900.0  # that a run waits for another one on this machine
_LAB = pytest.StashKey[Lab]()  # for the report of a failure, and for the end of the session


@pytest.fixture(scope="session")
def only_run() -> Iterator[None]:
    """Two runs with a lab of the same name would take it away from each other."""
    with (Path(tempfile.gettempdir()) / f"vdc-e2e-{LAB}.lock").open("w") as file:
        end = time.monotonic() + OTHER_RUN_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    pytest.exit("another run of these tests is going on on this machine", returncode=1)
                time.sleep(1)
        yield


@pytest.fixture(scope="session")
def session_lab(
    only_run: None, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Lab]:
    """The lab, from the first test to the last; the user's own context and labs are not touched."""
    config = tmp_path_factory.mktemp("vdc") / "config.yaml"
    os.environ["VDC_CONFIG"] = str(config)
    with Lab(LAB, config) as lab:
        pytestconfig.stash[_LAB] = lab
        yield lab
    del pytestconfig.stash[_LAB]


@pytest.fixture
def lab(session_lab: Lab, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The lab for one test. It has to be in order as the test leaves it, and again when all is healed.

    The wire is watched all the time: of each guest one host at a time may have spoken.
    """
    since = SystemClock().wall()
    with session_lab.capture() as capture:
        session_lab.wire = capture
        yield session_lab
        try:
            session_lab.assert_clean("as the test left it")
            _judge_the_wire(session_lab, since, request.node.get_closest_marker("two_speakers") is not None)
        finally:
            _begin_anew(session_lab)


def _judge_the_wire(lab: Lab, since: str, has_two_speakers: bool) -> None:
    verdicts = lab.verdicts(lab.wire, since)
    for verdict in verdicts:
        print(f"on the wire: {verdict}")  # shown with -rP, and where the test fails
    assert not lab.wire.dropped, "the kernel lost frames of the capture"
    violations = [one for verdict in verdicts for one in verdict.violations]
    if has_two_speakers:
        assert violations, "two hosts spoke, and it was not found"
    else:
        assert not violations, f"two speakers: {'; '.join(violations)}"


def _begin_anew(lab: Lab) -> None:
    """Heal and remove everything. Where that fails the next test gets a new lab, and this one an error."""
    try:
        lab.heal()
        lab.resume_all()
        lab.remove_all_vms()
        lab.assert_clean("after everything was healed and removed")
    except BaseException:
        lab.down()
        lab.up()
        raise


@pytest.fixture
def protected_vm(lab: Lab) -> Callable[..., VM]:
    """Make a VM in lockstep: `protected_vm("web", "--cpus", "2")`."""

    def make(name: str, *options: str) -> VM:
        vm = lab.create(name, *options)
        view = vm.view()
        assert view.status.protection.value == "lockstep", view.status
        lab.wait_answering(vm.address)
        return vm

    return make


@pytest.fixture
def own_lab(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Callable[..., Lab]]:
    """Make a lab beside the first: `own_lab("w", hosts=2, witness=True)`. A failure shows its logs."""
    before = pytestconfig.stash.get(_LAB, None)
    with ExitStack() as labs:

        def make(suffix: str, **options: Any) -> Lab:
            lab = labs.enter_context(Lab(LAB[:7] + suffix, tmp_path / "config.yaml", **options))
            pytestconfig.stash[_LAB] = lab
            return lab

        yield make
        if before is not None:
            pytestconfig.stash[_LAB] = before
        elif _LAB in pytestconfig.stash:
            del pytestconfig.stash[_LAB]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failure shows the events and the ends of the agents' logs and consoles as they are at this moment."""
    report = yield
    lab = item.config.stash.get(_LAB, None)
    if report.failed and lab is not None:
        done = lab.cli("events", timeout_s=30)
        report.sections.append(("events", done.stdout[-16_000:] + done.stderr))
        described = lab.cli("get", "endophytes", "-o", "yaml", timeout_s=30)
        report.sections.append(("endophytes", described.stdout + described.stderr))
        report.sections += [(f"log of the agent of {host}", lab.agent_log(host)) for host in lab.hosts]
        report.sections += consoles(lab)
    return report


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last resort: whatever ended the session, the lab goes."""
    lab = config.stash.get(_LAB, None)
    if lab is not None:
        lab.close()
