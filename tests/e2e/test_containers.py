"""Containers as VMs: their program goes on through the death of its host, and people reach it before and after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from labcontainer import KERNEL, import_image
from pacing import wait_for
from testlab import VM, Lab

from vdc.model.endophyte import RunState
from vdc.model.process import ImageProcess

IMAGE = "test/box:1"
# A program that counts, keeps its count on a volume, serves it, and saves something when it is told to stop.
SERVE = """#!/bin/sh
trap 'echo "got USR1" > /data/stopped; sync; echo saved; exit 0' USR1
mkdir -p /srv/www
httpd -p 8080 -h /srv/www
echo "begins as $(id -u) on $(hostname) with $GREETING" >&2
count=0
while :; do
  count=$((count + 1))
  echo $count > /srv/www/count
  [ $((count % 5)) = 0 ] && echo "tick $count"
  sleep 0.2
done
"""
MANIFEST = """
apiVersion: mycelium.network/v1
kind: Endophyte
metadata: {{name: {name}}}
spec:
  virtualComputer: {{type: container, dedicatedNodes: {nodes}, memorySync: {sync}}}
  image: test/box:1
  resources: {{memory: 192MiB}}
  disks:
    - {{name: root, size: 3GiB}}
    - {{name: data, size: 64MiB, mountPath: /data}}
  process: {process}
"""


@pytest.fixture(scope="module")
def box(session_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The image is in the lab."""
    names = session_lab.ask(lambda api: api.list_images()).items
    if not any(KERNEL in entry.names for entry in names):
        pytest.skip(f"{KERNEL} was not built: make images")
    process = ImageProcess(
        cmd=("/bin/serve",), env=("GREETING=image",), stop_signal="SIGUSR1", volumes=("/data",)
    )
    import_image(session_lab, tmp_path_factory.mktemp("box"), IMAGE, process, {"/bin/serve": SERVE})
    yield
    session_lab.ask(lambda api: api.remove_image(IMAGE))


@pytest.fixture
def container(lab: Lab, box: None) -> Callable[..., VM]:
    """Apply a container and wait for its program."""

    def make(name: str = "box", *, protected: bool = True, **process: Any) -> VM:
        nodes, sync = (3, "continuous") if protected else (1, "none")
        text = MANIFEST.format(name=name, nodes=nodes, sync=sync, process=json.dumps(process))
        lab.ok("apply", "-f", "-", "--wait", "--timeout", "120", stdin=text)
        return VM(lab, name)

    return make


def count_of(lab: Lab, vm: VM) -> int:
    answer = lab.ok(
        "lab",
        "exec",
        "--name",
        lab.name,
        "client",
        "--",
        "curl",
        "-s",
        "-m",
        "5",
        f"http://{vm.address}:8080/count",
    )
    return int(answer)


