"""Workloads and pods, field by field: what each becomes, and by which words it is refused."""

from __future__ import annotations

import pytest
from kubernetes_support import Value, manifest, notes, pod, process, refusals, routed, template

from vdc.model.manifest import ISOLATION_LEVEL, SERVICE_TYPE, MemorySync

C = "spec.containers[0]"


def ours(**more: str) -> Value:
    value = pod()
    value["metadata"]["annotations"].update(
        {f"mycelium.network/{key.replace('_', '-')}": text for key, text in more.items()}
    )
    return value


# ---- the three kinds


def test_a_pod_is_an_endophyte_of_its_image() -> None:
    made = manifest(pod())
    assert (made.metadata.name, made.spec.image, made.spec.virtual_computer.type) == ("a", "x:1", "container")
    assert made.metadata.labels == {"app": "a"} and made.metadata.annotations == {SERVICE_TYPE: "endophyte"}
    assert made.spec.disks == () and made.spec.virtual_computer.dedicated_nodes == 3


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_a_template_says_the_same_as_a_pod(kind: str) -> None:
    assert manifest(template(pod(), kind)).spec.image == manifest(pod()).spec.image
    assert manifest(template(pod(), kind, replicas=1, selector={"matchLabels": {"app": "a"}}))


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
@pytest.mark.parametrize(
    ("replicas", "words"), [(0, "write 1, and use vdc stop"), (3, "3 of them"), (-1, "write 1")]
)
def test_there_is_exactly_one(kind: str, replicas: int, words: str) -> None:
    (reason,) = refusals(template(pod(), kind, replicas=replicas))
    assert reason.startswith("spec.replicas: ") and words in reason


def test_a_stateful_sets_pod_has_a_number() -> None:
    env = [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    made = process(template(pod({"env": env}), "StatefulSet", ordinals={"start": 4}))
    assert made.hostname == "a-4" and made.env[0].value == "a-4"
    assert process(template(pod({"env": env}), "Deployment")).env[0].value == "a"
    assert process(template(pod(hostname="other"), "StatefulSet")).hostname == "other"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            {"selector": {"matchLabels": {"app": "b"}}},
            "spec.selector.matchLabels.app: the template's labels do not",
        ),
        ({"paused": True}, "spec.paused: what is applied takes effect"),
        ({"replica": 1}, "spec.replica: unknown field (did you mean replicas?)"),
        ({"replicas": "1"}, "spec.replicas: input should be a valid integer"),
        ({"serviceName": "a"}, "spec.serviceName: unknown field"),
    ],
)
def test_a_deployments_own_fields(spec: Value, words: str) -> None:
    assert words in refusals(template(pod(), "Deployment", **spec))[0]


def test_a_stateful_sets_own_fields() -> None:
    made = template(pod(), "StatefulSet", persistentVolumeClaimRetentionPolicy={"whenDeleted": "Retain"})
    assert refusals(made) == [
        "spec.persistentVolumeClaimRetentionPolicy.whenDeleted: an Endophyte's disks are deleted with it"
    ]
    kept = template(
        pod(), "StatefulSet", serviceName="a", podManagementPolicy="Parallel", minReadySeconds=3,
        persistentVolumeClaimRetentionPolicy={"whenDeleted": "Delete", "whenScaled": "Retain"},
    )  # fmt: skip
    assert notes(kept) == [
        "spec.serviceName: there are no names below a service: its own name is all it is reached by",
        "spec.podManagementPolicy, spec.minReadySeconds: there is one computer, which is changed where it is",
        "spec.persistentVolumeClaimRetentionPolicy.whenScaled: there is one computer, which is not scaled",
    ]


def test_another_version_is_another_kind() -> None:
    made = {**template(pod(), "Deployment"), "apiVersion": "extensions/v1beta1"}
    assert refusals(made) == ["apiVersion: input should be 'apps/v1' (given: 'extensions/v1beta1')"]


@pytest.mark.parametrize("count", [0, 2])
def test_one_container(count: int) -> None:
    made = pod()
    made["spec"]["containers"] = made["spec"]["containers"] * count
    assert f"there are {count or 'no'} containers" in refusals(made)[0]


# ---- the object's own data


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"name": "a.b"}, "metadata.name: 'a.b' is not a valid name"),
        ({"name": ""}, "metadata.name: '' is not a valid name"),
        ({"generateName": "a-"}, "metadata.generateName: an Endophyte is applied by its name"),
        (
            {"ownerReferences": [{"kind": "ReplicaSet"}]},
            "metadata.ownerReferences: it belongs to another object",
        ),
        ({"finalizers": ["x"]}, "metadata.finalizers: nobody here would take them away"),
        ({"lables": {}}, "metadata.lables: unknown field (did you mean labels?)"),
        ({"labels": {"a": 1}}, "metadata.labels.a: input should be a valid string"),
    ],
)
def test_metadata_that_cannot_be_kept(metadata: Value, words: str) -> None:
    value = pod()
    value["metadata"].update(metadata)
    found = refusals({**value, "metadata": value["metadata"]}) if metadata.get("name", "a") == "a" else None
    if found is None:
        found = [str(routed(value)[0].error)]
    assert any(words in one for one in found)


