"""What a dead agent, or a start that was cut short, leaves of real processes; and that it is found and ended."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hostagent.drivers.process import adopt
from hostagent.drivers.process.identity import identity_of, pids_with_environment, stat_of
from hostagent.drivers.process.pidfile import (
    OWNER_VARIABLE,
    TOKEN_VARIABLE,
    kill_carriers,
    new_record,
    own_processes,
    write_pidfile,
)
from hostagent.drivers.process.sweep import sweep_processes
from hostagent.drivers.process.tool import run_tool

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap")

SANDBOX = ("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-net")
TRIES = 120  # at random moments of a sandbox's first milliseconds; about one in 25 hits the gap


def until(condition: Callable[[], object], deadline_s: float = 10.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.005)


def of_owner(folder: Path) -> tuple[int, ...]:
    return pids_with_environment(f"{OWNER_VARIABLE}={folder}")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    own_processes(tmp_path)
    yield tmp_path
    own_processes(Path())
    for pid in of_owner(tmp_path):
        os.kill(pid, signal.SIGKILL)


def stuck_sandbox(token: str, folder: Path) -> int:
    """A sandbox whose agent died before it had read which process the program is: its child waits for ever."""
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [SANDBOX[0], "--json-status-fd", str(writer), *SANDBOX[1:], "sleep", "1000"],
        pass_fds=[writer], start_new_session=True, stderr=subprocess.DEVNULL,
        env={**os.environ, TOKEN_VARIABLE: token, OWNER_VARIABLE: str(folder)},
    )  # fmt: skip
    os.close(writer)
    process.wait()
    left = pids_with_environment(f"{TOKEN_VARIABLE}={token}")
    assert len(left) == 1, "this bubblewrap leaves nothing; the danger is gone"
    return left[0]


async def test_a_tool_that_is_cut_short_at_any_moment_leaves_nothing(folder: Path) -> None:
    for number in range(TRIES):
        with pytest.raises(TimeoutError):
            await run_tool([*SANDBOX, "sleep", "1000"], deadline_s=0.001 + 0.012 * number / TRIES)
    assert not of_owner(folder)


async def test_a_tool_that_ends_tells_what_it_said(folder: Path) -> None:
    assert await run_tool([*SANDBOX, "sh", "-c", "cat; echo no >&2; exit 3"], deadline_s=10, stdin=b"x") == (
        3,
        b"x",
        b"no\n",
    )


async def test_a_sandbox_that_waits_for_its_dead_parent_is_not_taken_for_the_program(folder: Path) -> None:
    record = new_record("qemu", "", is_sandboxed=True)
    pid = stuck_sandbox(record.token, folder)
    write_pidfile(folder / "qemu.pid", record)
    assert await adopt(folder / "qemu.pid") is None
    until(lambda: (stat := stat_of(pid)) is None or stat.is_zombie)
    assert not (folder / "qemu.pid").exists()


async def test_what_no_pidfile_names_is_ended_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    other_folder = tmp_path / "other-agent"
    lost = stuck_sandbox("lost", folder)
    named = new_record("qemu", "", is_sandboxed=True)
    known = stuck_sandbox(named.token, folder)
    (folder / "vms/web").mkdir(parents=True)
    write_pidfile(folder / "vms/web/qemu.pid", named)
    foreign = stuck_sandbox("foreign", other_folder)
    try:
        swept = await sweep_processes(folder)
        assert [word.split()[0] for word in swept] == ["bwrap"]
        until(lambda: identity_of(lost) is None)
        assert identity_of(known) is not None
        assert identity_of(foreign) is not None
    finally:
        kill_carriers("foreign")


async def test_what_the_living_agent_runs_itself_is_left_alone(folder: Path) -> None:
    running = asyncio.create_task(run_tool(["sleep", "0.5"], deadline_s=10))
    while not of_owner(folder):
        await asyncio.sleep(0.01)
    assert await sweep_processes(folder) == []
    assert (await running)[0] == 0
