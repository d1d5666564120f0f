"""Workloads that become Endophytes, written short."""

from __future__ import annotations

import copy
from typing import Any

from vdc.kubernetes.routing import route
from vdc.model.manifest import SERVICE_TYPE, EndophyteManifest
from vdc.model.manifest_file import Loaded, load_object
from vdc.model.process import Process

Value = dict[str, Any]


def pod(container: Value | None = None, **spec: Any) -> Value:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "labels": {"app": "a"}, "annotations": {SERVICE_TYPE: "endophyte"}},
        "spec": {"containers": [{"name": "c", "image": "x:1", **(container or {})}], **spec},
    }


def template(value: Value, kind: str, **spec: Any) -> Value:
    """The pod as the template of another kind."""
    made = copy.deepcopy(value)
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": made["metadata"]["name"], "annotations": made["metadata"].pop("annotations")},
        "spec": {
            "template": {"metadata": {"labels": made["metadata"]["labels"]}, "spec": made["spec"]},
            **spec,
        },
    }


def config_map(name: str, data: dict[str, str], /, **more: Any) -> Value:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data, **more}


def secret(name: str, data: dict[str, str], /, **more: Any) -> Value:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data, **more}


def claim(name: str, size: str = "1Gi", **spec: Any) -> Value:
    return {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, **spec},
    }  # fmt: skip


def routed(*values: Any) -> tuple[Loaded, ...]:
    return route([load_object(value, f"f{n}") for n, value in enumerate(values)])


def manifest(value: Value, *beside: Value) -> EndophyteManifest:
    """Of the first object."""
    found = routed(value, *beside)[0]
    assert found.manifest is not None, found.error
    return found.manifest


def process(value: Value, *beside: Value) -> Process:
    found = manifest(value, *beside).spec.process
    assert found is not None
    return found


def refusals(value: Value, *beside: Value) -> list[str]:
    """Of the first object, without what names it."""
    found = routed(value, *beside)[0]
    assert found.error is not None and found.error.code == "conversion-refused", found
    text = str(found.error)
    assert "\n" not in text
    return text.partition(f"{value['kind'].lower()}/a: ")[2].split("; ")


def notes(value: Value, *beside: Value) -> list[str]:
    found = routed(value, *beside)[0]
    assert found.manifest is not None, found.error
    return list(found.notes)


def mounted(source: Value, container: Value | None = None, **mount: Any) -> Value:
    at = {"name": "v", "mountPath": "/v", **mount}
    return pod({"volumeMounts": [at], **(container or {})}, volumes=[{"name": "v", **source}])