def test_a_program_goes_on_when_its_host_loses_its_power(
    lab: Lab, container: Callable[..., VM], tmp_path: Path
) -> None:
    vm = container(env=[{"name": "GREETING", "value": "s3cret-hello", "secret": True}])
    status = vm.view().status.program
    assert status is not None and status.state == "running" and status.restarts == 0
    assert lab.ok("exec", "box", "--", "cat", "/etc/hostname").strip() == "box"
    done = lab.cli(
        "exec",
        "-i",
        "box",
        "--env",
        "X=1",
        "-w",
        "/srv",
        "--",
        "sh",
        "-c",
        "cat; echo $X; pwd >&2; exit 42",
        stdin="in",
    )
    assert (done.code, done.stdout, done.stderr) == (42, "in1\n", "/srv\n")
    assert lab.cli("exec", "box", "--", "nosuch").code == 127
    (tmp_path / "given").write_bytes(os.urandom(300_000))
    lab.ok("cp", str(tmp_path / "given"), "box:/data/")
    assert "s3cret" not in lab.ok("get", "endophyte", "box", "-o", "yaml")
    for host in lab.hosts:
        assert not list(lab.plan.host(host).state_dir.rglob("config.json"))
    before, first, second = count_of(lab, vm), vm.primary, vm.secondary
    asked = subprocess.Popen(
        [str(Path(sys.executable).parent / "vdc"), "exec", "box", "--", "sh", "-c", "echo begun; sleep 600"],
        env=lab.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert asked.stdout is not None and asked.stdout.readline() == "begun\n"
    lab.fault("power-off", first)
    vm.wait_primary(second)
    _, complaint = asked.communicate(timeout=60)
    assert asked.returncode == 255 and complaint.startswith("error: ") and complaint.count("error:") == 1
    wait_for(lambda: count_of(lab, vm) > before, 20, lambda: "it counts on")
    assert lab.ok("exec", "box", "--", "cat", "/etc/hostname").strip() == "box"
    vm.wait("its program is seen again", lambda view: view.status.program is not None, 20)
    after = vm.view().status.program
    assert after is not None and (after.pid, after.restarts, after.started_at) == (
        status.pid,
        0,
        status.started_at,
    )
    lab.ok("cp", "box:/data/given", str(tmp_path / "taken"))
    assert (tmp_path / "taken").read_bytes() == (tmp_path / "given").read_bytes()
    logs = lab.cli("logs", "box", "--tail", "10000")
    assert "begins as 0 on box with s3cret-hello" in logs.stderr
    ticks = [int(line.split()[1]) for line in logs.stdout.splitlines() if line.startswith("tick ")]
    assert ticks[0] == 5 and ticks[-1] > before and ticks == sorted(ticks)
    vm.wait_lockstep(90)


def test_a_program_that_fails_is_told_and_started_again(lab: Lab, container: Callable[..., VM]) -> None:
    fails = {"command": ["sh", "-c", "echo no disk, no fun >&2; exit 3"]}
    text = MANIFEST.format(
        name="box", nodes=1, sync="none", process=json.dumps({**fails, "restartPolicy": "Never"})
    )
    done = lab.cli("apply", "-f", "-", "--wait", "--timeout", "60", stdin=text)
    assert done.code == 1 and "exit code 3" in done.stderr and "it wrote last: no disk, no fun" in done.stderr
    view = lab.view("box")
    assert view.status.phase == "Running" and view.status.program is not None
    assert (view.status.program.state, view.status.program.exit_code) == ("ended", 3)
    assert lab.cli("exec", "box", "--", "cat", "/etc/hostname").stdout == "box\n"
    text = MANIFEST.format(name="box", nodes=1, sync="none", process=json.dumps(fails))
    lab.ok("apply", "-f", "-", stdin=text)
    vm = VM(lab, "box")
    vm.wait("started again", lambda view: bool(view.status.program and view.status.program.restarts), 60)
    assert "program-restarted" in vm.event_codes() and "program-ended" in vm.event_codes()


def test_a_job_that_has_done_its_work_has_arrived(lab: Lab, container: Callable[..., VM]) -> None:
    vm = container(protected=False, command=["sh", "-c", "echo 7 > /data/result"], restartPolicy="OnFailure")
    program = vm.view().status.program
    assert program is not None and (program.state, program.exit_code) == ("ended", 0)
    assert lab.ok("exec", "box", "--", "cat", "/data/result") == "7\n"


def test_a_stop_is_the_images_signal_and_the_disks_stay(lab: Lab, container: Callable[..., VM]) -> None:
    vm = container(protected=False)
    begun = time.monotonic()
    lab.ok("stop", "box", "--wait")
    assert time.monotonic() - begun < 20
    assert "stopped" in vm.event_codes()
    assert not any("did not shut down" in event["sentence"] for event in lab.events("box"))
    lab.ok("start", "box", "--wait")
    wait_for(
        lambda: lab.cli("exec", "box", "--", "cat", "/data/stopped").stdout == "got USR1\n",
        60,
        lambda: "it is back",
    )


def test_a_program_that_ignores_its_signal_is_killed_in_time(lab: Lab, container: Callable[..., VM]) -> None:
    container(protected=False, command=["sh", "-c", "trap '' USR1; while :; do sleep 1; done"], stopSeconds=3)
    begun = time.monotonic()
    lab.ok("stop", "box", "--wait")
    assert 3 <= time.monotonic() - begun < 25


def test_not_ready_is_told_and_waited_for(lab: Lab, container: Callable[..., VM]) -> None:
    probe = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1}
    text = MANIFEST.format(name="box", nodes=1, sync="none", process=json.dumps({"readinessProbe": probe}))
    done = lab.cli("apply", "-f", "-", "--wait", "--timeout", "30", stdin=text)
    assert done.code == 1 and "not ready" in done.stderr
    lab.ok("exec", "box", "--", "touch", "/tmp/ready")
    vm = VM(lab, "box")
    vm.wait("ready", lambda view: bool(view.status.program and view.status.program.ready), 20)
    lab.ok("exec", "box", "--", "rm", "/tmp/ready")
    vm.wait("not ready", lambda view: bool(view.status.program and not view.status.program.ready), 20)
    assert {"program-ready", "program-not-ready"} <= set(vm.event_codes())


def test_a_planned_promotion_and_a_pause_do_not_end_the_program(
    lab: Lab, container: Callable[..., VM]
) -> None:
    vm = container()
    program = vm.view().status.program
    assert program is not None
    lab.ok("promote", "replica", "box")
    vm.wait_lockstep(90)
    assert lab.ok("exec", "box", "--", "cat", "/etc/hostname") == "box\n"
    lab.ask(lambda api: api.run_endophyte("box", RunState.PAUSED))
    vm.wait("paused", lambda view: view.status.phase == "Paused", 30)
    done = lab.cli("exec", "box", "--", "true")
    assert done.code == 1 and "(paused)" in done.stderr
    lab.ok("start", "box", "--wait")
    after = vm.wait("running", lambda view: view.status.program is not None, 30).status.program
    assert after is not None and (after.pid, after.started_at) == (program.pid, program.started_at)


def test_a_quiesced_snapshot_has_what_was_never_synced_on_every_disk(
    lab: Lab, container: Callable[..., VM]
) -> None:
    vm = container()
    before = vm.epoch
    try:
        lab.ok("exec", "box", "--", "sh", "-c", "echo kept > /data/file; echo root > /root-file")
        lab.ok("snapshot", "create", "box", "one", "--quiesce")
        lab.ok("exec", "box", "--", "sh", "-c", "echo later > /data/file; sync")  # nothing is frozen any more
        assert vm.wait_lockstep().status.epoch == before
        lab.ok("snapshot", "restore", "box", "one", "--as", "copy", "--wait", "--timeout", "120")
        assert lab.ok("exec", "copy", "--", "cat", "/data/file", "/root-file") == "kept\nroot\n"
        assert lab.ok("exec", "box", "--", "cat", "/data/file") == "later\n"
        lab.ok("delete", "endophyte", "copy")
    finally:
        lab.cli("snapshot", "rm", "box", "one")