def test_what_a_server_writes_is_left_to_it() -> None:
    value = pod()
    value["metadata"].update(
        uid="u", resourceVersion="5", generation=2, creationTimestamp="2030-01-01T00:00:00Z", managedFields=[{}],
        selfLink="/x",
    )  # fmt: skip
    assert manifest({**value, "status": {"phase": "Running"}}) == manifest(pod()) and notes(value) == []


def test_labels_and_annotations_of_both_are_carried() -> None:
    value = template(pod(), "Deployment")
    value["metadata"]["labels"] = {"app": "other", "team": "x"}
    value["metadata"]["annotations"]["prometheus.io/scrape"] = "true"
    value["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = "{}"
    made = manifest(value).metadata
    assert made.labels == {"app": "a", "team": "x"}
    assert made.annotations == {SERVICE_TYPE: "endophyte", "prometheus.io/scrape": "true"}
    assert notes(value) == ["metadata.labels.app: the template's value counts"]


def test_annotations_of_ours() -> None:
    made = manifest(ours(dedicated_nodes="2", memory_sync="none", isolation_level="dedicated"))
    computer = made.spec.virtual_computer
    assert (computer.dedicated_nodes, computer.memory_sync) == (2, MemorySync.NONE)
    assert made.is_dedicated and set(made.metadata.annotations) == {SERVICE_TYPE, ISOLATION_LEVEL}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            ours(dedicated_nodes="two"),
            "metadata.annotations.mycelium.network/dedicated-nodes: 'two' is not a number",
        ),
        (
            ours(dedicated_nodes="99"),
            "spec.virtualComputer.dedicatedNodes: input should be less than or equal to 16",
        ),
        (
            ours(memory_sync="often"),
            "spec.virtualComputer.memorySync: input should be 'continuous' or 'none'",
        ),
        (ours(isolation_level="high"), "'high' is neither 'shared' nor 'dedicated'"),
        (ours(memory_snc="none"), "unknown (did you mean mycelium.network/memory-sync?)"),
        (
            ours(distribution_strategy="quorum"),
            "metadata.annotations.mycelium.network/distribution-strategy: unknown",
        ),
    ],
)
def test_annotations_of_ours_that_make_no_sense(value: Value, words: str) -> None:
    assert words in refusals(value)[0]


