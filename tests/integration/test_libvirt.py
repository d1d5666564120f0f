"""Real libvirt: what it says of this host, that it leaves nothing behind, and what happens when it fails."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

import hostagent
from hostagent.config import AgentConfig
from hostagent.drivers.host.inventory import read_inventory
from hostagent.drivers.libvirt import cpu, sandbox
from hostagent.drivers.libvirt.client import LibvirtError, LibvirtInventory, LibvirtMissingError
from hostagent.drivers.libvirt.describe import choose_cpu, describe_host
from vdc.model.errors import RefusedError
from vdc.model.host import Accelerator, Host

RUNTIME = Path(os.environ.get("VDC_CACHE_DIR", "/var/cache/vdc")) / "runtime" / "current"
CODE = Path(next(iter(hostagent.__path__))).parent
SYSTEM_FOLDERS = (
    "/run/libvirt",
    "/etc/libvirt",
    "/var/lib/libvirt",
    "/var/cache/libvirt",
    "/var/log/libvirt",
)
SKYLAKE = "<cpu><arch>x86_64</arch><model>Skylake-Client</model><vendor>Intel</vendor></cpu>"
HASWELL = (
    "<cpu><arch>x86_64</arch><model>Haswell-noTSX</model><vendor>Intel</vendor><feature name='vmx'/></cpu>"
)
EPYC = "<cpu><arch>x86_64</arch><model>EPYC</model><vendor>AMD</vendor></cpu>"


def missing() -> str:
    if os.geteuid() != 0:
        return "needs root"
    if importlib.util.find_spec("libvirt") is None:
        return "needs the Python module libvirt (make setup)"
    if not (RUNTIME / "manifest.json").exists():
        return f"needs {RUNTIME} (make setup)"
    return "" if shutil.which("bwrap") else "needs bwrap"


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


def system_state() -> set[str]:
    """Every file that libvirt could have made outside its sandbox."""
    return {str(path) for folder in SYSTEM_FOLDERS for path in Path(folder).rglob("*")}


def processes_with(text: str) -> list[int]:
    """Processes whose command line holds `text`."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                if text.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def qemu(*options: str, commands: str, deadline_s: float = 30) -> subprocess.CompletedProcess[str]:
    """The runtime root's QEMU with QMP on stdin and stdout."""
    root = ["bwrap", "--ro-bind", str(RUNTIME), "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    argv = [*root, "qemu-system-x86_64", "-nodefaults", "-display", "none", *options, "-qmp", "stdio"]
    return subprocess.run(
        argv, input=commands, capture_output=True, text=True, timeout=deadline_s, check=False
    )


def qmp(*names: str) -> str:
    return "".join(json.dumps({"execute": name}) + "\n" for name in ("qmp_capabilities", *names, "quit"))


def inventory(**options: object) -> LibvirtInventory:
    return LibvirtInventory(**{"runtime": RUNTIME, "system_run_dir": Path("/nonexistent"), **options})  # type: ignore[arg-type]


async def test_libvirt_describes_this_host_and_the_runtimes_qemu() -> None:
    answer = await inventory().describe()
    assert answer.uri == sandbox.EMBED_URI
    assert re.fullmatch(r"\d+\.\d+\.\d+", answer.libvirt_version)
    assert answer.cpu_xml.startswith("<cpu>")
    assert "<arch>x86_64</arch>" in answer.cpu_xml
    assert {"qemu64", "kvm64"} <= set(answer.models)  # under TCG these run everywhere
    assert answer.cpu_model
    assert answer.notes == ()


@pytest.mark.skipif(not os.access("/dev/kvm", os.W_OK), reason="needs /dev/kvm")
async def test_under_kvm_the_hosts_own_model_is_published() -> None:
    answer = await inventory(accelerator="kvm").describe()
    assert answer.notes == ()
    assert answer.cpu_xml.startswith('<cpu mode="custom" match="exact">')
    assert answer.cpu_model in answer.cpu_xml
    baseline = await inventory(accelerator="kvm").baseline([answer.cpu_xml])
    assert baseline.source == "hypervisor"
    assert baseline.qemu_cpu.split(",")[0]


async def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    before, threads = system_state(), threading.active_count()
    driver = inventory()
    await driver.describe()
    await driver.baseline([SKYLAKE])
    assert system_state() == before
    assert processes_with(sandbox.ROOT) == []
    assert "libvirt" not in sys.modules, "the agent itself must not load libvirt"
    assert threading.active_count() <= threads + 1  # asyncio's own watcher of children


async def test_the_baseline_of_two_hosts_is_what_both_have_and_qemu_starts_with_it() -> None:
    baseline = await inventory(accelerator="kvm").baseline([SKYLAKE, HASWELL])
    model, *features = baseline.qemu_cpu.split(",")
    assert "Skylake" not in model
    assert {"vmx=off", "svm=off", "invtsc=off"} <= set(features)
    started = qemu(
        "-M", "q35", "-accel", "tcg", "-S", "-cpu", baseline.qemu_cpu, commands=qmp("query-status")
    )
    assert '"status": "prelaunch"' in started.stdout, started.stderr


async def test_order_and_repetition_ask_no_new_question(tmp_path: Path) -> None:
    first = await inventory(accelerator="kvm", cache_dir=tmp_path).baseline([SKYLAKE, HASWELL])
    mute = inventory(accelerator="kvm", cache_dir=tmp_path, python=("false",))
    assert await mute.baseline([HASWELL, SKYLAKE, HASWELL]) == first


async def test_cpus_of_two_makers_have_no_baseline() -> None:
    with pytest.raises(RefusedError) as refusal:
        await inventory(accelerator="kvm").baseline([SKYLAKE, EPYC])
    assert refusal.value.code == "cpu-incompatible"


async def test_a_cpu_description_that_is_none_gives_the_smallest_model() -> None:
    hosts = [
        Host(
            name=name, api_url="", management_address="10.0.0.1", replication_address="10.1.0.1",
            overlay_address="10.2.0.1",
            heartbeat_port=1, agent_version="", incarnation=0, cpus=1, memory_bytes=1,
            accelerator=Accelerator(name="kvm"), cpu_xml=xml,
        )
        for name, xml in (("a", SKYLAKE), ("b", "<cpu>nonsense"))
    ]  # fmt: skip
    choice = await choose_cpu(hosts, inventory(accelerator="kvm"))
    assert choice.qemu_cpu == "qemu64"
    assert len(choice.warnings) == 1


def test_every_feature_that_libvirt_knows_is_a_property_of_qemus_cpus() -> None:
    cpu_map = Path("/usr/share/libvirt/cpu_map/x86_features.xml")
    if not cpu_map.exists():
        pytest.skip("needs libvirt's CPU map")
    listing = (
        json.dumps({"execute": "qom-list-properties", "arguments": {"typename": "max-x86_64-cpu"}}) + "\n"
    )
    answer = qemu(
        "-M", "none", commands=qmp("query-status").replace('{"execute": "query-status"}\n', listing)
    )
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    lists = [line["return"] for line in lines if isinstance(line.get("return"), list)]
    properties = {entry["name"] for entry in lists[0]}
    features = set(re.findall(r"<feature name='([^']+)'", cpu_map.read_text()))
    assert len(features) > 200
    for feature in sorted(features):
        text = cpu.qemu_cpu(f"<cpu><model>m</model><feature policy='require' name='{feature}'/></cpu>")
        names = {switch.split("=")[0] for switch in text.split(",")[1:]}
        assert names <= properties, f"QEMU does not know {names - properties} (libvirt's {feature})"


async def test_a_libvirt_that_hangs_is_ended_at_the_deadline() -> None:
    driver = inventory(python=("sh", "-c", "sleep 61.625"), deadline_s=0.5)
    with pytest.raises(LibvirtError, match=r"did not answer within 0\.5 s"):
        await driver.describe()
    await until_gone("61.625")


async def test_a_cancelled_question_leaves_no_process() -> None:
    task = asyncio.create_task(inventory(python=("sh", "-c", "sleep 62.375")).describe())
    async with asyncio.timeout(30):
        while not processes_with("62.375"):
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    await until_gone("62.375")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo boom >&2; exit 3", r"status 3: boom"),
        ("kill -SEGV $$", r"status 139: no reason given"),
        ("echo nonsense", r"without an answer"),
        ("echo '[]'", r"no object"),
        ("echo '{}'", r"cannot be read"),
    ],
)
async def test_a_libvirt_that_crashes_or_talks_nonsense_is_an_error(script: str, reason: str) -> None:
    with pytest.raises(LibvirtError, match=reason):
        await inventory(python=("sh", "-c", script)).describe()


