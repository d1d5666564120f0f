"""`vdc apply` and `vdc delete` of Kubernetes' objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_support import Capture, Cluster, cluster, vdc

from vdc.model.manifest import EndophyteManifest
from vdc.model.strict_yaml import parse_documents

__all__ = ["cluster"]
GOLDEN = Path(__file__).parent / "golden" / "kubernetes"
POD = """
apiVersion: v1
kind: Pod
metadata: {name: NAME, annotations: {mycelium.network/service-type: endophyte}}
spec: {containers: [{name: c, image: "x:1"}]}
"""


@pytest.fixture(autouse=True)
def images(cluster: Cluster) -> None:
    cluster.containers |= {"x:1", "nginx:1.27", "redis:7.2"}


def of(name: str, **changes: str) -> str:
    text = POD.replace("NAME", name)
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


def written(folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return str(folder)


def test_apply_of_a_stateful_set_has_a_line_for_each_object(cluster: Cluster, capsys: Capture) -> None:
    code, out, err = vdc(capsys, "apply", "-f", str(GOLDEN / "redis-statefulset.yaml"))
    assert code == 0
    assert out.splitlines() == [
        "configmap/redis-config is part of endophyte/redis",
        "secret/redis is part of endophyte/redis",
        "service/redis is the name of endophyte/redis",
        "endophyte/redis created (from statefulset/redis)",
    ]
    assert "note: statefulset/redis: spec.serviceName: there are no names below a service" in err
    spec = cluster.views["redis"].spec
    assert spec["process"]["args"][2] == "$(REDIS_PASSWORD)" and spec["image"] == "redis:7.2"


def test_a_dry_run_shows_the_endophyte(cluster: Cluster, capsys: Capture) -> None:
    code, out, _ = vdc(
        capsys, "apply", "--dry-run", "-o", "yaml", "-f", str(GOLDEN / "postgres-deployment.yaml")
    )
    assert code == 0 and not cluster.views
    ((shown,),) = (document["items"] for document in parse_documents(out.encode()))
    assert (
        shown["dry_run"] and shown["endophyte"]["spec"]["disks"][1]["mountPath"] == "/var/lib/postgresql/data"
    )


def test_a_refused_object_does_not_hide_the_others(cluster: Cluster, capsys: Capture, tmp_path: Path) -> None:
    folder = written(
        tmp_path,
        a=of("first", containers="hostNetwork: true, containers"),
        b=of("second"),
        c="apiVersion: v1\nkind: Service\nmetadata: {name: lonely}\nspec: {selector: {a: b}}\n",
        d=of("third", **{"endophyte}": "endomycete}"}),
    )
    code, out, err = vdc(capsys, "apply", "-f", folder)
    assert code == 2 and out == "endophyte/second created (from pod/second)\n"
    assert f"error: {folder}/a.yaml: pod/first: spec.hostNetwork: an Endophyte has a kernel" in err
    assert "kind Service is not supported yet" in err and "kind Pod is not supported yet" in err
    assert list(cluster.views) == ["second"]


def test_nothing_but_refusals_asks_nobody(cluster: Cluster, capsys: Capture, tmp_path: Path) -> None:
    code, out, err = vdc(capsys, "apply", "-f", str(GOLDEN / "refused-workload.yaml"))
    assert code == 2 and cluster.asked == []
    assert out == "secret/kafka is not applied: statefulset/kafka is refused\n"
    assert "spec.template.spec.hostNetwork" in err and "docs/kubernetes-manifests.md" in err


def test_the_same_endophyte_twice_in_a_call(cluster: Cluster, capsys: Capture, tmp_path: Path) -> None:
    seed = "kind: Endophyte\nmetadata: {name: web}\nspec: {image: x}\n"
    code, _, err = vdc(capsys, "apply", "-f", written(tmp_path, a=of("web"), b=seed))
    assert code == 2 and "endophyte/web is described in" in err


def test_json_output_is_json_alone(cluster: Cluster, capsys: Capture) -> None:
    _, out, err = vdc(capsys, "apply", "-o", "json", "-f", str(GOLDEN / "redis-statefulset.yaml"))
    assert [item["action"] for item in json.loads(out)["items"]] == ["created"] and err.startswith("note: ")


def test_delete_is_the_other_way_round(cluster: Cluster, capsys: Capture) -> None:
    source = str(GOLDEN / "redis-statefulset.yaml")
    vdc(capsys, "apply", "-f", source)
    code, out, _ = vdc(capsys, "delete", "-f", source)
    assert code == 0 and not cluster.views
    assert out.splitlines()[-1] == "endophyte/redis deleted"


def test_what_cannot_be_applied_any_more_can_be_deleted(
    cluster: Cluster, capsys: Capture, tmp_path: Path
) -> None:
    vdc(capsys, "apply", "-f", written(tmp_path, a=of("web")))
    folder = written(
        tmp_path, a=of("web", containers="hostNetwork: true, containers"), b="a: [", c=of("gone")
    )
    code, out, err = vdc(capsys, "delete", "-f", folder)
    assert (code, out) == (1, "endophyte/web deleted\n")
    assert "b.yaml" in err and "there is no endophyte gone" in err


def test_what_is_no_manifest_does_not_keep_the_others(
    cluster: Cluster, capsys: Capture, tmp_path: Path
) -> None:
    cluster.add("web")
    seed = "kind: Endophyte\nmetadata: {name: web}\nspec: {image: x}\n"
    code, out, _ = vdc(capsys, "delete", "-f", written(tmp_path, a="a: [", b=seed))
    assert (code, out) == (2, "endophyte/web deleted\n")
    assert vdc(capsys, "delete", "-f", written(tmp_path, b="a: ["))[:2] == (2, "")


@pytest.mark.parametrize("namespace", ["", "metadata: {namespace: other, "])
def test_another_namespaces_endophyte_is_not_deleted(
    cluster: Cluster, capsys: Capture, tmp_path: Path, namespace: str
) -> None:
    mine = of("web", **{"metadata: {": "metadata: {namespace: shop, "})
    manifest = EndophyteManifest.model_validate({
        "metadata": {"name": "web", "annotations": {"mycelium.network/namespace": "shop"}}, "spec": {"image": "x:1"},
    })  # fmt: skip
    cluster.add("web", manifest)
    cluster.views["web"] = cluster.views["web"].with_(
        metadata=cluster.views["web"].metadata.with_(annotations=manifest.metadata.annotations)
    )
    changes = {"metadata: {": namespace} if namespace else {}
    code, _, err = vdc(capsys, "delete", "-f", written(tmp_path, a=of("web", **changes)))
    assert code == 1 and "endophyte/web is that of namespace shop, not of" in err and "web" in cluster.views
    assert vdc(capsys, "delete", "-f", written(tmp_path, a=mine))[0] == 0
