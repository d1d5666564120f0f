"""Redis as Debian has it, a StatefulSet out of a `docker save` archive: no confirmed write is lost with its host.

redis-benchmark writes beside a client that reads all back, and neither of them ever connects again.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labprogram import (
    CLIENTS,
    PATIENCE_S,
    START_S,
    WORK_S,
    imported,
    lose_the_primary,
    needs_programs,
    own_client,
    wait_listening,
)
from pacing import wait_for
from testlab import VM, Lab

from tests.debian_programs import PROGRAMS, layers_of
from tests.oci_layout import docker_archive

pytestmark = needs_programs
IMAGE = "test/redis:7"
WRITES = 60
MANIFEST = """
apiVersion: v1
kind: Service
metadata: {name: redis}
spec: {clusterIP: None, selector: {app: redis}, ports: [{port: 6379, targetPort: redis}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: redis, annotations: {mycelium.network/service-type: endophyte}}
spec:
  replicas: 1
  serviceName: redis
  selector: {matchLabels: {app: redis}}
  template:
    metadata: {labels: {app: redis}}
    spec:
      containers:
      - name: redis
        image: test/redis:7
        ports: [{name: redis, containerPort: 6379}]
        resources: {limits: {memory: 192Mi}}
        readinessProbe: {exec: {command: [redis-cli, ping]}, periodSeconds: 2}
        livenessProbe: {tcpSocket: {port: redis}, initialDelaySeconds: 10, periodSeconds: 10}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 128Mi}}}
"""


def test_no_confirmed_write_is_lost(lab: Lab, tmp_path: Path) -> None:
    archive = docker_archive(
        layers_of("redis"), tmp_path / "redis.tar", tag=IMAGE, config=PROGRAMS["redis"].config
    )
    with imported(lab, f"docker-archive:{archive}", IMAGE):
        lab.ok("apply", "-f", "-", "--wait", "--timeout", f"{START_S:g}", stdin=MANIFEST)
        vm = VM(lab, "redis")
        lab.watch(vm)
        vm.wait_lockstep(START_S)
        with (
            benchmark(lab, vm, tmp_path) as load,
            lab.workload(vm, "redis", program=CLIENTS, patience_s=PATIENCE_S) as workload,
        ):
            workload.wait_progress(more=WRITES, deadline_s=WORK_S)
            lose_the_primary(lab, vm)
            counted = count_of(lab, vm, tmp_path)
            workload.wait_progress(more=WRITES, deadline_s=WORK_S)
            wait_for(lambda: count_of(lab, vm, tmp_path) > counted, WORK_S, "redis-benchmark goes on")
            assert load.poll() is None
        assert not workload.report.errors
        last = workload.report.sessions["redis"].acknowledged
        print(f"longest gap of {last} writes: {workload.report.longest_gap_ms:.0f} ms")

        # and they are on the disk of the promoted copy: a new process reads them from there
        lab.cli("exec", vm.name, "--", "redis-cli", "shutdown", "nosave", "now")
        vm.wait("started again", lambda view: bool(view.status.program and view.status.program.restarts), 60)
        wait_listening(lab, vm, 6379)
        assert ask(lab, vm, tmp_path, "get", f"w:{last}").startswith(f"w-{last}-")
        assert int(ask(lab, vm, tmp_path, "eval", "return #redis.call('keys', 'w:*')", "0")) >= last
        vm.wait_lockstep(START_S)


@contextmanager
def benchmark(lab: Lab, vm: VM, work: Path) -> Iterator[subprocess.Popen[bytes]]:
    """redis-benchmark counts without end, and ends by itself where a connection does."""
    argv = ["redis-benchmark", "-h", vm.address, "-c", "2", "-q", "-l", "incr", "load"]
    with subprocess.Popen(own_client(lab, "redis", work, argv), stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: count_of(lab, vm, work) > 0, WORK_S, "redis-benchmark counts")
            yield process
        finally:
            process.terminate()


def count_of(lab: Lab, vm: VM, work: Path) -> int:
    """How far redis-benchmark has counted."""
    return int(ask(lab, vm, work, "get", "load") or 0)


def ask(lab: Lab, vm: VM, work: Path, *words: str) -> str:
    """What redis-cli says."""
    argv = own_client(lab, "redis", work, ["redis-cli", "-h", vm.address, *words])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    return done.stdout.strip()
