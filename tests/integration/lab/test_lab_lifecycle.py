"""A lab comes up, is found as it is, is repaired, and goes without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from vdc.api.context import load_contexts, put_context
from vdc.lab import api, kernel
from vdc.lab.audit import audit, snapshot
from vdc.lab.models import HostState, LabState
from vdc.lab.settings import Settings
from vdc.model.errors import ConflictError, InvalidError, NotFoundError, RefusedError, UnavailableError


def run(settings: Settings, lab: str, member: str, *command: str) -> str:
    argv = api.exec_argv(lab, member, command, settings=settings)
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=20).stdout


async def test_up_makes_what_the_manual_says(lab: str, settings: Settings) -> None:
    status = await api.status(lab, settings=settings)
    assert status.state is LabState.UP
    assert [host.state for host in status.hosts] == [HostState.UP] * 3
    for host in status.hosts:
        assert host.agent_pid and host.etcd_pid
        inode = kernel.namespace_inode(host.namespace)
        assert {Path(f"/proc/{pid}/ns/net").stat().st_ino for pid in (host.agent_pid, host.etcd_pid)} == {
            inode
        }
        assert os.getsid(host.agent_pid) == host.agent_pid
        assert set(run(settings, lab, host.name, "ls", "/sys/class/net").split()) == {"lo", "mgmt0", "repl0"}
    assert audit(lab, settings=settings) == ()
    assert api.list_labs(settings=settings) == (lab,)


async def test_the_client_has_a_leg_and_a_learning_vxlan(lab: str, settings: Settings) -> None:
    assert "10.77.0.200/24" in run(settings, lab, "client", "ip", "-4", "addr", "show", "overlay0")
    details = run(settings, lab, "client", "ip", "-d", "link", "show", "overlay0")
    assert "vxlan id 100" in details and "dstport 4789" in details and "mtu 1400" in details
    assert "nolearning" not in details
    flood = run(settings, lab, "client", "bridge", "fdb", "show", "dev", "overlay0")
    assert [line.split()[2] for line in flood.splitlines()] == [f"10.70.0.{octet}" for octet in (1, 2, 3)]


async def test_nothing_of_it_is_in_this_namespace(lab: str) -> None:
    assert not snapshot().interfaces & {"mgmt0", "repl0", "h1", "h2", "h3", "br0", "overlay0"}


async def test_a_second_up_finds_it_and_says_so(lab: str, settings: Settings) -> None:
    said: list[str] = []
    before = await api.status(lab, settings=settings)
    assert await api.up(lab, 3, said.append, settings=settings) == before
    assert said == [f"lab {lab} is up already"]
    with pytest.raises(ConflictError) as caught:
        await api.up(lab, 2, settings=settings)
    assert caught.value.code == "lab-hosts-differ"


async def test_two_ups_at_once_make_one_lab(name: str, settings: Settings, clean: None) -> None:
    first: list[str] = []
    second: list[str] = []
    both = await asyncio.gather(
        api.up(name, 2, first.append, settings=settings), api.up(name, 2, second.append, settings=settings)
    )
    assert both[0] == both[1]
    assert f"lab {name} is up already" in (first + second)


async def test_who_waits_too_long_for_the_lock_is_told(lab: str, settings: Settings) -> None:
    holder = subprocess.Popen(["flock", str(settings.state_root / "lab" / lab), "sleep", "60"])
    try:
        while not (Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text()):
            await asyncio.sleep(0.01)
        with pytest.raises(ConflictError) as caught:
            await api.fault(lab, "heal", settings=replace(settings, lock_deadline_s=0.2))
        assert caught.value.code == "lab-busy"
    finally:
        subprocess.run(["pkill", "-KILL", "-P", str(holder.pid)], check=False)
        holder.kill()
        holder.wait()


async def test_down_twice_and_up_again(lab: str, settings: Settings) -> None:
    said: list[str] = []
    await api.down(lab, said.append, settings=settings)
    await api.down(lab, said.append, settings=settings)
    assert said == [f"lab {lab} is gone (6 processes ended)", f"there is no lab {lab}"]
    assert (await api.status(lab, settings=settings)).state is LabState.DOWN
    assert (await api.up(lab, 1, settings=settings)).state is LabState.UP


async def test_the_context_comes_and_goes(name: str, settings: Settings, clean: None) -> None:
    put_context("work", ["unix:///run/work/api.sock"])
    await api.up(name, 2, settings=settings)
    contexts = load_contexts()
    assert contexts.current == f"lab-{name}"
    sockets = [f"unix://{settings.state_root}/lab/{name}/{host}/api.sock" for host in ("h1", "h2")]
    assert list(contexts.contexts[f"lab-{name}"].endpoints) == sockets
    await api.down(name, settings=settings)
    assert load_contexts().current == "work"
    assert list(load_contexts().contexts) == ["work"]


async def test_a_context_file_that_the_lab_made_goes_with_it(lab: str, settings: Settings) -> None:
    file = settings.state_root / "config.yaml"
    assert file.exists()
    await api.down(lab, settings=settings)
    assert sorted(path.name for path in settings.state_root.iterdir()) == ["runtime"]


async def test_two_labs_side_by_side(lab: str, settings: Settings) -> None:
    other = "u" + lab[1:]
    try:
        await api.up(other, 2, settings=settings)
        assert set(api.list_labs(settings=settings)) == {lab, other}
        await api.fault(lab, "power-off", "h1", settings=settings)
        assert [host.state for host in (await api.status(other, settings=settings)).hosts] == [
            HostState.UP
        ] * 2
        inode = kernel.namespace_inode(f"vdc-{lab}-h1")
        await api.down(lab, settings=settings)
        assert (await api.status(other, settings=settings)).state is LabState.UP
        assert audit(other, settings=settings) == ()
        for mounts in Path("/proc").glob("[0-9]*/mountinfo"):  # no private mount table keeps it alive
            with contextlib.suppress(OSError):
                assert f"net:[{inode}]" not in mounts.read_text()
    finally:
        await api.down(other, settings=settings)
    assert audit(other, settings=settings) == ()


async def test_images_that_were_built_are_in_every_store_and_registered(
    name: str, settings: Settings, clean: None
) -> None:
    for folder, recipe in (
        ("mini", {"name": "test/mini", "kind": "kernel", "kernel": "vmlinuz"}),
        ("container", {"name": "test/bad", "kind": "kernel"}),
        ("debian", {"name": "test/debian", "kind": "kernel", "kernel": "vmlinuz"}),  # large ones stay out
    ):
        built = settings.cache_root / "images" / folder / "v1"
        built.mkdir(parents=True)
        built.with_name("current").symlink_to("v1")
        (built / "image.json").write_text(json.dumps(recipe))
        (built / "vmlinuz").write_bytes(b"kernel")
    said: list[str] = []
    await api.up(name, 2, said.append, settings=settings)
    digest = hashlib.sha256(b"kernel").hexdigest()
    for host in ("h1", "h2"):
        blob = settings.state_root / "lab" / name / host / "images" / "blobs" / "sha256" / digest
        assert blob.read_bytes() == b"kernel"
        assert blob.stat().st_nlink == 1
    registered = json.loads((settings.state_root / "lab" / name / "h1" / "registered.json").read_text())
    assert registered["name"] == "test/mini:latest"
    assert registered["image"]["kernel"]["digest"] == f"sha256:{digest}"
    assert "image test/mini:latest is there" in said
    assert any("is left out: " in line and "container" in line for line in said)
    assert not any("debian" in line for line in said)
    shutil.rmtree(settings.cache_root / "images")


async def test_an_agent_that_died_is_started_again(lab: str, settings: Settings) -> None:
    before = await api.status(lab, settings=settings)
    victim = before.hosts[1].agent_pid
    assert victim
    os.kill(victim, signal.SIGKILL)
    broken = await api.status(lab, settings=settings)
    assert broken.state is LabState.BROKEN
    assert broken.problems == ("the agent of h2 does not run",)
    assert any("does not run" in sentence for sentence in audit(lab, settings=settings))
    said: list[str] = []
    after = await api.up(lab, None, said.append, settings=settings)
    assert after.state is LabState.UP
    assert after.hosts[1].agent_pid not in (None, victim)
    assert after.hosts[0] == before.hosts[0]
    assert said[-1] == f"lab {lab} is up again"


async def test_a_lab_without_a_namespace_is_made_anew(lab: str, settings: Settings) -> None:
    kernel.remove_namespace(f"vdc-{lab}-repl")
    assert (await api.status(lab, settings=settings)).problems == (f"namespace vdc-{lab}-repl is missing",)
    assert (await api.up(lab, 3, settings=settings)).state is LabState.UP
    assert audit(lab, settings=settings) == ()


async def test_down_finds_a_lab_whose_record_is_lost(lab: str, settings: Settings) -> None:
    (settings.state_root / "lab" / lab / "lab.json").unlink()
    (settings.state_root / "config.yaml").unlink()
    assert api.list_labs(settings=settings) == (lab,)
    assert (await api.status(lab, settings=settings)).state is LabState.BROKEN
    await api.down(lab, settings=settings)
    assert audit(lab, settings=settings) == ()
    assert (await api.status(lab, settings=settings)).state is LabState.DOWN


async def test_a_crash_half_way_through_up_is_cleaned_away(
    name: str, settings: Settings, clean: None
) -> None:
    """The program is killed at some moment of `up`; whatever there is then, `down` and `up` manage."""
    program = (
        "import asyncio, sys, os; from pathlib import Path; from vdc.lab import api, network; "
        "from vdc.lab.settings import Settings; real = network._wire; "
        "network._wire = lambda *a: os._exit(9) if a[2] == 'h2' else real(*a); "
        "root = Path(sys.argv[2]); s = Settings(root, root, tuple(sys.argv[3:])); "
        "asyncio.run(api.up(sys.argv[1], 3, settings=s))"
    )
    argv = [settings.agent_command[0], "-c", program, name, str(settings.state_root), *settings.agent_command]
    repository = str(Path(api.__file__).parents[2])
    done = subprocess.run(argv, check=False, timeout=30, env={**os.environ, "PYTHONPATH": repository})
    assert done.returncode == 9
    kernel.namespace_path(f"vdc-{name}-h3").touch()  # between the file and its mount
    assert (await api.status(name, settings=settings)).state is LabState.BROKEN
    assert (await api.up(name, 2, settings=settings)).state is LabState.UP


@pytest.mark.parametrize("keep", [False, True])
async def test_an_agent_that_dies_fails_up_with_its_last_words(
    name: str, settings: Settings, clean: None, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    monkeypatch.setenv("STUB_DIES", "1")
    with pytest.raises(UnavailableError) as caught:
        await api.up(name, 2, keep=keep, settings=settings)
    assert caught.value.code == "agent-silent"
    assert "has died" in str(caught.value)
    assert "the stub was told to die" in caught.value.problem.hint
    assert (settings.state_root / "lab" / name).exists() == keep


async def test_an_agent_that_never_answers_fails_up_at_the_deadline(
    name: str, settings: Settings, clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_SILENT", "1")
    with pytest.raises(UnavailableError) as caught:
        await api.up(name, 1, settings=replace(settings, agent_deadline_s=0.5))
    assert "is not ready after" in str(caught.value)
    assert audit(name, settings=settings) == ()


async def test_a_cancelled_up_leaves_nothing(
    name: str, settings: Settings, clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_SILENT", "1")
    waiting = asyncio.Event()
    task = asyncio.create_task(
        api.up(name, 1, lambda line: waiting.set() if "agents" in line else None, settings=settings)
    )
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert audit(name, settings=settings) == ()


async def test_a_namespace_of_somebody_else_is_left_alone(name: str, settings: Settings, clean: None) -> None:
    kernel.create_namespace(f"vdc-{name}-h1", lambda: None)
    try:
        with pytest.raises(ConflictError) as caught:
            await api.up(name, 3, settings=settings)
        assert caught.value.code == "lab-foreign"
        await api.down(name, settings=settings)
        assert kernel.is_namespace(f"vdc-{name}-h1")
    finally:
        kernel.remove_namespace(f"vdc-{name}-h1")


async def test_what_cannot_be_is_refused_before_anything_is_made(
    name: str, settings: Settings, clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFoundError, match="there is no lab"):
        await api.fault(name, "heal", settings=settings)
    with pytest.raises(NotFoundError):
        api.exec_argv(name, "h1", ["true"], settings=settings)
    with pytest.raises(RefusedError, match="QEMU runtime"):
        await api.up(name, 3, settings=replace(settings, cache_root=Path("/nonexistent")))
    with pytest.raises(RefusedError, match="not installed"):
        await api.up(name, 3, settings=replace(settings, agent_command=("/nonexistent",)))
    with pytest.raises(InvalidError):
        await api.up("../x", 3, settings=settings)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for attempt in (api.up(name, 3, settings=settings), api.down(name, settings=settings)):
        with pytest.raises(RefusedError) as caught:
            await attempt
        assert caught.value.code == "needs-root"
    monkeypatch.undo()
    assert not (settings.state_root / "lab").exists()


async def test_the_audit_sees_a_stray_process_and_a_lost_tap(lab: str, settings: Settings) -> None:
    run(settings, lab, "h1", "ip", "tuntap", "add", "dev", "vdcstray", "mode", "tap")
    stray = subprocess.Popen(api.exec_argv(lab, "h1", ["sleep", "60"], settings=settings))
    client = subprocess.Popen(api.exec_argv(lab, "client", ["sleep", "60"], settings=settings))
    try:
        expected = {
            "tap vdcstray on h1 has no owner",
            f"process sleep ({stray.pid}) on h1 belongs to nobody",
            f"process sleep ({client.pid}) still runs in vdc-{lab}-client",
        }
        async with asyncio.timeout(30):
            while set(audit(lab, settings=settings)) != expected:
                await asyncio.sleep(0.02)
    finally:
        for process in (stray, client):
            process.kill()
            process.wait()
