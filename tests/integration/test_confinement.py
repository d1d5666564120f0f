"""From the point of view of a QEMU that was taken over: a probe in its place reaches nothing that is not its own.

Each attempt is made twice: by the probe where `spawn_guest` puts it, and, as a control, by the same program as
root outside of it, where it has to succeed. So none is refused for another reason than the confinement.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lockstep_support import RUNTIME, missing
from throwaway_namespace import Namespace

from hostagent.drivers.net import open_taps, underlay
from hostagent.drivers.process import ProcessHandle
from hostagent.drivers.process.cgroup import Groups, Limits, Place, v2_place
from hostagent.drivers.process.pidfile import OWNER_VARIABLE, TOKEN_VARIABLE
from hostagent.drivers.process.users import GuestFolders, owner_of
from hostagent.drivers.qemu.sockets import HOST
from hostagent.supervisor.confinement import QEMU_LOG, spawn_guest

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

MIB = 1024**2
UIDS = range(1_900_200_000, 1_900_200_100)
PROBE = Path(__file__).with_name("confinement_probe.c")
REFUSALS = {"EPERM", "EACCES", "EROFS", "ENOENT", "ESRCH", "EXDEV", "EAFNOSUPPORT", "ENETUNREACH", "ENODEV"}
LIMITS = Limits(memory_bytes=64 * MIB, pids=32, cpu_weight=100)
DONE_S = 20.0
ADDRESS = "10.99.0.1"  # of the namespace's bridge


@pytest.fixture(scope="module")
def probe() -> Iterator[Path]:
    """The program, which needs nothing of any system around it."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc (make setup)")
    with tempfile.TemporaryDirectory(prefix="vdct-") as folder:
        program = Path(folder) / "probe"
        subprocess.run(["gcc", "-O1", "-static", "-o", str(program), str(PROBE)], check=True, timeout=60)
        yield program


@pytest.fixture
def network() -> Iterator[Namespace]:
    """A network namespace that this thread, and what it starts, is in."""
    libc = ctypes.CDLL(None, use_errno=True)
    namespace = Namespace(1)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace.name}", os.O_RDONLY)
    try:
        assert libc.setns(there, 0) == 0
        yield namespace
    finally:
        assert libc.setns(own, 0) == 0
        os.close(own)
        os.close(there)
        namespace.remove()


@pytest.fixture
def groups() -> Iterator[Groups]:
    """Control groups as an agent finds them, in a group that is removed with all that is in it."""
    name, root = f"vdct-{secrets.token_hex(3)}", Path("/sys/fs/cgroup")
    places, made = [], list[Path]()
    for controller in ("memory", "pids", "cpu"):
        if (root / controller / "cgroup.procs").exists():
            made.append(root / controller / name)
            made[-1].mkdir()
            places.append(Place(made[-1], (controller,), is_v2=False))
    if not places and (root / "cgroup.controllers").exists():
        made = [root / name, root / name / "agent"]
        for folder in made:
            folder.mkdir()
        places += [place for place in (v2_place(made[1]),) if place is not None]
    try:
        yield Groups(tuple(places))
    finally:
        for base in made[:1] if len(made) == 2 else made:
            for folder in sorted((path for path in base.rglob("*") if path.is_dir()), reverse=True):
                folder.rmdir()
            base.rmdir()