async def test_without_the_module_the_agent_gets_a_plain_inventory(tmp_path: Path) -> None:
    (tmp_path / "libvirt.py").write_text("raise ImportError('libvirt.so.0: cannot open shared object file')")
    driver = inventory(python=("env", f"PYTHONPATH={tmp_path}:{CODE}", sys.executable))
    with pytest.raises(LibvirtMissingError, match=r"libvirt\.so\.0"):
        await driver.describe()
    found = await describe_host(config(), cache_dir=tmp_path, driver=driver)
    assert found.source == "plain"
    assert any(r"libvirt.so.0" in sentence for sentence in found.warnings)


async def test_an_agent_that_starts_again_asks_nobody(tmp_path: Path) -> None:
    first = await inventory(cache_dir=tmp_path).describe()
    assert await inventory(cache_dir=tmp_path, python=("false",)).describe() == first


async def test_three_agents_that_start_together_ask_once(tmp_path: Path) -> None:
    questions: list[bytes] = []

    class Counting(LibvirtInventory):
        async def _run(self, request: bytes, sockets: Sequence[Path]) -> bytes:
            questions.append(request)
            return await super()._run(request, sockets)

    drivers = [Counting(runtime=RUNTIME, cache_dir=tmp_path) for _ in range(3)]
    answers = await asyncio.gather(*(driver.describe() for driver in drivers))
    assert answers[0] == answers[1] == answers[2]
    assert len(questions) == 1