def test_a_namespace_is_remembered() -> None:
    value = pod({"env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}]})
    assert process(value).env[0].value == "default"
    value["metadata"]["namespace"] = "shop"
    assert process(value).env[0].value == "shop"
    assert manifest(value).metadata.annotations["mycelium.network/namespace"] == "shop"


# ---- the program


def test_the_program_is_what_the_pod_says() -> None:
    made = process(
        pod(
            {"command": ["a"], "args": ["$(B)"], "workingDir": "/w", "env": [{"name": "B", "value": "$$(c)"}],
             "ports": [{"name": "http", "containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}],
             "lifecycle": {"stopSignal": "SIGQUIT"}},
            restartPolicy="OnFailure", terminationGracePeriodSeconds=5,
        )
    )  # fmt: skip
    assert (made.command, made.args, made.working_dir) == (("a",), ("$(B)",), "/w")
    assert (made.restart_policy, made.stop_seconds, made.stop_signal) == ("OnFailure", 5, "SIGQUIT")
    assert made.env[0].value == "$$(c)" and made.environment({}) == {"B": "$(c)"}
    assert [(port.name, port.container_port, port.protocol) for port in made.ports] == [
        ("http", 80, "TCP"), (None, 53, "UDP"),
    ]  # fmt: skip


def test_what_is_empty_or_null_leaves_the_images_own() -> None:
    made = process(
        pod({"command": [], "args": None, "workingDir": "", "env": None, "ports": None, "lifecycle": None})
    )
    assert (made.command, made.args, made.working_dir, made.env) == (None, None, None, ())


@pytest.mark.parametrize(
    ("container", "words"),
    [
        (
            {"lifecycle": {"postStart": {"exec": {}}}},
            f"{C}.lifecycle.postStart: only the program itself is run",
        ),
        (
            {"lifecycle": {"preStop": {"sleep": {}}}},
            f"{C}.lifecycle.preStop: the program is stopped by its signal",
        ),
        ({"ports": [{"containerPort": 80, "hostPort": 80}]}, f"{C}.ports[0].hostPort: publishing ports"),
        ({"stdin": True}, f"{C}.stdin: the program has no terminal"),
        ({"tty": True}, f"{C}.tty: the program has no terminal"),
        ({"volumeDevices": [{"name": "v"}]}, f"{C}.volumeDevices: a volume is a file system here"),
        ({"restartPolicy": "Always"}, f"{C}.restartPolicy: give the pod's own"),
        ({"image": ""}, f"{C}.image: string should have at least 1"),
        ({"imag": "x"}, f"{C}.imag: unknown field (did you mean image?)"),
        ({"env": [{"name": "A"}, {"name": "A"}]}, f"{C}.env[1]: variable A is given twice"),
        ({"env": [{"name": "A", "value": 5}]}, f"{C}.env[0].value: input should be a valid string"),
        (
            {"env": [{"name": "A=", "value": "b"}]},
            "as an Endophyte: spec.process.env[0].name: string should match",
        ),
        ({"command": "sh"}, f"{C}.command: input should be a valid"),
    ],
)
def test_what_a_program_cannot_have(container: Value, words: str) -> None:
    assert words in refusals(pod(container))[0]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"hostNetwork": True}, "spec.hostNetwork: an Endophyte has a kernel and a network of its own"),
        ({"hostPID": True}, "spec.hostPID: an Endophyte has a kernel"),
        ({"hostIPC": True}, "spec.hostIPC: an Endophyte has a kernel"),
        ({"hostAliases": [{"ip": "1.2.3.4"}]}, "spec.hostAliases: the guest's /etc/hosts"),
        ({"initContainers": [{"name": "i"}]}, "spec.initContainers: an Endophyte runs one program"),
        ({"ephemeralContainers": [{}]}, "spec.ephemeralContainers: an Endophyte runs one program"),
        ({"serviceAccountName": "robot"}, "spec.serviceAccountName: there is no Kubernetes API"),
        ({"serviceAccount": "robot"}, "spec.serviceAccountName: there is no Kubernetes API"),
        (
            {"automountServiceAccountToken": True},
            "spec.automountServiceAccountToken: there is no Kubernetes API",
        ),
        ({"dnsPolicy": "None"}, "spec.dnsPolicy: input should be 'ClusterFirst' or 'Default'"),
        (
            {"dnsConfig": {"nameservers": []}},
            "spec.dnsConfig: names are resolved by the overlay's own servers",
        ),
        ({"subdomain": "x"}, "spec.subdomain: there are no names below a service"),
        ({"nodeName": "h1"}, "spec.nodeName: its host changes"),
        ({"schedulerName": "mine"}, "spec.schedulerName: input should be 'default-scheduler'"),
        ({"activeDeadlineSeconds": 60}, "spec.activeDeadlineSeconds: it runs until it is stopped"),
        ({"readinessGates": [{}]}, "spec.readinessGates: nobody here"),
        ({"resourceClaims": [{}]}, "spec.resourceClaims: devices of a host"),
        ({"os": {"name": "windows"}}, "spec.os.name: input should be 'linux'"),
        ({"terminationGracePeriodSeconds": 7200}, "as an Endophyte: spec.process.stopSeconds"),
        ({"hostname": "A_b"}, "as an Endophyte: spec.process.hostname: 'A_b' is not a valid name"),
        ({"setHostnameAsFQDN": True}, "spec.setHostnameAsFQDN: there are no names below"),
        ({"hostNetwrk": True}, "spec.hostNetwrk: unknown field (did you mean hostNetwork?)"),
    ],
)
def test_what_a_pod_cannot_have(spec: Value, words: str) -> None:
    assert words in refusals(pod(**spec))[0]


def test_what_says_nothing_is_no_refusal() -> None:
    assert notes(pod(
        hostNetwork=False, hostPID=False, initContainers=[], imagePullSecrets=[], dnsPolicy="ClusterFirst",
        schedulerName="default-scheduler", serviceAccountName="default", automountServiceAccountToken=False,
        securityContext={}, affinity={}, nodeSelector=None, tolerations=[], hostUsers=False, os={"name": "linux"},
    )) == []  # fmt: skip


def test_what_means_nothing_here_is_noted_by_its_reason() -> None:
    found = notes(
        pod(
            {"imagePullPolicy": "Always", "terminationMessagePath": "/x", "terminationMessagePolicy": "File"},
            priorityClassName="high", tolerations=[{"operator": "Exists"}], enableServiceLinks=True,
            imagePullSecrets=[{"name": "r"}], topologySpreadConstraints=[{}],
        )
    )  # fmt: skip
    assert len(found) == 6
    assert (
        "spec.tolerations, spec.priorityClassName: hosts of Endophytes have no taints, priorities or classes"
        in found
    )


def test_a_deployment_is_always_restarted() -> None:
    assert refusals(template(pod(restartPolicy="Never"), "Deployment")) == [
        "spec.template.spec.restartPolicy: a Deployment's is Always"
    ]


def test_all_refusals_come_at_once() -> None:
    found = refusals(
        pod({"tty": True, "envFrom": [{"configMapRef": {"name": "gone"}}], "typo": 1}, hostNetwork=True)
    )
    assert [one.split(":")[0] for one in found] == [f"{C}.tty", "spec.hostNetwork", f"{C}.typo"]
    found = refusals(pod({"tty": True, "envFrom": [{"configMapRef": {"name": "gone"}}]}, hostNetwork=True))
    assert [one.split(":")[0] for one in found] == [
        f"{C}.tty",
        "spec.hostNetwork",
        f"{C}.envFrom[0].configMapRef.name",
    ]
