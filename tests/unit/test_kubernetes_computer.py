"""What computer a pod becomes: its needs, security, hosts, probes and variables."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from kubernetes_support import Value, config_map, manifest, notes, pod, process, refusals, secret

from vdc.model.units import GIB, MIB

C = "spec.containers[0]"


# ---- its computer


@pytest.mark.parametrize(
    ("resources", "cpus", "memory"),
    [
        ({}, 1, 576 * MIB),
        ({"limits": {"cpu": "250m", "memory": "256Mi"}}, 1, 320 * MIB),
        ({"limits": {"cpu": 2.5, "memory": "1G"}}, 3, 1018 * MIB),
        ({"limits": {"memory": 1}}, 1, 128 * MIB),
        ({"requests": {"cpu": "4", "memory": "64Mi"}}, 4, 576 * MIB),
        ({"requests": {"memory": "2Gi"}}, 1, 2 * GIB + 64 * MIB),
        (
            {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "3Gi"}},
            2,
            3 * GIB + 64 * MIB,
        ),
    ],
)
def test_needs_are_rounded_up(resources: Value, cpus: int, memory: int) -> None:
    made = manifest(pod({"resources": resources})).spec.resources
    assert (made.cpus, made.memory) == (cpus, memory)


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"limits": {"nvidia.com/gpu": 1}}, f"{C}.resources.limits.nvidia.com/gpu: a guest has CPUs"),
        ({"requests": {"hugepages-2Mi": "2Mi"}}, f"{C}.resources.requests.hugepages-2Mi: a guest has CPUs"),
        ({"limits": {"memory": "1GiB"}}, f"{C}.resources.limits.memory: '1GiB' is not a quantity"),
        (
            {"limits": {"memory": "1Gi"}, "requests": {"memory": "2Gi"}},
            f"{C}.resources.requests.memory: it is more",
        ),
        (
            {"limits": {"cpu": "100"}},
            "as an Endophyte: spec.resources.cpus: input should be less than or equal to 64",
        ),
        ({"claims": [{"name": "gpu"}]}, f"{C}.resources.claims: devices of a host"),
        ({"limit": {}}, f"{C}.resources.limit: unknown field (did you mean limits?)"),
    ],
)
def test_needs_that_cannot_be_met(resources: Value, words: str) -> None:
    assert words in refusals(pod({"resources": resources}))[0]


def test_a_large_root_disk_is_asked_for() -> None:
    small = pod({"resources": {"limits": {"ephemeral-storage": "2Gi"}}})
    assert manifest(small).spec.disks == () and "the root disk has 10GiB" in notes(small)[0]
    large = manifest(pod({"resources": {"requests": {"ephemeral-storage": "40Gi"}}}))
    assert [(disk.name, disk.size) for disk in large.spec.disks] == [("root", 40 * GIB)]


@pytest.mark.parametrize(
    ("security", "of_container", "user"),
    [
        ({}, {}, None),
        ({"runAsUser": 999}, {}, "999"),
        ({"runAsUser": 999, "runAsGroup": 5}, {}, "999:5"),
        ({"runAsUser": 999}, {"runAsUser": 0, "runAsGroup": 0}, "0:0"),
        ({"runAsNonRoot": True}, {"runAsNonRoot": False}, None),
        ({"runAsNonRoot": True, "runAsUser": 1}, {}, "1"),
    ],
)
def test_who_runs_it(security: Value, of_container: Value, user: str | None) -> None:
    assert process(pod({"securityContext": of_container}, securityContext=security)).user == user


@pytest.mark.parametrize(
    ("security", "words"),
    [
        ({"runAsNonRoot": True}, "runAsNonRoot: the image's user is not known here: give runAsUser"),
        ({"runAsNonRoot": True, "runAsUser": 0}, "runAsNonRoot: it is root"),
        ({"runAsGroup": 5}, "runAsGroup: the image's user is not known here"),
        ({"seLinuxOptions": {"level": "s0"}}, "seLinuxOptions: the guest's kernel has no SELinux"),
        (
            {"appArmorProfile": {"type": "RuntimeDefault"}},
            "appArmorProfile: the guest's kernel has no AppArmor",
        ),
        ({"seccompProfile": {"type": "Localhost"}}, "seccompProfile.type: input should be"),
        ({"windowsOptions": {"a": 1}}, "windowsOptions: a container's guest is Linux"),
        ({"runAsUser": -1}, "runAsUser: input should be greater"),
        ({"runAsuser": 1}, "runAsuser: unknown field (did you mean runAsUser?)"),
        (
            {"capabilities": {"drop": ["not one"]}},
            "spec.process.securityContext.capabilities.drop[0]: string should",
        ),
    ],
)
def test_security_that_cannot_be_kept(security: Value, words: str) -> None:
    assert words in refusals(pod({"securityContext": security}))[-1]


def test_security_that_is_kept() -> None:
    own = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
           "capabilities": {"drop": ["all"], "add": ["CAP_NET_BIND_SERVICE"]}}  # fmt: skip
    made = process(
        pod({"securityContext": own}, securityContext={"fsGroup": 0, "supplementalGroups": [4, 5]})
    )
    kept = made.security_context
    assert (kept.fs_group, kept.supplemental_groups) == (0, (4, 5))
    assert kept.read_only_root_filesystem and not kept.allow_privilege_escalation
    assert (kept.capabilities.drop, kept.capabilities.add) == (("ALL",), ("NET_BIND_SERVICE",))
    assert (
        "root in the guest has all of the guest" in notes(pod({"securityContext": {"privileged": True}}))[0]
    )
    assert "sysctls" in refusals(pod(securityContext={"sysctls": [{"name": "a", "value": "b"}]}))[0]


def test_hosts_are_chosen_by_labels() -> None:
    def affine(*terms: Value) -> Value:
        required = {"nodeSelectorTerms": [{"matchExpressions": [term]} for term in terms]}
        return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}

    one = {"key": "zone", "operator": "In", "values": ["a"]}
    made = manifest(pod(nodeSelector={"disk": "ssd", "kubernetes.io/arch": "amd64"}, affinity=affine(one)))
    assert made.spec.placement.node_selector == {"disk": "ssd", "zone": "a"}
    assert "holds for no host" in refusals(pod(nodeSelector={"kubernetes.io/arch": "arm64"}))[0]
    assert "this is a choice" in refusals(pod(affinity=affine(one, one)))[0]
    assert "can only be In one value" in refusals(pod(affinity=affine({**one, "operator": "NotIn"})))[0]
    assert "can only be In one value" in refusals(pod(affinity=affine({**one, "values": ["a", "b"]})))[0]
    assert "zone cannot have two values" in refusals(pod(nodeSelector={"zone": "b"}, affinity=affine(one)))[0]
    required = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}
    assert "hosts are chosen by labels, not by what else runs there" in refusals(pod(affinity=required))[0]


# ---- probes


def test_probes_are_asked_inside_the_guest() -> None:
    made = process(
        pod({
            "ports": [{"name": "http", "containerPort": 8080}],
            "livenessProbe": {"httpGet": {"port": "http", "path": "healthz"}, "periodSeconds": 3},
            "readinessProbe": {"tcpSocket": {"port": "9000"}, "successThreshold": 2},
            "startupProbe": {"exec": {"command": ["$(x)"]}, "failureThreshold": 30, "timeoutSeconds": 0},
        })
    )  # fmt: skip
    live, ready, start = made.liveness_probe, made.readiness_probe, made.startup_probe
    assert (
        live
        and live.http_get
        and (live.http_get.port, live.http_get.path, live.period_seconds) == (8080, "/healthz", 3)
    )
    assert ready and ready.tcp_socket and (ready.tcp_socket.port, ready.success_threshold) == (9000, 2)
    assert start and start.exec and (start.exec.command, start.timeout_seconds) == (("$(x)",), 1)


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ({"grpc": {"port": 1}}, f"{C}.livenessProbe.grpc: a guest asks by exec, httpGet or tcpSocket"),
        ({}, f"{C}.livenessProbe: a probe is exactly one of exec, httpGet and tcpSocket"),
        (
            {"tcpSocket": {"port": "http"}},
            f"{C}.livenessProbe.tcpSocket.port: the container has no port named 'http'",
        ),
        (
            {"tcpSocket": {"port": True}},
            f"{C}.livenessProbe.tcpSocket.port: a port is a number or the name of one",
        ),
        (
            {"tcpSocket": {"port": 80, "host": "b"}},
            f"{C}.livenessProbe.tcpSocket.host: the guest asks itself",
        ),
        ({"httpGet": {"port": 80, "host": "b"}}, f"{C}.livenessProbe.httpGet.host: the guest asks itself"),
        (
            {"httpGet": {"port": 80}, "terminationGracePeriodSeconds": 5},
            "terminationGracePeriodSeconds: give the pod's",
        ),
        ({"tcpSocket": {"port": 80}, "successThreshold": 2}, "livenessProbe.successThreshold can only be 1"),
        (
            {"exec": {}},
            "as an Endophyte: spec.process.livenessProbe.exec.command: tuple should have at least 1",
        ),
        ({"tcpSocket": {"port": 70000}}, "as an Endophyte: spec.process.livenessProbe.tcpSocket.port"),
    ],
)
def test_probes_that_cannot_be_kept(probe: Value, words: str) -> None:
    found = refusals(pod({"livenessProbe": probe}))
    assert len(found) == 1 and words in found[0]


# ---- variables

REFS = {
    "configMapKeyRef": config_map("m", {"k": "v$(A)", "p": "plain"}),
    "secretKeyRef": secret("m", {"k": "v$(A)", "p": "plain"}),
}


@pytest.mark.parametrize("ref", REFS)
def test_a_value_of_another_object_is_put_in_as_it_is(ref: str) -> None:
    env = [{"name": "A", "value": "a"}, {"name": "B", "valueFrom": {ref: {"name": "m", "key": "k"}}}]
    made = process(pod({"env": env}), REFS[ref])
    assert made.environment({}) == {"A": "a", "B": "v$(A)"}
    assert [one.secret for one in made.env] == [False, ref == "secretKeyRef"]


@pytest.mark.parametrize("ref", REFS)
def test_what_is_not_in_this_call_is_named(ref: str) -> None:
    def of(**more: Any) -> Value:
        return pod({"env": [{"name": "B", "valueFrom": {ref: {"name": "m", "key": "absent", **more}}}]})

    kind = REFS[ref]["kind"]
    assert refusals(of(), REFS[ref]) == [f"{C}.env[0].valueFrom.{ref}.key: {kind} m has no key absent"]
    assert refusals(of()) == [
        f"{C}.env[0].valueFrom.{ref}.name: {kind} m is not in this call: apply both together"
    ]
    elsewhere = {**REFS[ref], "metadata": {"name": "m", "namespace": "other"}}
    assert "is not in this call" in refusals(of(), elsewhere)[0]
    assert process(of(optional=True), REFS[ref]).env == ()
    assert notes(of(optional=True)) == [
        f"{C}.env[0].valueFrom.{ref}.name: {kind} m is optional, and not in this call"
    ]


def test_all_values_of_an_object() -> None:
    maps = config_map("m", {"A": "1", "B": "2"}), secret("s", {"B": "3", "C": "4"})
    made = pod({
        "envFrom": [{"configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}, "prefix": "S_"},
                    {"secretRef": {"name": "s"}}],
        "env": [{"name": "C", "value": "$(A)$(S_B)"}],
    })  # fmt: skip
    found = process(made, *maps)
    assert found.environment({}) == {"A": "1", "S_B": "3", "S_C": "4", "B": "3", "C": "13"}
    assert {one.name for one in found.env if one.secret} == {"S_B", "S_C", "B"}


def test_a_variable_that_is_given_later_is_not_guessed() -> None:
    maps = config_map("m", {"A": "1"})
    env = [{"name": "B", "value": "$(A)"}, {"name": "A", "value": "2"}]
    made = pod({"envFrom": [{"configMapRef": {"name": "m"}}], "env": env})
    assert refusals(made, maps) == [f"{C}.env[0]: $(A) is given by envFrom here, and by env after it"]
    assert process(pod({"envFrom": made["spec"]["containers"][0]["envFrom"], "env": env[::-1]}), maps)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"fieldRef": {"fieldPath": "spec.nodeName"}}, "spec.nodeName changes while it runs"),
        ({"fieldRef": {"fieldPath": "status.hostIP"}}, "status.hostIP changes while it runs"),
        ({"fieldRef": {"fieldPath": "status.phase"}}, "'status.phase' is not a field that can be kept"),
        (
            {"fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v2"}},
            "fieldRef.apiVersion: input should be 'v1'",
        ),
        (
            {"resourceFieldRef": {"resource": "limits.gpu"}},
            "resourceFieldRef.resource: 'limits.gpu' is not cpu",
        ),
        (
            {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "x"}},
            "resourceFieldRef.divisor: 'x' is not",
        ),
        ({}, "it is exactly one source"),
        (
            {"fieldRef": {"fieldPath": "metadata.name"}, "secretKeyRef": {"name": "a", "key": "b"}},
            "exactly one source",
        ),
        ({"fileKeyRef": {"path": "x"}}, "fileKeyRef: only init containers could have made the file"),
    ],
)
def test_sources_that_cannot_be_kept(source: Value, words: str) -> None:
    assert words in refusals(pod({"env": [{"name": "A", "valueFrom": source}]}))[0]


def test_fields_of_the_pod() -> None:
    def field(path: str) -> Value:
        return {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": path}}}

    def amount(resource: str, divisor: str = "0") -> Value:
        return {"name": "F", "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}}

    limits = {"resources": {"limits": {"cpu": "1500m", "memory": "100Mi"}}}
    for env, value in (
        (field("metadata.name"), "a"), (field("metadata.labels['app']"), "a"), (field("metadata.labels['b']"), ""),
        (field("spec.serviceAccountName"), "default"), (amount("limits.cpu"), "2"),
        (amount("limits.cpu", "1m"), "1500"),
        (amount("limits.memory"), str(100 * MIB)), (amount("limits.memory", "1Mi"), "100"),
        (amount("requests.memory", "1Mi"), "164"),
    ):  # fmt: skip
        assert process(pod({"env": [env], **limits})).env[0].value == value
    for path, known in (
        ("status.podIP", "status.podIP"),
        ("status.podIPs", "status.podIP"),
        ("metadata.uid",) * 2,
    ):
        source = process(pod({"env": [field(path)]})).env[0].value_from
        assert source and source.field_ref.field_path == known


@pytest.mark.parametrize("data", [b"\xff", b"a\0b"])
def test_a_variable_is_text(data: bytes) -> None:
    binary = config_map("m", {}, binaryData={"k": base64.b64encode(data).decode()})
    env = [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]
    assert "the value of k is no text" in refusals(pod({"env": env}), binary)[0]