async def test_a_host_is_described_with_everything_that_is_published(tmp_path: Path) -> None:
    found = await describe_host(config(), cache_dir=tmp_path, driver=inventory())
    assert found.source == "libvirt"
    assert "qemu64" in found.cpu_models
    assert 0 < found.memory_bytes < read_inventory(with_features=False).memory_bytes
    assert found.warnings == read_inventory().warnings


@pytest.fixture
async def system_daemon(tmp_path: Path) -> AsyncIterator[Path]:
    """A libvirtd of its own, as a host's, in namespaces that end with it; yields its /run/libvirt."""
    if shutil.which("libvirtd") is None:
        pytest.skip("needs libvirtd")
    argv = [
        "bwrap",
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "--bind",
        str(tmp_path),
        "/run",
    ]
    for folder in ("/var/lib/libvirt", "/var/cache", "/var/log", "/etc/libvirt"):
        argv += ["--tmpfs", folder]
    argv += ["--unshare-pid", "--unshare-net", "--die-with-parent", "libvirtd"]
    daemon = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(30):
            while not sandbox.system_sockets(tmp_path / "libvirt"):
                await asyncio.sleep(0.02)
        yield tmp_path / "libvirt"
    finally:
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()


async def test_the_systems_daemon_is_asked_where_the_host_uses_its_own_qemu(system_daemon: Path) -> None:
    answer = await inventory(runtime=None, system_run_dir=system_daemon).describe()
    assert answer.uri == "qemu:///system"
    assert answer.cpu_xml.startswith("<cpu>")


async def test_beside_a_daemon_the_runtimes_qemu_is_still_asked_directly(system_daemon: Path) -> None:
    answer = await inventory(system_run_dir=system_daemon).describe()
    assert answer.uri == sandbox.EMBED_URI
    assert "qemu64" in answer.models


async def test_a_daemon_that_died_and_left_its_socket_is_passed_over(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "libvirt-sock"))
    answer = await inventory(runtime=None, system_run_dir=tmp_path).describe()
    assert answer.uri == sandbox.EMBED_URI


async def until_gone(text: str) -> None:
    async with asyncio.timeout(30):
        while processes_with(text):
            await asyncio.sleep(0.01)


def config() -> AgentConfig:
    return AgentConfig.model_validate(
        {
            "host": "h1",
            "state_dir": "/s",
            "management": {"address": "10.0.0.1", "interface": "m0"},
            "replication": {"address": "10.0.1.1", "interface": "r0"},
            "overlay_address": str(AgentConfig.model_fields["network"].get_default().cidr[1]),
            "etcd": {"endpoints": ["https://10.0.0.1:2379"]},
            "runtime": str(RUNTIME),
        }
    )