class Host:
    """A state directory with two guests, an administrator's socket, keys, and processes that are none of theirs."""

    def __init__(self, folder: Path, probe: Path, groups: Groups) -> None:
        self.folder, self.probe, self.groups = folder, probe, groups
        self.handles: list[ProcessHandle] = []
        self.others: list[subprocess.Popen[bytes]] = []
        guests = GuestFolders(folder / "vms", UIDS)
        self.guest, self.other = guests.own("web", "web"), guests.own("other", "other")
        for path in (self.guest / "disk0.qcow2", self.other / "disk0.qcow2"):
            path.write_bytes(b"a guest's secrets")
            path.chmod(0o600)
            os.chown(path, owner_of(path.parent), owner_of(path.parent))
        (folder / "vms/web/agent.json").write_text("{}")
        (folder / "pki").mkdir(mode=0o700)
        (folder / "pki/host.key").write_text("a key")
        (folder / "images").mkdir()
        (folder / "images/blob").write_text("an image")
        self.api = socket.socket(socket.AF_UNIX)
        self.api.bind(str(folder / "api.sock"))
        self.management = socket.socket()
        self.management.bind((ADDRESS, 0))
        for listener in (self.api, self.management):
            listener.listen()
        shutil.copy(probe, self.guest / "probe")
        uid = str(owner_of(self.guest))
        alike = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "sleep", "1000"]
        self.others = [subprocess.Popen(["sleep", "1000"]), subprocess.Popen(alike)]

    async def run(self, *arguments: str, pass_fds: Sequence[int] = ()) -> ProcessHandle:
        """The probe, exactly as QEMU is started."""
        assert self.groups.create("web", LIMITS) == ""
        handle = await spawn_guest(
            ["/vm/probe", *arguments], self.folder / "vms/web", self.guest, runtime_root=RUNTIME.resolve(),
            image_dir=self.folder / "images", accelerator="tcg", tag="t", join=self.groups.joiner("web", print),
            pass_fds=pass_fds,
        )  # fmt: skip
        self.handles.append(handle)
        return handle

    async def said(self, last: str = "done") -> list[str]:
        """What it has written when it has written a line that begins so."""
        log = self.folder / "vms/web" / QEMU_LOG
        async with asyncio.timeout(DONE_S):
            while not (lines := log.read_text().splitlines()) or not lines[-1].startswith(last):
                await asyncio.sleep(0.02)
        return lines

    async def attempts(self, tried: dict[str, str], pass_fds: Sequence[int] = ()) -> dict[str, str]:
        """What came of each attempt, inside."""
        await self.run("attempts", *_words(tried), pass_fds=pass_fds)
        return _outcomes(await self.said())

    def control(self, tried: dict[str, str], pass_fds: Sequence[int] = ()) -> dict[str, str]:
        """What comes of them as root, outside."""
        with subprocess.Popen(
            [self.probe, "attempts", *_words(tried)], stdout=subprocess.PIPE, text=True, pass_fds=pass_fds
        ) as one:
            assert one.stdout is not None
            lines = []
            while not lines or lines[-1] != "done":
                lines.append(one.stdout.readline().rstrip("\n"))
            one.kill()
        return _outcomes(lines)

    async def close(self) -> None:
        for handle in self.handles:
            await handle.terminate(0)
        for other in self.others:
            other.kill()
            other.wait()
        self.api.close()
        self.management.close()
        self.groups.remove("web")


def _words(tried: dict[str, str]) -> list[str]:
    return [f"{name}={argument}" if argument else name for name, argument in tried.items()]


def _outcomes(lines: list[str]) -> dict[str, str]:
    return dict(line.split() for line in lines if " " in line)


@pytest.fixture
async def host(probe: Path, network: Namespace, groups: Groups) -> AsyncIterator[Host]:
    with tempfile.TemporaryDirectory(prefix="vdct-") as folder:
        made = Host(Path(folder), probe, groups)
        try:
            yield made
        finally:
            await made.close()


