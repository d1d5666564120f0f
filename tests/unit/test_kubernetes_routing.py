"""The objects of one call together; and that nothing of a workload is dropped silently, whatever it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes_support import Value, claim, config_map, mounted, pod, routed, secret, template

from vdc.kubernetes.routing import namespace_of, route, service_type
from vdc.model.manifest import SERVICE_TYPE
from vdc.model.manifest_file import Loaded, load_object
from vdc.model.strict_yaml import parse_documents

GOLDEN = Path(__file__).parent / "golden" / "kubernetes"


def service(name: str = "a", *ports: Value, **spec: Any) -> Value:
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": "a"}, "ports": list(ports), **spec},
    }  # fmt: skip


def without_annotation(value: Value) -> Value:
    made = copy.deepcopy(value)
    del made["metadata"]["annotations"]
    return made


# ---- who is meant


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_the_annotation_may_be_the_pods(kind: str) -> None:
    made = template(pod(), kind)
    made["spec"]["template"]["metadata"]["annotations"] = made["metadata"].pop("annotations")
    assert service_type(made) == "endophyte" and routed(made)[0].manifest


@pytest.mark.parametrize("text", [None, "endomycete"])
@pytest.mark.parametrize("kind", ["Pod", "Deployment", "Job", "Widget"])
def test_others_get_todays_error_with_the_way_out(kind: str, text: str | None) -> None:
    made = {**pod(), "kind": kind}
    made["metadata"]["annotations"] = {SERVICE_TYPE: text} if text else {}
    (found,) = routed(made)
    assert found.error and found.error.code == "kind-unsupported" and found.manifest is None
    assert f"kind {kind} is not supported yet" in str(found.error)
    if kind != "Widget":
        assert f"{SERVICE_TYPE}: endophyte" in found.error.problem.hint


@pytest.mark.parametrize("text", ["endophite", "", 5, True, ["endophyte"]])
def test_a_misspelt_annotation_is_not_taken_for_none(text: Any) -> None:
    made = pod()
    made["metadata"]["annotations"] = {SERVICE_TYPE: text}
    (found,) = routed(made)
    assert found.error and "is neither 'endophyte' nor 'endomycete'" in str(found.error)


def test_the_object_and_its_template_have_to_agree() -> None:
    made = template(pod(), "Deployment")
    made["spec"]["template"]["metadata"]["annotations"] = {SERVICE_TYPE: "endomycete"}
    (found,) = routed(made)
    assert found.error and "contradict each other" in str(found.error)


@pytest.mark.parametrize(
    ("kind", "hint"),
    [("ReplicaSet", "a Deployment"), ("DaemonSet", "not on each"), ("Job", "a Pod with restartPolicy"),
     ("CronJob", "keeps the time itself"), ("Ingress", "these can: Pod, Deployment, StatefulSet")],
)  # fmt: skip
def test_kinds_that_cannot_become_one_are_refused_by_name(kind: str, hint: str) -> None:
    (found,) = routed({**pod(), "kind": kind})
    assert found.error and found.error.code == "conversion-refused" and found.origin == ""
    assert str(found.error) == f"f0: {kind.lower()}/a: a {kind} cannot become an Endophyte"
    assert hint in found.error.problem.hint


# ---- what is beside them


def test_each_object_has_its_own_result_in_its_own_place() -> None:
    env = {"envFrom": [{"configMapRef": {"name": "m"}}]}
    found = routed(
        config_map("m", {}), pod(env), config_map("other", {}), {**pod(), "kind": "Endophyte"}, service(), 5,
    )  # fmt: skip
    assert [item.label for item in found] == [
        "configmap/m", "endophyte/a", "configmap/other", "endophyte/a", "service/a", "f5",
    ]  # fmt: skip
    assert found[0].part_of == "is part of endophyte/a" and found[0].error is None
    assert found[1].origin == "pod/a" and namespace_of(found[1]) == "default"
    assert found[2].error and "refers to it" in found[2].error.problem.hint
    assert found[4].part_of == "is the name of endophyte/a"
    assert all(item.error for item in (found[3], found[5])) and namespace_of(found[3]) is None


def test_what_belongs_to_a_refused_one_says_so() -> None:
    made = pod({"envFrom": [{"secretRef": {"name": "s"}}]}, hostNetwork=True)
    found = routed(made, secret("s", {}), service())
    assert found[0].origin == "pod/a" and found[0].error
    assert [item.part_of for item in found[1:]] == ["is not applied: pod/a is refused"] * 2
    broken = {**made, "spec": {**made["spec"], "typo": 1}}
    assert routed(broken, secret("s", {}))[1].part_of == "is not applied: pod/a is refused"


def test_a_namespace_keeps_to_itself() -> None:
    made = pod({"envFrom": [{"configMapRef": {"name": "m"}}]})
    made["metadata"]["namespace"] = "shop"
    near, far = config_map("m", {"A": "near"}), config_map("m", {"A": "far"})
    near["metadata"]["namespace"] = "shop"
    found = routed(made, near, far)
    assert found[0].manifest and found[0].manifest.spec.process
    assert found[0].manifest.spec.process.env[0].value == "near"
    assert found[1].part_of and found[2].error and namespace_of(found[0]) == "shop"


def test_a_name_may_be_long() -> None:
    name = "m" * 200
    found = routed(pod({"envFrom": [{"configMapRef": {"name": name}}]}), config_map(name, {"A": "b"}))
    assert found[0].manifest and found[1].part_of == "is part of endophyte/a"


def test_the_same_object_twice() -> None:
    made = pod({"envFrom": [{"configMapRef": {"name": "m"}}]})
    found = routed(made, config_map("m", {}), config_map("m", {}))
    assert (
        found[1].part_of and found[2].error and "ConfigMap m is in this call already" in str(found[2].error)
    )


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        (secret("s", {}, data={"k": "!"}), "secret/s: data.k: this is not base64"),
        (secret("s", {"a/b": "x"}), "secret/s: data.a/b: a key has letters"),
        (secret("s", {}, dta={}), "secret/s: dta: unknown field (did you mean data?)"),
        (secret("s", {"k": 5}), "secret/s: stringData.k: input should be a valid string"),  # type: ignore[dict-item]
    ],
)
def test_a_companion_that_is_broken(beside: Value, words: str) -> None:
    found = routed(pod({"envFrom": [{"secretRef": {"name": "s"}}]}), beside)
    assert "Secret s cannot be used" in str(found[0].error)
    assert words in str(found[1].error) and "given" not in str(found[1].error)


def test_values_of_secrets_by_either_field() -> None:
    made = pod({"envFrom": [{"secretRef": {"name": "s"}}]})
    found = routed(made, secret("s", {"A": "text"}, data={"A": "b2xk", "B": "bm\nV3"}))
    assert found[0].manifest and found[0].manifest.spec.process
    assert {one.name: one.value for one in found[0].manifest.spec.process.env} == {"A": "text", "B": "new"}
    both = routed(
        pod({"envFrom": [{"configMapRef": {"name": "m"}}]}), config_map("m", {"A": ""}, binaryData={"A": ""})
    )
    assert "data.A: this key is in binaryData as well" in str(both[1].error)


# ---- services


@pytest.mark.parametrize(
    "made",
    [
        service(), service("a", {"port": 80}), service("a", {"port": 80, "targetPort": 80}, clusterIP="None"),
        service("a", {"port": 80, "targetPort": "http"}), service("a", {"port": 80, "targetPort": "80", "name": "x"}),
    ],
)  # fmt: skip
def test_a_service_that_is_the_endophytes_name(made: Value) -> None:
    found = routed(pod({"ports": [{"name": "http", "containerPort": 80}]}), made)
    assert found[1].part_of == "is the name of endophyte/a", found[1].error


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (service("b"), "metadata.name: endophyte/a is reached by its own name alone: call both the same"),
        (
            service("a", type="NodePort"),
            "spec.type: NodePort: publishing ports on the hosts is not supported yet",
        ),
        (service("a", type="LoadBalancer"), "spec.type: LoadBalancer: publishing"),
        (service("a", {"port": 80, "targetPort": 8080}), "spec.ports[0].port: 80 leads to 8080"),
        (
            service("a", {"port": 80, "targetPort": "web"}),
            "spec.ports[0].targetPort: the container has no port named 'web'",
        ),
        (service("a", {"port": 80, "nodePort": 30080}), "spec.ports[0].nodePort: publishing ports"),
        (service("a", externalIPs=["192.0.2.1"]), "spec.externalIPs: publishing ports"),
        (service("a", {"prot": 80}), "spec.ports[0].prot: unknown field (did you mean port?)"),
        (service("a", selecter={}), "spec.selecter: unknown field"),
    ],
)
def test_a_service_that_is_more_than_a_name(made: Value, words: str) -> None:
    first, second = routed(pod(), made)
    assert first.manifest and second.error and words in str(second.error)


def test_a_service_for_several_spreads() -> None:
    other = pod()
    other["metadata"]["name"] = "b"
    assert "it spreads over pod/a, pod/b" in str(routed(pod(), other, service())[2].error)


def test_a_service_of_others_is_todays_error() -> None:
    for made in (
        service("x", selector={"app": "other"}),
        service("x", selector={}),
        service("x", selector=5),
    ):
        found = routed(pod(), made)[1]
        assert found.error and found.error.code == "kind-unsupported"


# ---- nothing is dropped silently

Path_ = tuple[str | int, ...]
FREE = {
    "labels",
    "annotations",
    "data",
    "binaryData",
    "stringData",
    "nodeSelector",
    "matchLabels",
    "limits",
    "requests",
}
NOTED_WHOLE = {"strategy", "updateStrategy", "tolerations", "preferredDuringSchedulingIgnoredDuringExecution"}
SAYS_NOTHING = {  # what Kubernetes' default is as well, or what another field says already
    ("spec", "replicas"), ("spec", "selector"), ("creationTimestamp",), ("containers", 0, "name"), ("apiVersion",),
    ("protocol",), ("scheme",), ("automountServiceAccountToken",), ("serviceAccountName",), ("containerName",),
    ("kubectl.kubernetes.io/last-applied-configuration",), ("accessModes",), ("runAsNonRoot",),
    ("volumeMounts", 1, "readOnly"), ("resources", "requests"),
    ("metadata", "labels", "app.kubernetes.io/name"),
}  # fmt: skip


def values_of(name: str) -> list[Any]:
    found = parse_documents((GOLDEN / f"{name}.yaml").read_bytes())
    return [item for one in found for item in (one["items"] if one["kind"] == "List" else [one])]


def paths_in(value: Any, here: Path_ = ()) -> Iterator[Path_]:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*here, key)
        yield from paths_in(value[key], (*here, key))


def outcome(values: list[Any]) -> list[Any]:
    found = route([load_object(value, f"f{n}") for n, value in enumerate(values)])
    return [(item.manifest, str(item.error), item.part_of, item.notes) for item in found]


def changed(values: list[Any], at: int, path: Path_, new_key: str | None) -> list[Any]:
    made = copy.deepcopy(values)
    place = made[at]
    for key in path[:-1]:
        place = place[key]
    value = place.pop(path[-1])
    if new_key is not None:
        place[new_key] = value
    return made


def says_nothing(path: Path_) -> bool:
    return any(path[n : n + len(one)] == one for one in SAYS_NOTHING for n in range(len(path)))


CONVERTED = ["nginx-deployment", "postgres-deployment", "redis-statefulset"]


@pytest.mark.parametrize("name", CONVERTED)
def test_whatever_is_left_out_of_a_workload_shows(name: str) -> None:
    values = values_of(name)
    before = outcome(values)
    (at,) = (n for n, value in enumerate(values) if value["kind"] in ("Deployment", "StatefulSet"))
    silent = []
    for path in paths_in(values[at]):
        if says_nothing(path) or not NOTED_WHOLE.isdisjoint(path[:-1]):
            continue
        if outcome(changed(values, at, path, None)) == before:
            silent.append(path)
    assert silent == []


@pytest.mark.parametrize("name", CONVERTED)
def test_whatever_is_misspelt_is_refused(name: str) -> None:
    values = values_of(name)
    before = {error for _, error, _, _ in outcome(values)}
    silent = []
    for at, value in enumerate(values):
        for path in paths_in(value):
            key = path[-1]
            is_free = len(path) > 1 and path[-2] in FREE
            is_known = (
                isinstance(key, str) and NOTED_WHOLE.isdisjoint(path[:-1]) and key != "creationTimestamp"
            )
            if is_free or not is_known:
                continue
            errors = {error for _, error, _, _ in outcome(changed(values, at, path, f"{key}x"))}
            if errors <= before:
                silent.append((value["kind"], path))
    assert silent == []


PLAIN = st.none() | st.booleans() | st.integers(-5, 10**10) | st.floats(allow_nan=False, allow_infinity=False)
KEYS = st.sampled_from(["name", "key", "path", "a"])
ANY = st.recursive(
    PLAIN | st.text("a/.$( é", max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=4,
)
WHOLE = [value for name in CONVERTED for value in values_of(name)]
PLACES = [(n, path) for n, value in enumerate(WHOLE) for path in paths_in(value)]


@given(st.sampled_from(PLACES), ANY)
def test_no_value_anywhere_brings_it_down(place: tuple[int, Path_], value: Any) -> None:
    values = copy.deepcopy(WHOLE)
    at, path = place
    inside = values[at]
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    for item in route([load_object(one, "f") for one in values]):
        check_result(item)


@given(st.lists(ANY | st.builds(lambda kind, spec: {**pod(), "kind": kind, "spec": spec}, st.sampled_from(
    ["Pod", "Deployment", "StatefulSet", "Service", "Secret", "ConfigMap", "PersistentVolumeClaim", "Job"]), ANY),
    max_size=3))  # fmt: skip
def test_no_object_brings_it_down(values: list[Any]) -> None:
    for item in route([load_object(value, "f") for value in values]):
        check_result(item)


def check_result(item: Loaded) -> None:
    """Exactly one of a manifest that can be stored, an error that can be shown, and a sentence."""
    assert [item.manifest is not None, item.error is not None, bool(item.part_of)].count(True) == 1
    if item.manifest is not None:
        assert type(item.manifest).from_json(item.manifest.to_json()) == item.manifest
    if item.error is not None:
        item.error.problem.to_json()
        assert len(str(item.error)) < 5_000 and "\n" not in str(item.error)


def test_a_great_many_refusals_are_summed_up() -> None:
    made = pod({"ports": [{"containerPort": 1, "hostPort": 1}] * 300})
    (found,) = routed(made)
    assert len(str(found.error)) < 5_000 and str(found.error).endswith(" more")


def test_a_claim_of_another_namespace_is_not_taken() -> None:
    far = claim("d")
    far["metadata"]["namespace"] = "other"
    found = routed(mounted({"persistentVolumeClaim": {"claimName": "d"}}), far)
    assert "PersistentVolumeClaim d is not in this call" in str(found[0].error)
