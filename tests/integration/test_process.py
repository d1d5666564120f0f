"""Real processes: started detached, adopted, killed, reaped; with and without a sandbox."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from hostagent.drivers.process import (
    Backoff,
    ProcessHandle,
    ProcessStartError,
    Supervised,
    adopt,
    identity_of,
    spawn,
    spawn_in_sandbox,
)
from hostagent.drivers.process import handle as process_handle
from hostagent.drivers.process.identity import children_of, stat_of
from hostagent.drivers.process.pidfile import read_pidfile, write_pidfile

REPOSITORY = Path(__file__).parents[2]
SANDBOX = ("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc")
needs_bwrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap")
WAIT_S = 10.0


def exists(pid: int) -> bool:
    """Whether anything, a zombie included, has that pid."""
    return stat_of(pid) is not None


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


class Bench:
    """One folder, and everything that was started from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pidfile = folder / "pid"
        self.log = folder / "log"
        self.handles: list[ProcessHandle] = []

    async def spawn(self, *argv: str, **options: object) -> ProcessHandle:
        return await self._start(spawn, *argv, **options)

    async def sandboxed(self, *argv: str, **options: object) -> ProcessHandle:
        return await self._start(spawn_in_sandbox, *SANDBOX, *argv, **options)

    async def _start(
        self, function: Callable[..., Awaitable[ProcessHandle]], *argv: str, **options: object
    ) -> ProcessHandle:
        handle = await function(argv, pidfile=self.pidfile, log_path=self.log, **options)
        self.handles.append(handle)
        return handle

    async def adopt(self) -> ProcessHandle | None:
        handle = await adopt(self.pidfile)
        if handle:
            self.handles.append(handle)
        return handle


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Ends with nothing left running and no descriptor left open."""
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    children = children_of(os.getpid())
    bench = Bench(tmp_path)
    yield bench
    for handle in bench.handles:
        handle.kill()
        handle.close()
    await until(lambda: not any(handle.is_alive() for handle in bench.handles))
    for handle in bench.handles:
        for identity in (handle.identity, handle.monitor_identity):
            if identity and exists(identity.pid):  # let go with `close`, so it is reaped here
                await until(lambda pid=identity.pid: _is_reaped(pid))  # type: ignore[misc]
    assert children_of(os.getpid()) == children
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def _is_reaped(pid: int) -> bool:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return not exists(pid)


async def test_what_a_program_has_of_the_processors_is_counted(bench: Bench) -> None:
    handle = await bench.spawn("sh", "-c", "while :; do :; done")
    began = time.monotonic()
    await until(lambda: handle.processor_time().ran_s > 0.2)
    had = handle.processor_time()
    assert had.ran_s <= had.wanted_s <= time.monotonic() - began + 0.5
    await handle.terminate()
    assert handle.processor_time().wanted_s == 0


async def test_a_program_is_detached(bench: Bench) -> None:
    script = "import os,sys,json; print(sorted(map(int, os.listdir('/proc/self/fd')))); sys.stdin.read()"
    extra = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(extra, True)
    handle = await bench.spawn(sys.executable, "-c", script + "; import time; time.sleep(60)", tag="t")
    os.close(extra)
    await until(lambda: bench.log.exists() and bench.log.read_text() != "")
    assert bench.log.read_text() == "[0, 1, 2, 3]\n"  # 3 reads the listing
    assert os.getsid(handle.pid) == handle.pid != os.getsid(0)
    record = read_pidfile(bench.pidfile)
    assert record and record.identity == handle.identity == identity_of(handle.pid)
    assert (record.argv0, record.tag) == (sys.executable, "t")


async def test_environment_folder_and_descriptors_are_as_asked(bench: Bench) -> None:
    reader, writer = os.pipe()
    handle = await bench.spawn(
        "/bin/sh",
        "-c",
        f"echo $X $HOME $PWD >/proc/self/fd/{writer}",
        env={"X": "1"},
        cwd=Path("/"),
        pass_fds=[writer],
    )
    os.close(writer)
    await handle.wait_gone()
    assert os.read(reader, 100) == b"1 /\n"
    os.close(reader)


async def test_the_log_is_appended_to(bench: Bench) -> None:
    for _ in range(2):
        assert await (await bench.spawn("/bin/sh", "-c", "echo out; echo err >&2")).wait_gone() == 0
    assert bench.log.read_text() == "out\nerr\n" * 2


@pytest.mark.parametrize(("command", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", -15)])
async def test_the_end_is_told_and_nothing_stays(bench: Bench, command: str, status: int) -> None:
    handle = await bench.spawn("/bin/sh", "-c", command)
    assert await handle.wait_gone() == status
    assert not handle.is_alive() and not exists(handle.pid) and not bench.pidfile.exists()
    assert not handle.kill() and not handle.signal(signal.SIGTERM)
    await handle.wait()
    assert await handle.terminate() == status


async def test_death_is_noticed_at_once_by_all_who_wait(bench: Bench) -> None:
    handle = await bench.spawn("sleep", "60")
    waiting = [asyncio.create_task(handle.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    started = time.monotonic()
    assert handle.kill()
    await asyncio.gather(*waiting)
    assert time.monotonic() - started < 10
    assert handle.returncode == -signal.SIGKILL and not exists(handle.pid)


async def test_a_program_that_ignores_sigterm_is_killed(bench: Bench) -> None:
    handle = await bench.spawn("/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    await until(lambda: bench.log.read_text() == "ready\n")
    assert await handle.terminate(grace_s=0.2) == -signal.SIGKILL


async def test_a_stopped_program_is_killed(bench: Bench) -> None:
    handle = await bench.spawn(
        "/bin/sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    )
    await until(lambda: bench.log.read_text() == "ready\n")
    handle.signal(signal.SIGSTOP)
    assert await handle.terminate(grace_s=0.1) == -signal.SIGKILL


@pytest.mark.parametrize("argv", [["/no/such/program"], ["/etc/passwd"]])
async def test_what_cannot_start_leaves_nothing(bench: Bench, argv: list[str]) -> None:
    with pytest.raises(ProcessStartError, match=argv[0]) as caught:
        await bench.spawn(*argv)
    assert caught.value.code == "process-start-failed"
    assert not bench.pidfile.exists()


async def test_an_unwritable_pidfile_starts_nothing(bench: Bench) -> None:
    bench.pidfile = bench.folder / "absent" / "pid"
    with pytest.raises(ProcessStartError):
        await bench.spawn("touch", str(bench.folder / "ran"))
    assert not (bench.folder / "ran").exists()


@pytest.mark.parametrize("has_sandbox", [False, pytest.param(True, marks=needs_bwrap)])
async def test_a_cancelled_start_leaves_nothing(bench: Bench, has_sandbox: bool) -> None:
    duration = f"61.{os.getpid()}"
    for delay_s in (0.0, 0.001, 0.002, 0.003, 0.004, 0.006, 0.01) * 5:
        start = bench.sandboxed if has_sandbox else bench.spawn
        task = asyncio.create_task(start("sleep", duration))
        await asyncio.sleep(delay_s)
        task.cancel()
        try:
            await (await task).terminate(0)
        except asyncio.CancelledError:
            assert not bench.pidfile.exists()
        listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert f"sleep {duration}" not in listing


async def test_an_agent_that_was_killed_leaves_it_alive_for_the_next(bench: Bench) -> None:
    handle = await start_by_another_agent(bench)
    assert handle.is_alive() and handle.tag == "guest"
    waiting = asyncio.create_task(handle.wait())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    handle.kill()
    await waiting
    assert not handle.is_alive() and handle.returncode is None  # not our child
    await handle.wait_gone()
    assert not bench.pidfile.exists()


@needs_bwrap
async def test_a_sandboxed_program_is_adopted_with_its_monitor(bench: Bench) -> None:
    handle = await start_by_another_agent(bench, function="spawn_in_sandbox", prefix=SANDBOX)
    assert handle.is_alive() and handle.monitor_identity and handle.monitor_identity.pid != handle.pid
    handle.kill()
    assert await handle.wait_gone() is None
    assert identity_of(handle.monitor_identity.pid) is None


async def start_by_another_agent(
    bench: Bench, function: str = "spawn", prefix: tuple[str, ...] = ()
) -> ProcessHandle:
    """Let another Python process start a program and be killed; adopt the program."""
    script = textwrap.dedent(f"""
        import asyncio, os, signal
        from pathlib import Path
        from hostagent.drivers.process import {function}
        async def main():
            await {function}({[*prefix, "sleep", "60"]!r}, pidfile=Path({str(bench.pidfile)!r}),
                log_path=Path({str(bench.log)!r}), tag="guest")
            os.killpg(0, signal.SIGKILL)
        asyncio.run(main())
    """)
    command = [sys.executable, "-c", script]
    agent = await asyncio.create_subprocess_exec(*command, cwd=REPOSITORY, start_new_session=True)
    assert await agent.wait() == -signal.SIGKILL
    handle = await bench.adopt()
    assert handle
    return handle


async def test_a_stale_pidfile_is_removed(bench: Bench) -> None:
    assert await bench.adopt() is None
    handle = await bench.spawn("sleep", "60")
    text = bench.pidfile.read_text()
    record = read_pidfile(bench.pidfile)
    assert record and record.identity
    earlier = record.identity.with_(start_ticks=record.identity.start_ticks - 1)
    write_pidfile(bench.pidfile, record.with_(identity=earlier))
    assert await bench.adopt() is None and not bench.pidfile.exists()
    assert handle.is_alive()  # the pid is in use by a process that it did not mean
    bench.pidfile.write_text(text)
    await handle.terminate(0)
    bench.pidfile.write_text(text)
    assert await bench.adopt() is None and not bench.pidfile.exists()
    bench.pidfile.write_text("torn {")
    assert await bench.adopt() is None and not bench.pidfile.exists()


@pytest.mark.parametrize("has_sandbox", [False, pytest.param(True, marks=needs_bwrap)])
async def test_a_start_that_was_interrupted_is_found(bench: Bench, has_sandbox: bool) -> None:
    handle = await (bench.sandboxed if has_sandbox else bench.spawn)("sleep", "60")
    record = read_pidfile(bench.pidfile)
    assert record
    write_pidfile(bench.pidfile, record.with_(identity=None, monitor=None))
    found = await bench.adopt()
    assert found and found.identity == handle.identity
    assert found.monitor_identity == handle.monitor_identity
    assert read_pidfile(bench.pidfile) == record


async def test_closing_lets_it_live_and_adopting_finds_it(bench: Bench) -> None:
    handle = await bench.spawn("sleep", "60")
    handle.close()
    assert handle.is_alive()
    again = await bench.adopt()
    assert again and again.identity == handle.identity


@needs_bwrap
async def test_a_sandboxed_program_is_meant_not_its_sandbox(bench: Bench) -> None:
    handle = await bench.sandboxed("sleep", "60")
    await until(lambda: Path(f"/proc/{handle.pid}/comm").read_text() == "sleep\n")
    monitor = handle.monitor_identity
    assert monitor and Path(f"/proc/{monitor.pid}/comm").read_text() == "bwrap\n"
    assert await handle.terminate() == -signal.SIGTERM
    assert not exists(handle.pid) and not exists(monitor.pid) and not bench.pidfile.exists()


@needs_bwrap
async def test_a_sandboxed_program_outlives_its_monitor(bench: Bench) -> None:
    handle = await bench.sandboxed("sleep", "60")
    assert handle.monitor_identity
    os.kill(handle.monitor_identity.pid, signal.SIGKILL)
    await until(lambda: identity_of(handle.monitor_identity.pid) is None)  # type: ignore[union-attr]
    assert handle.is_alive()
    again = await bench.adopt()
    assert again and again.identity == handle.identity and again.monitor_identity is None
    handle.kill()
    await asyncio.gather(handle.wait_gone(), again.wait_gone())


@needs_bwrap
async def test_a_monitor_that_hangs_is_killed_after_its_program(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_handle, "_MONITOR_GRACE_S", 3.0)
    handle = await bench.sandboxed("sleep", "60")
    assert handle.monitor_identity
    os.kill(handle.monitor_identity.pid, signal.SIGSTOP)
    started = time.monotonic()
    handle.kill()
    await handle.wait()
    assert time.monotonic() - started < 3.0, "the monitor was not waited for"
    await handle.wait_gone()
    assert identity_of(handle.monitor_identity.pid) is None


@needs_bwrap
@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["bwrap", "--no-such-option", "true"], "no-such-option"),
        (["bwrap", "--bind", "/no/such", "/", "true"], "/no/such"),
    ],
)
async def test_a_sandbox_that_cannot_be_made(bench: Bench, argv: list[str], reason: str) -> None:
    """Either it is refused, or it ends at once: the log says why."""
    try:
        handle = await spawn_in_sandbox(argv, pidfile=bench.pidfile, log_path=bench.log)
    except ProcessStartError as error:
        assert reason in str(error) or reason in error.problem.hint
    else:
        assert await handle.wait_gone() == 1
        assert reason in bench.log.read_text()
    assert not bench.pidfile.exists()


async def test_supervised_restarts_and_the_next_agent_takes_over(bench: Bench) -> None:
    def supervised() -> Supervised:
        return Supervised(
            "helper", lambda: bench.spawn("sleep", "60"), bench.pidfile, backoff=Backoff(0.01, 2.0, 0.1)
        )

    first = supervised()
    task = asyncio.create_task(first.run())
    handle = await first.running()
    handle.kill()
    await until(lambda: first.handle is not None and first.handle is not handle)
    restarted = await first.running()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    second = supervised()
    task = asyncio.create_task(second.run())
    adopted = await second.running()
    assert second.is_adopted and adopted.identity == restarted.identity
    await second.stop()
    await task
    assert not adopted.is_alive() and not bench.pidfile.exists()