async def test_it_reaches_nothing_that_is_not_its_own(host: Host, network: Namespace) -> None:
    network.add_tap("foreign0")
    root_pid, alike_pid = (str(one.pid) for one in host.others)
    port = host.management.getsockname()[1]
    state = str(host.folder)
    both = {
        "read-shadow": "/etc/shadow",
        "read-another-disk": f"{state}/vms/other/guest/disk0.qcow2",
        "read-own-record": f"{state}/vms/web/agent.json",
        "write-own-record": f"{state}/vms/web/agent.json",
        "read-key": f"{state}/pki/host.key",
        "unix-api": f"{state}/api.sock",
        "tcp-management": f"{ADDRESS}:{port}",
        "kill-root": root_pid,
        "kill-alike": alike_pid,
        "trace-root": root_pid,
        "trace-alike": alike_pid,
        "read-memory": f"/proc/{alike_pid}/mem",
        "write-kernel": "/proc/sys/kernel/core_pattern",
        "tap": "foreign0",
        "raw-socket": "",
        "packet-socket": "",
        "netlink-socket": "",
        "node": "/tmp/confinement-node",
        "root": "",
        "root-group": "",
        "user-namespace": "",
        "mount-namespace": "",
        "clone-user-namespace": "",
        "chroot": "",
        "key": "",
    }
    inside = {"write-image": "/images/blob", "create-image": "/images/new", "write-system": "/etc/hosts",
              "link": "/images/blob:/vm/linked", "mount": "/tmp"}  # fmt: skip
    images = f"{state}/images"
    outside = {"write-image": f"{images}/blob", "create-image": f"{images}/new",
               "write-system": f"{RUNTIME}/etc/hosts", "link": f"{images}/blob:{images}/linked",
               "mount": f"{state}/pki"}  # fmt: skip
    allowed = {"read-disk": "/vm/disk0.qcow2", "write-disk": "/vm/disk0.qcow2", "read-image": "/images/blob",
               "create-file": "/vm/new", "create-temporary": "/tmp/new"}  # fmt: skip

    control = host.control(both | outside)
    assert set(control.values()) == {"ok"}, control
    found = await host.attempts(both | inside | allowed)
    assert set(found) == set(both | inside | allowed)
    assert {name: found[name] for name in allowed} == dict.fromkeys(allowed, "ok")
    refused = {name: outcome for name, outcome in found.items() if name not in allowed}
    assert set(refused.values()) <= REFUSALS, refused


async def test_what_it_was_given_of_the_network_stays_what_it_is(host: Host) -> None:
    """QEMU has connections and taps of the host's network, where a socket can be turned to anybody."""
    here, port = IPv4Address(ADDRESS), host.management.getsockname()[1]
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection((ADDRESS, port)))
        listening = stack.enter_context(socket.create_server((ADDRESS, 0)))
        tried, descriptors = _turned(stack, connection, listening, port)
        assert host.control(tried, descriptors) == dict.fromkeys(tried, "ok")
    rules = underlay.rules(
        underlay.Underlay("br0", "br0", here, 7401, None), underlay.Admitted(*[frozenset({here})] * 3)
    )
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, timeout=20)
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(await HOST.connect(ADDRESS, port))
        listening = stack.enter_context(HOST.listen(ADDRESS, 0))
        tried, descriptors = _turned(stack, connection, listening, port)
        found = await host.attempts(tried, descriptors)
    assert {name: found.pop(name) for name in ("again", "by-sending")} == dict.fromkeys(
        ("again", "by-sending"), "EINPROGRESS"
    ), "whoever connects waits for an answer to what never left"
    assert found == dict.fromkeys(found, "EPERM") and len(found) == len(tried) - 2


def _turned(
    stack: contextlib.ExitStack, connection: socket.socket, listening: socket.socket, port: int
) -> tuple[dict[str, str], list[int]]:
    """What to try with these, and with a tap; and the descriptors."""
    (tap,) = map(stack.enter_context, open_taps(["own0"]))
    whom = f"{ADDRESS}:{port}"
    tried = {
        "unmark": str(connection.fileno()), "again": f"{connection.fileno()}:{whom}",
        "by-sending": f"{listening.fileno()}:{whom}", "interfaces": str(listening.fileno()), "ring": "",
        **dict.fromkeys(("tap-address", "tap-owner", "tap-carrier"), str(tap.fileno())),
    }  # fmt: skip
    return tried, [connection.fileno(), listening.fileno(), tap.fileno()]


async def test_it_has_nothing_of_the_agent_but_what_it_was_given(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "of the agent's")
    with host.api.dup() as one:
        handle = await host.run("attempts", pass_fds=[one.fileno()])
        await host.said()
        opened = {int(path.name) for path in Path(f"/proc/{handle.pid}/fd").iterdir()}
        assert opened == {0, 1, 2, one.fileno()}
        environment = Path(f"/proc/{handle.pid}/environ").read_text().split("\0")
        names = {entry.partition("=")[0] for entry in environment if entry}
        assert names == {"PATH", "LANG", "PWD", TOKEN_VARIABLE, OWNER_VARIABLE}


