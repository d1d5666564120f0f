"""The agent's client of the guest channel and the init that answers it, without a machine between them.

The init's own code runs in namespaces of its own, over a busybox root that stands for an image (images/container).
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hostagent.drivers.guest import Errors, GuestError, GuestRefusedError, GuestStream, Output
from hostagent.drivers.guest.frames import FIRST_CREDIT
from hostagent.supervisor.guestline import GuestLine
from hostagent.supervisor.program import parse_status
from vdc.cli.archive import unpack
from vdc.cli.output import parse_line
from vdc.lab.settings import Settings
from vdc.model.guest import GuestConfig, ProgramStatus
from vdc.model.process import ImageProcess, Process
from vdc.model.program import guest_files, guest_process

SOURCE = Path(__file__).parents[2] / "images/container/init"
SOON_S = 20.0
APPLETS = (
    "sh",
    "cat",
    "sleep",
    "echo",
    "id",
    "env",
    "kill",
    "stty",
    "seq",
    "wc",
    "head",
    "ls",
    "test",
    "touch",
    "rm",
)
# Devices and a terminal as the init would mount them, which the host's /dev must not see.
_SHELL = """
mount -t tmpfs -o mode=755 tmpfs "$1/dev"
for name in null zero tty random; do : > "$1/dev/$name"; mount --bind "/dev/$name" "$1/dev/$name"; done
mkdir "$1/dev/pts"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$1/dev/pts"
mount --bind "$1/dev/pts" /dev/pts && ln -sf pts/ptmx "$1/dev/ptmx"
shift
exec "$@"
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("go") is None or os.getuid():
        pytest.skip("needs go, and root")
    target = tmp_path_factory.mktemp("init") / "onhost"
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}
    subprocess.run(["go", "build", "-o", str(target), "./onhost"], cwd=SOURCE, env=environment, check=True)
    return target


@pytest.fixture(scope="module")
def busybox() -> Path:
    runtime = Settings.from_environment().cache_root / "runtime/current"
    found = next(
        (path for path in (runtime / "bin/busybox", runtime / "usr/bin/busybox") if path.is_file()), None
    )
    if found is None:
        pytest.skip("needs the runtime root's busybox")
    return found


@pytest.fixture
def image(tmp_path: Path, busybox: Path) -> Iterator[Path]:
    """A root with a shell, an account and nothing else."""
    root = tmp_path / "image"
    for folder in ("bin", "dev", "etc", "proc", "tmp", "srv"):
        (root / folder).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/srv:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\napp:x:1001:\n")
    yield root


class Guest:
    """A running init, and the line to it."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.folder, self.process = folder, process
        self.line = GuestLine(folder / "guest.sock", "web")

    async def status(self) -> ProgramStatus:
        return parse_status(await self.line.ask("status", deadline_s=SOON_S))

    async def wait(self, condition: Callable[[ProgramStatus], bool]) -> ProgramStatus:
        async with asyncio.timeout(SOON_S):
            while not condition(status := await self.status()):
                await asyncio.sleep(0.05)
        return status

    async def run(self, *argv: str, stdin: bytes = b"", **more: Any) -> tuple[int, bytes, bytes]:
        request = {
            "op": "exec",
            "argv": list(argv),
            "env": [],
            "working_dir": "",
            "user": "",
            "tty": False,
            **more,
        }
        async with asyncio.timeout(SOON_S), await self.line.open(request) as stream:
            writing = asyncio.create_task(_write(stream, stdin))
            out, err = await _read(stream)
            await writing
            return int((await stream.answer())["exit_code"]), out, err

    def said(self) -> list[tuple[str, str]]:
        entries = map(parse_line, (self.folder / "output.log").read_text().splitlines())
        return [(entry.stream, entry.text) for entry in entries if entry is not None]


async def _write(stream: GuestStream, data: bytes) -> None:
    await stream.write(data)
    await stream.end_input()


async def _read(stream: GuestStream) -> tuple[bytes, bytes]:
    out, err = bytearray(), bytearray()
    while (piece := await stream.read()) is not None:
        (err if isinstance(piece, Errors) else out).extend(piece.data)
    return bytes(out), bytes(err)


@asynccontextmanager
async def guest(tmp_path: Path, program: Path, image: Path, **given: Any) -> AsyncIterator[Guest]:
    """An init that runs a program of the image as a manifest's `process` says."""
    process = Process.model_validate(given)
    config = GuestConfig(
        hostname="web", files=guest_files(process), process=guest_process(process, ImageProcess(), "web", {})
    )
    (tmp_path / "config.json").write_text(config.to_json())
    started = await asyncio.create_subprocess_exec(
        "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", _SHELL, "sh",
        str(image), str(program), str(tmp_path / "guest.sock"), str(image), str(tmp_path / "config.json"),
        str(tmp_path / "output.log"),
    )  # fmt: skip
    running = Guest(tmp_path, started)
    try:
        async with asyncio.timeout(SOON_S):
            while not (tmp_path / "guest.sock").exists():
                assert started.returncode is None
                await asyncio.sleep(0.02)
        yield running
    finally:
        await running.line.close()
        if started.returncode is None:
            started.kill()
        await started.wait()


