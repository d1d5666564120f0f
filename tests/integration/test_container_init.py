"""The init of a container's guest, in a real QEMU: what its program finds, how it is watched, and how it ends."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from container_guest import MIB, SOON_S, Guest, booted, config_of, image_folder, missing
from lockstep_support import GUEST_ADDRESS, RUNTIME, Copy

from hostagent.drivers.guest import GuestRefusedError
from hostagent.drivers.guest.frames import HEADER, Frame, FrameType
from vdc.model.guest import GuestVolume

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")
FOREVER = {"command": ["sh", "-c", "echo up; while :; do sleep 1; done"]}


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    with image_folder() as folder:
        yield folder


async def answer_over_http(guest_pair: object) -> bytes:
    pair = guest_pair
    reader, writer = await pair.open(8080)  # type: ignore[attr-defined]
    writer.write(b"GET /index.html HTTP/1.0\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), SOON_S)
    writer.close()
    return bytes(answer)


async def test_what_the_program_finds(image: Path) -> None:
    config = config_of(
        env=[{"name": "GREETING", "value": "hello there"}],
        files=[{"path": "/etc/app/conf", "content": "a=1\n", "mode": 0o600}],
        emptyDirs=[{"path": "/srv/scratch", "medium": "Memory", "sizeLimit": "1Mi"}],
        volumes=(GuestVolume(disk=1, path="/data/seeded"),),
        readinessProbe={"httpGet": {"port": 8080, "path": "/index.html"}, "periodSeconds": 1},
    )
    async with booted(image, config) as (pair, guest):
        await guest.wait(lambda status: status.ready)
        assert sorted(guest.said()) == ["stderr F err", "stdout F 1 web hello there"]
        assert (await answer_over_http(pair)).endswith(b"hello\n")

        assert (await guest.sh("cat /etc/hostname /etc/resolv.conf")).splitlines() == [
            "web", "search vdc.internal", "nameserver 10.99.0.1",
        ]  # fmt: skip
        assert f"{GUEST_ADDRESS}\tweb.vdc.internal web" in await guest.sh("cat /etc/hosts")
        assert await guest.sh("cat /etc/app/conf; cat /data/seeded/file") == "a=1\nfrom the image\n"
        mounts = await guest.sh("cat /proc/mounts")
        for line in (
            "/dev/vda / ext4 rw,", "/dev/vdb /data/seeded ext4 rw,", "tmpfs /srv/scratch tmpfs rw,",
            "cgroup2 /sys/fs/cgroup cgroup2 ", "devpts /dev/pts devpts ", "tmpfs /dev/shm tmpfs ", "proc /proc proc ",
        ):  # fmt: skip
            assert line in mounts, mounts
        size_kib = int((await guest.sh("df -k / | tail -n 1")).split()[1])
        assert size_kib > 2.8 * 1024 * 1024  # grown to its disk
        # No IPv6 on the NIC, and none of the words that it would say by itself.
        assert GUEST_ADDRESS in await guest.sh("cat /proc/net/fib_trie")
        assert "eth0" not in await guest.sh("cat /proc/net/if_inet6")
        assert await guest.sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start") == "0\n"
        assert "crng init done" in await guest.sh("busybox dmesg | grep random:")  # nobody waits for numbers
        assert await guest.sh("ls -ld /data/seeded | head -c 10") == "drwxr-s---"

        nics = (await guest.line.ask("addresses", deadline_s=SOON_S))["nics"]
        assert nics == [{"mac": "52:54:00:99:00:00", "addresses": [GUEST_ADDRESS]}]


async def test_commands_and_files(image: Path) -> None:
    async with booted(image, config_of(**FOREVER)) as (_, guest):
        await guest.is_running()
        assert (await guest.run("sh", "-c", "exit 7"))[0] == 7
        assert (await guest.run("sh", "-c", "kill -9 $$"))[0] == 137
        assert (await guest.run("no-such-program"))[0] == 127
        data = os.urandom(3 * MIB)
        assert await guest.run("cat", stdin=data) == (0, data, b"")
        code, out, _ = await guest.run("sh", "-c", "busybox tty; stty size", tty=True, rows=40, columns=100)
        assert (code, out.split()) == (0, [b"/dev/pts/0", b"40", b"100"])
        assert await guest.run("id", "-u", user="app") == (0, b"1000\n", b"")
        # Beside the program: its processes are seen, those of the init are not.
        assert "while :; do sleep 1" in (await guest.sh("cat /proc/1/cmdline")).replace("\0", " ")

        async with await guest.line.open({"op": "write", "path": "/srv"}) as stream:
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as archive:
                member = tarfile.TarInfo("new/file")
                member.size, member.mode, member.uid = len(data), 0o640, 1000
                archive.addfile(member, io.BytesIO(data))
            await stream.write(packed.getvalue())
            await stream.end_input()
            assert (await stream.answer())["files"] == 1
        assert (await guest.sh("ls -ln /srv/new/file")).split()[2] == "1000"
        async with await guest.line.open({"op": "read", "path": "/srv/new"}) as stream:
            copied = b""
            while (piece := await stream.read()) is not None:
                copied += piece.data
        with tarfile.open(fileobj=io.BytesIO(copied)) as archive:
            file = archive.extractfile("new/file")
            assert file is not None and file.read() == data


async def test_a_stop_leaves_clean_disks(image: Path, tmp_path: Path) -> None:
    script = "trap 'echo saved > /srv/state; echo bye; exit 0' QUIT; echo up; while :; do sleep 0.1; done"
    config = config_of(command=["sh", "-c", script], stopSignal="SIGQUIT", stopSeconds=30)
    async with booted(image, config) as (_, guest):
        await guest.is_running()
        await until(lambda: "stdout F up" in guest.said())
        await guest.line.ask("stop", deadline_s=SOON_S, seconds=20)
        await asyncio.wait_for(guest.has_powered_off.wait(), SOON_S)
        assert guest.said()[-1] == "stdout F bye"
        await guest.copy.qmp.execute("quit")
        await guest.copy.process.wait()
        said = await asyncio.to_thread(check_file_system, guest.copy, image, tmp_path)
        assert "clean" in said and "recovering" not in said


def check_file_system(copy: Copy, image: Path, folder: Path) -> str:
    """What e2fsck thinks of the root disk, which it may not change."""
    copy.folder.chmod(0o755)
    raw = folder / "disk.raw"
    for argv in (
        ["qemu-img", "convert", "-O", "raw", "/vm/disk0.qcow2", "/tmp/disk.raw"],
        ["e2fsck", "-f", "-n", "/tmp/disk.raw"],
        ["dumpe2fs", "-h", "/tmp/disk.raw"],
    ):
        done = subprocess.run(
            ["bwrap", "--ro-bind", f"{RUNTIME.resolve()}/", "/", "--dev", "/dev", "--proc", "/proc",
             "--bind", str(copy.folder), "/vm", "--bind", str(folder), "/tmp",
             "--ro-bind", str(image), "/images", *argv],
            check=False, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
    raw.unlink()
    return done.stdout


async def until(condition: object, what: str = "") -> None:
    async with asyncio.timeout(SOON_S):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.05)


async def test_the_power_button_is_a_stop(image: Path) -> None:
    script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    async with booted(image, config_of(command=["sh", "-c", script])) as (_, guest):
        await until(lambda: "stdout F up" in guest.said())
        await guest.copy.qmp.execute("system_powerdown")
        await asyncio.wait_for(guest.has_powered_off.wait(), SOON_S)
        assert guest.said()[-1] == "stdout F bye"


async def test_frozen_file_systems_are_written_to_afterwards(image: Path) -> None:
    config = config_of(**FOREVER, volumes=(GuestVolume(disk=1, path="/vol"),))
    async with booted(image, config) as (_, guest):
        await guest.is_running()
        assert (await guest.line.ask("freeze", deadline_s=SOON_S, seconds=60))["frozen"] == 2
        with pytest.raises(GuestRefusedError, match="frozen already"):
            await guest.line.ask("freeze", deadline_s=SOON_S, seconds=60)
        writing = asyncio.create_task(guest.sh("echo x > /vol/x; cat /vol/x"))
        await asyncio.sleep(1)
        assert not writing.done()
        assert (await guest.line.ask("thaw", deadline_s=SOON_S))["frozen"] == 2
        assert await writing == "x\n"
        # Whoever froze them may die: they thaw by themselves.
        await guest.line.ask("freeze", deadline_s=SOON_S, seconds=2)
        assert await guest.sh("echo y > /vol/y; cat /vol/y") == "y\n"


async def test_a_restart_and_a_program_that_ends(image: Path) -> None:
    async with booted(image, config_of(**FOREVER)) as (_, guest):
        before = await guest.is_running()
        await guest.line.ask("restart", deadline_s=SOON_S)
        after = await guest.wait(lambda status: status.state == "running" and status.restarts == 1)
        assert after.pid != before.pid
    async with booted(image, config_of(command=["sh", "-c", "exit 3"], restartPolicy="Never")) as (_, guest):
        status = await guest.wait(lambda status: status.state == "ended")
        assert (status.exit_code, status.reason) == (3, "it ended with the exit code 3")
        # Nobody's namespaces are there any more; the image still can be looked at.
        assert await guest.sh("cat /etc/passwd | head -n 1") == "root:x:0:0::/root:/bin/sh\n"


async def test_used_up_memory_is_told(image: Path) -> None:
    eat = "x=a; while :; do x=$x$x; done"
    async with booted(image, config_of(command=["sh", "-c", eat], restartPolicy="Never")) as (_, guest):
        status = await guest.wait(lambda status: status.state == "ended")
        assert status.exit_code == 137 and "memory" in status.reason


async def test_liveness_ends_and_starts_it(image: Path) -> None:
    config = config_of(
        command=["sh", "-c", "touch /tmp/well; echo up; while :; do sleep 0.2; done"],
        livenessProbe={
            "exec": {"command": ["cat", "/tmp/well"]},
            "periodSeconds": 1,
            "failureThreshold": 2,
            "timeoutSeconds": 20,
        },
        stopSeconds=1,
    )
    async with booted(image, config) as (_, guest):
        await until(lambda: "stdout F up" in guest.said())
        await guest.sh("rm /tmp/well")
        status = await guest.wait(lambda status: status.restarts == 1 and status.state == "running")
        assert status.exit_code is not None


@pytest.mark.parametrize(
    ("what", "word"), [("no disk", "vda"), ("no program", "127"), ("no file system", "does not mount")]
)
async def test_what_keeps_it_from_starting_is_told(image: Path, what: str, word: str) -> None:
    config = config_of(**FOREVER, restartPolicy="Never")
    changes: dict[str, object] = {}
    if what == "no program":
        config = config_of(command=["/no/such"], restartPolicy="Never")
    elif what == "no disk":
        changes["disks"] = 0
    else:
        config = config_of(**FOREVER, volumes=(GuestVolume(disk=1, path="/etc/passwd"),))
        word = "the image has a file at /etc/passwd"
    async with booted(image, config, **changes) as (_, guest):
        status = await guest.wait(lambda status: status.state == "ended")
        assert word in status.reason or status.exit_code == 127
        assert not status.ready


async def test_much_output_arrives_whole(image: Path) -> None:
    script = (
        "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done;"
        " head -c 100000 /dev/zero | busybox tr '\\0' x; echo; echo end"
    )
    async with booted(image, config_of(command=["sh", "-c", script], restartPolicy="Never")) as (_, guest):
        await guest.wait(lambda status: status.state == "ended")
        said = guest.said()
        assert said[:3000] == [f"stdout F {i}" for i in range(3000)]
        parts = said[3000:-1]
        assert [part[7] for part in parts] == ["P"] * (len(parts) - 1) + ["F"]
        assert "".join(part[9:] for part in parts) == "x" * 100_000 and said[-1] == "stdout F end"


async def test_the_channel_survives_every_agent(image: Path) -> None:
    """Agents that die in the middle of frames, that send anything, that ask too much."""
    path_of = "guest.sock"
    reset = Frame(FrameType.RESET, 0, bytes(16)).encoded()
    exec_cat = Frame(FrameType.OPEN, 1, json.dumps({"op": "exec", "argv": ["cat"]}).encode()).encoded()
    huge = HEADER.pack(b"VG", 3, 0, 1, 2**31)
    many = b"".join(
        Frame(FrameType.OPEN, n, json.dumps({"op": "exec", "argv": ["sleep", "1000"]}).encode()).encoded()
        for n in range(1, 66)
    )
    async with booted(image, config_of(**FOREVER)) as (_, guest):
        await guest.is_running()
        await guest.close()
        socket = str(guest.copy.folder / path_of)
        for text in (
            b"", reset, reset[:5], os.urandom(5000), reset + exec_cat, reset + exec_cat[:20], reset + huge,
            reset + exec_cat + HEADER.pack(b"VG", 3, 0, 1, 65536) + b"x" * 1000, reset + many, b"VG" * 3000,
        ):  # fmt: skip
            _, writer = await asyncio.open_unix_connection(socket)
            writer.write(text)
            await writer.drain()
            writer.close()
            assert (await guest.status()).state == "running"
            await guest.close()
        streams = [
            await guest.line.open({"op": "exec", "argv": ["sleep", "1000"]}) for _ in itertools.repeat(0, 60)
        ]
        assert (await guest.status()).restarts == 0
        for stream in streams:
            stream.cancel()
        async with asyncio.timeout(SOON_S):
            while "sleep 1000" in await guest.sh(
                "cat /proc/[0-9]*/cmdline 2>/dev/null | busybox tr '\\0' ' '"
            ):
                await asyncio.sleep(0.2)


async def test_an_idle_init_sleeps(image: Path) -> None:
    """What an init does by itself would have to cross to the other copy."""
    async with booted(image, config_of(command=["true"], restartPolicy="Never")) as (_, guest):
        await guest.wait(lambda status: status.state == "ended")
        samples = [await switches(guest), await switches(guest)]
        await asyncio.sleep(20)
        samples.append(await switches(guest))
        asked, slept = (
            sum(count - before.get(thread, 0) for thread, count in after.items())
            for before, after in itertools.pairwise(samples)
        )
        # Being asked takes some dozens itself. A timer of 10 Hz would be 200 more.
        assert slept < 2 * asked + 60


async def switches(guest: Guest) -> dict[str, int]:
    """How often each of the init's threads went on. Seen while no program runs: from its namespaces they cannot be."""
    await guest.close()
    threads: dict[str, int] = {}
    for line in (await guest.sh("cat /proc/1/task/*/status 2>/dev/null; true")).splitlines():
        name, value = line.split()[:2] if len(line.split()) > 1 else ("", "")
        if name == "Pid:":
            thread = value
            threads[thread] = 0
        elif name.endswith("voluntary_ctxt_switches:"):
            threads[thread] += int(value)
    return threads