async def test_it_is_nobody_and_sees_nobody(host: Host) -> None:
    handle = await host.run("attempts", "read-proc=/proc/1/status")
    assert _outcomes(await host.said()) == {"read-proc": "ok"}
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{handle.pid}/status").read_text().splitlines()
    )
    uid = str(owner_of(host.guest))
    assert int(uid) in UIDS and owner_of(host.guest) != owner_of(host.other)
    assert status["Uid"].split() == status["Gid"].split() == [uid] * 4
    assert status["Groups"].strip() == ""
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["NSpid"].split()[-1] == "1", "it is the first process of its namespace, so it sees no other"
    seen = Path(f"/proc/{handle.pid}/root")
    assert {path.name for path in (seen / "vm").iterdir()} == {"disk0.qcow2", "probe"}
    assert not (seen / "sys/fs").exists() and not (seen / "run/netns").exists()
    for kind in ("pid", "mnt", "ipc", "uts", "cgroup"):
        assert Path(f"/proc/{handle.pid}/ns/{kind}").readlink() != Path(f"/proc/self/ns/{kind}").readlink()


async def test_it_makes_no_more_processes_than_it_may(host: Host) -> None:
    if "pids" in host.groups.missing:
        pytest.skip("this machine's processes cannot be limited by control groups")
    await host.run("forks", "100")
    (line,) = await host.said("made")
    assert line == f"made {LIMITS.pids - 1 - 1}", "itself and the sandbox's monitor count"
    control = subprocess.run(
        ["timeout", "-s", "KILL", "2", host.probe, "forks", "100"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert control.stdout == "made 100\n"


async def test_it_takes_no_more_memory_than_it_may(host: Host) -> None:
    if "memory" in host.groups.missing:
        pytest.skip("this machine's memory cannot be limited by control groups")
    little = await host.run("eat", "16")
    assert await host.said("done") == ["ate 16", "done"]
    await little.terminate(0)
    much = await host.run("eat", "200")
    async with asyncio.timeout(DONE_S):
        assert await much.wait_gone() == -signal.SIGKILL
    lines = (host.folder / "vms/web" / QEMU_LOG).read_text().splitlines()
    assert lines == ["ate 16", "done"]


async def test_limits_that_were_set_can_be_set_higher_and_lower(host: Host) -> None:
    for memory_bytes in (64 * MIB, 128 * MIB, 32 * MIB):
        limits = Limits(memory_bytes=memory_bytes, pids=32, cpu_weight=100)
        assert host.groups.create("web", limits) == ""


async def test_the_group_goes_with_the_guest_and_not_with_the_agent(host: Host) -> None:
    handle = await host.run("attempts")
    await host.said()
    folders = [place.folder / "vm-web" for place in host.groups.places]
    for folder in folders:
        assert str(handle.pid) in (folder / "cgroup.procs").read_text().split()
    handle.close()  # the agent dies; the guest does not
    await asyncio.sleep(0)
    assert Path(f"/proc/{handle.pid}").exists()
    os.kill(handle.pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        await asyncio.to_thread(os.waitpid, handle.monitor_identity.pid, 0)  # type: ignore[union-attr]
    host.handles.clear()
    host.groups.remove("web")
    assert not any(folder.exists() for folder in folders)


async def test_a_link_that_it_plants_leads_nobody_anywhere(host: Host) -> None:
    """What the agent opens in the guest's folder is what it is called, or nothing."""
    from hostagent.drivers.firmware import prepare_vars
    from hostagent.supervisor.logs import ConsoleWatch, bound_log
    from vdc.model.errors import ConflictError

    victim = host.folder / "pki/host.key"
    for name in ("serial.log", "vars.fd", "serial.log.1"):
        (host.guest / name).symlink_to(victim)
    assert not bound_log(host.guest / "serial.log", host.folder / "vms/web", limit_bytes=1, kept_bytes=1)
    assert not ConsoleWatch(host.guest / "serial.log").sees_panic()
    with pytest.raises(ConflictError):
        prepare_vars(host.folder / "images/blob", host.guest)
    (host.guest / "serial.log").unlink()
    (host.guest / "serial.log").write_text("long enough")
    assert bound_log(host.guest / "serial.log", host.folder / "vms/web", limit_bytes=1, kept_bytes=1)
    assert victim.read_text() == "a key"