FOREVER = {"command": ["sh", "-c", "echo out; echo err >&2; exec sleep 1000"]}


async def test_the_programs_status_and_output(tmp_path: Path, program: Path, image: Path) -> None:
    async with guest(tmp_path, program, image, **FOREVER) as one:
        status = await one.wait(lambda status: status.state == "running")
        assert status.ready and status.pid and status.restarts == 0 and status.started_at.endswith("Z")
        async with asyncio.timeout(SOON_S):
            while sorted(one.said()) != [("stderr", "err"), ("stdout", "out")]:
                await asyncio.sleep(0.05)


async def test_a_program_that_ends_is_started_again_or_not(
    tmp_path: Path, program: Path, image: Path
) -> None:
    ends = {"command": ["sh", "-c", "exit 3"]}
    async with guest(tmp_path, program, image, **ends, restartPolicy="Never") as one:
        status = await one.wait(lambda status: status.state == "ended")
        assert (status.exit_code, status.pid, status.ready) == (3, 0, False) and status.reason
    (tmp_path / "guest.sock").unlink()
    async with guest(tmp_path, program, image, **ends) as one:
        status = await one.wait(lambda status: status.state == "waiting")
        assert status.exit_code == 3 and status.reason


async def test_commands_have_their_own_streams_and_exit_code(
    tmp_path: Path, program: Path, image: Path
) -> None:
    async with guest(tmp_path, program, image, **FOREVER, env=[{"name": "A", "value": "1"}]) as one:
        assert await one.run("sh", "-c", "echo out; echo err >&2; exit 42") == (42, b"out\n", b"err\n")
        assert await one.run("cat", stdin=b"in") == (0, b"in", b"")
        code, out, _ = await one.run(
            "sh", "-c", "id -u; id -g; pwd; echo $A$B", user="app", working_dir="/srv", env=["B=2"]
        )
        assert (code, out) == (0, b"1000\n1001\n/srv\n12\n")
        assert (await one.run("nosuch"))[0] == 127
        assert (await one.run("/etc/passwd"))[0] == 126
        assert (await one.run("sh", "-c", "kill -TERM $$"))[0] == 128 + 15


async def test_much_passes_both_ways_at_once(tmp_path: Path, program: Path, image: Path) -> None:
    data = os.urandom(8 * FIRST_CREDIT)
    async with guest(tmp_path, program, image, **FOREVER) as one:
        answers = await asyncio.gather(*(one.run("cat", stdin=data) for _ in range(3)))
        assert [(code, out == data, err) for code, out, err in answers] == [(0, True, b"")] * 3


async def test_a_reader_that_takes_its_time_stops_the_command_and_nothing_else(
    tmp_path: Path, program: Path, image: Path
) -> None:
    async with guest(tmp_path, program, image, **FOREVER) as one:
        request = {"op": "exec", "argv": ["cat", "/dev/zero"]}
        async with await one.line.open(request) as stream:
            assert isinstance(await stream.read(), Output)
            assert await one.run("echo", "still here") == (0, b"still here\n", b"")
        assert (await one.status()).state == "running"


