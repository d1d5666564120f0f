"""A StatefulSet with all that belongs to it, applied as it is: it runs as a virtual computer that outlives its host."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from labcontainer import KERNEL, import_image
from pacing import wait_for
from testlab import VM, Lab

from vdc.model.process import ImageProcess

IMAGE = "test/kube:1"
SERVE = """#!/bin/sh
mkdir -p /run/www && cd /run/www && httpd -p "$1" -h /run/www
while :; do echo "$2" > /run/www/alive; sleep 1; done
"""
MANIFEST = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {app.conf: "level=debug\\n", GREETING: hello}}
- {apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {PASSWORD: "hunter2$(GREETING)", tls.key: s3cret}}
- apiVersion: v1
  kind: Service
  metadata: {name: kube}
  spec: {clusterIP: None, selector: {app: kube}, ports: [{port: 8080, targetPort: http}]}
- apiVersion: apps/v1
  kind: StatefulSet
  metadata: {name: kube, annotations: {mycelium.network/service-type: endophyte}}
  spec:
    replicas: 1
    serviceName: kube
    selector: {matchLabels: {app: kube}}
    template:
      metadata: {labels: {app: kube}}
      spec:
        terminationGracePeriodSeconds: 2
        securityContext: {runAsUser: 1000, runAsGroup: 1000, runAsNonRoot: true, fsGroup: 1234}
        containers:
        - name: kube
          image: test/kube:1
          args: ["8080", "$(GREETING)-$(NAME)"]
          envFrom: [{configMapRef: {name: settings}}]
          env:
          - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
          - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
          - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: PASSWORD}}}
          ports: [{name: http, containerPort: 8080}]
          resources: {limits: {memory: 128Mi, cpu: 500m}}
          livenessProbe: {httpGet: {path: /alive, port: http}, initialDelaySeconds: 5}
          readinessProbe: {exec: {command: [test, -e, /run/www/alive]}, periodSeconds: 1}
          securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
          volumeMounts:
          - {name: data, mountPath: /data}
          - {name: settings, mountPath: /srv/conf}
          - {name: settings, mountPath: /etc/app.conf, subPath: app.conf}
          - {name: keys, mountPath: /srv/keys}
          - {name: scratch, mountPath: /run}
        volumes:
        - {name: settings, configMap: {name: settings, items: [{key: app.conf, path: sub/app.conf}, {key: app.conf, path: app.conf}]}}
        - {name: keys, secret: {secretName: keys, defaultMode: 0400, items: [{key: tls.key, path: tls.key}]}}
        - {name: scratch, emptyDir: {medium: Memory, sizeLimit: 8Mi}}
    volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
"""  # noqa: E501 - as it would be found


@pytest.fixture
def kube(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VM]:
    """Applied, ready and in lockstep."""
    if not any(KERNEL in entry.names for entry in lab.ask(lambda api: api.list_images()).items):
        pytest.skip(f"{KERNEL} was not built: make images")
    files = {"/bin/serve": SERVE, "/srv/conf/default.conf": "the image's own"}
    image = ImageProcess(entrypoint=("/bin/serve",), cmd=("1",))
    import_image(lab, tmp_path_factory.mktemp("kube"), IMAGE, image, files)
    printed = lab.ok("apply", "-f", "-", "--wait", "--timeout", "120", stdin=MANIFEST)
    assert printed.startswith(
        "configmap/settings is part of endophyte/kube\nsecret/keys is part of endophyte/kube\n"
        "service/kube is the name of endophyte/kube\nendophyte/kube created (from statefulset/kube)\n"
    )
    yield VM(lab, "kube")
    lab.remove_all_vms()
    lab.ask(lambda api: api.remove_image(IMAGE))


def inside(lab: Lab, *command: str) -> str:
    return lab.ok("exec", "kube", "--", *command).strip()


def test_it_runs_as_its_manifest_says_and_outlives_its_host(lab: Lab, kube: VM) -> None:
    environment = dict(line.partition("=")[::2] for line in inside(lab, "env").splitlines())
    assert environment["PASSWORD"] == "hunter2$(GREETING)"
    assert (environment["NAME"], environment["IP"]) == ("kube-0", kube.address)
    assert inside(lab, "hostname") == "kube-0"
    assert inside(lab, "cat", "/run/www/alive") == "hello-kube-0"
    assert inside(lab, "id", "-u") == "1000" and "1234" in inside(lab, "id", "-G").split()

    # what a ConfigMap mounts hides the image's folder, but for one file that is laid over it
    assert inside(lab, "ls", "/srv/conf") == "app.conf\nsub"
    assert inside(lab, "cat", "/srv/conf/sub/app.conf", "/etc/app.conf") == "level=debug\nlevel=debug"
    assert inside(lab, "cat", "/srv/keys/tls.key") == "s3cret"
    assert inside(lab, "ls", "-ln", "/srv/keys/tls.key").split()[:4] == ["-r--r-----", "1", "0", "1234"]

    # the disk is the program's to write, the root and the ConfigMap are not
    inside(lab, "sh", "-c", "echo kept > /data/file && sync")
    for path in ("/file", "/srv/conf/file"):
        assert lab.cli("exec", "kube", "--", "touch", path).code != 0

    before, second = kube.view().status.program, kube.secondary
    lab.fault("power-off", kube.primary)
    kube.wait_primary(second)
    wait_for(
        lambda: lab.cli("exec", "kube", "--", "cat", "/data/file").stdout == "kept\n",
        30,
        lambda: "it answers",
    )
    after = kube.wait(
        "its program is seen again", lambda view: view.status.program is not None, 20
    ).status.program
    assert before is not None and after is not None
    assert (after.pid, after.restarts, after.started_at) == (before.pid, before.restarts, before.started_at)


def test_it_can_be_applied_again_however_it_is_shown(lab: Lab, kube: VM) -> None:
    shown = lab.ok("get", "endophyte", "kube", "-o", "yaml")
    assert "<secret>" in shown and "hunter2" not in shown and "s3cret" not in shown
    assert lab.ok("apply", "-f", "-", stdin=shown) == "endophyte/kube unchanged\n"
    assert lab.ok("apply", "-f", "-", stdin=MANIFEST).endswith(
        "endophyte/kube unchanged (from statefulset/kube)\n"
    )
    dry = json.loads(lab.ok("apply", "--dry-run", "-o", "json", "-f", "-", stdin=MANIFEST))
    assert dry["items"][0]["endophyte"]["spec"]["disks"][1]["mountPath"] == "/data"
    assert lab.ok("delete", "-f", "-", stdin=MANIFEST).endswith("endophyte/kube deleted\n")