async def test_a_command_is_ended_with_its_request(tmp_path: Path, program: Path, image: Path) -> None:
    async with guest(tmp_path, program, image, **FOREVER) as one:
        async with await one.line.open({"op": "exec", "argv": ["sh", "-c", "touch /tmp/begun; sleep 1000"]}):
            while not (image / "tmp/begun").exists():
                await asyncio.sleep(0.02)
        script = "for p in /proc/[0-9]*; do cat $p/cmdline 2>/dev/null; echo; done"
        async with asyncio.timeout(SOON_S):
            while b"begun" in (await one.run("sh", "-c", script))[1]:
                await asyncio.sleep(0.05)


async def test_a_terminal_has_a_size_and_signals_arrive(tmp_path: Path, program: Path, image: Path) -> None:
    async with guest(tmp_path, program, image, **FOREVER) as one:
        code, out, _ = await one.run("stty", "size", tty=True, rows=50, columns=132)
        assert (code, out.strip()) == (0, b"50 132")
        argv = ["sh", "-c", "trap 'exit 9' INT; echo ready; while :; do sleep 1; done"]
        async with asyncio.timeout(SOON_S), await one.line.open({"op": "exec", "argv": argv}) as stream:
            assert await stream.read() == Output(b"ready\n")
            await stream.control(b'{"signal": "INT"}')
            assert (await stream.answer())["exit_code"] == 9


async def test_files_go_in_and_come_out(tmp_path: Path, program: Path, image: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in (("tree/a", b"x" * 300_000), ("tree/" + "long" * 40, b"y")):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o640
            tar.addfile(member, io.BytesIO(content))
    async with guest(tmp_path, program, image, **FOREVER) as one:
        async with asyncio.timeout(SOON_S), await one.line.open({"op": "write", "path": "/srv"}) as stream:
            await _write(stream, archive.getvalue())
            assert (await stream.answer())["files"] == 2
        assert await one.run("sh", "-c", "wc -c < /srv/tree/a") == (0, b"300000\n", b"")
        async with (
            asyncio.timeout(SOON_S),
            await one.line.open({"op": "read", "path": "/srv/tree"}) as stream,
        ):
            out, _ = await _read(stream)
            await stream.answer()
    done = unpack(io.BytesIO(out), tmp_path, "copy", expected="tree", most_bytes=1 << 30)
    assert done.files == 2 and (tmp_path / "copy/a").read_bytes() == b"x" * 300_000


@pytest.mark.parametrize(
    ("operation", "fields"),
    [
        ("read", {"path": "/nowhere"}),
        ("write", {"path": "/nowhere"}),
        ("read", {"path": "x"}),
        ("nonsense", {}),
    ],
)
async def test_what_cannot_be_done_is_said(
    tmp_path: Path, program: Path, image: Path, operation: str, fields: dict[str, str]
) -> None:
    async with guest(tmp_path, program, image, **FOREVER) as one:
        with pytest.raises(GuestRefusedError):
            await one.line.ask(operation, deadline_s=SOON_S, **fields)
        await one.wait(lambda status: status.state == "running")


async def test_another_agent_goes_on_where_one_left_off(tmp_path: Path, program: Path, image: Path) -> None:
    async with guest(tmp_path, program, image, **FOREVER) as one:
        stream = await one.line.open({"op": "exec", "argv": ["cat", "/dev/zero"]})
        await stream.read()
        channel = await one.line.channel()
        channel._writer.transport.abort()
        await channel.closed.wait()
        with pytest.raises(GuestError):
            while await stream.read():
                pass
        assert await one.run("echo", "again") == (0, b"again\n", b"")


async def test_a_stop_sends_the_stop_signal_and_ends_the_guest(
    tmp_path: Path, program: Path, image: Path
) -> None:
    script = "trap 'echo saved; exit 0' QUIT; echo up; while :; do sleep 0.1; done"
    given = {"command": ["sh", "-c", script], "stopSignal": "SIGQUIT"}
    async with guest(tmp_path, program, image, **given) as one:
        async with asyncio.timeout(SOON_S):
            while ("stdout", "up") not in one.said():
                await asyncio.sleep(0.02)
            await one.line.ask("stop", deadline_s=SOON_S, seconds=10)
            await one.process.wait()
        assert ("stdout", "saved") in one.said()
