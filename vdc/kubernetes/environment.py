"""A container's variables, with what ConfigMaps, Secrets and the pod itself say put in. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from vdc.kubernetes.computer import Needs
from vdc.kubernetes.container import EnvFrom, EnvVar, FieldSelector, ResourceSelector
from vdc.kubernetes.quantity import parse_quantity, whole
from vdc.kubernetes.scene import Scene
from vdc.model.process import EnvField, literal

_BY_THE_CLUSTER = {
    "status.podIP": EnvField.POD_IP, "status.podIPs": EnvField.POD_IP, "metadata.uid": EnvField.UID,
}  # fmt: skip
_OF_ITS_HOST = ("spec.nodeName", "status.hostIP", "status.hostIPs")
Variable = dict[str, Any]  # as a manifest has it


def environment(scene: Scene, needs: Needs) -> list[Variable]:
    """All variables: those of whole objects first, each name once."""
    container, path = scene.workload.container, scene.workload.container_path
    found: dict[str, Variable] = {}
    for n, many in enumerate(container.env_from):
        for variable_of_key in _of_object(scene, many, f"{path}.envFrom[{n}]"):
            found.pop(variable_of_key["name"], None)
            found[variable_of_key["name"]] = variable_of_key
    from_objects = frozenset(found)
    seen: set[str] = set()
    for n, variable in enumerate(container.env):
        here = f"{path}.env[{n}]"
        if variable.name in seen:
            scene.findings.refuse(here, f"variable {variable.name[:80]} is given twice")
        for name in sorted(from_objects - seen):
            if name in found and f"$({name})" in variable.value and _is_given_later(container.env, n, name):
                scene.findings.refuse(here, f"$({name}) is given by envFrom here, and by env after it")
        seen.add(variable.name)
        one = _variable(scene, variable, here, needs)
        if one is not None:
            found.pop(variable.name, None)
            found[variable.name] = one
    return list(found.values())


def _is_given_later(env: tuple[EnvVar, ...], place: int, name: str) -> bool:
    return any(one.name == name for one in env[place + 1 :])


def _of_object(scene: Scene, source: EnvFrom, path: str) -> Iterator[Variable]:
    refs = (("ConfigMap", "configMapRef", source.config_map_ref), ("Secret", "secretRef", source.secret_ref))
    given = [one for one in refs if one[2] is not None]
    if len(given) != 1:
        scene.findings.refuse(path, "it is exactly one of configMapRef and secretRef")
        return
    kind, field, ref = given[0]
    assert ref is not None
    values = scene.values_of(kind, ref.name, f"{path}.{field}.name", optional=ref.optional)
    for key, data in (values or {}).items():
        text = _text(scene, data, f"{path}.{field}", key)
        if text is not None:
            yield _literal(source.prefix + key, text, is_secret=kind == "Secret")


def _variable(scene: Scene, variable: EnvVar, path: str, needs: Needs) -> Variable | None:
    """None where it is optional and its value nowhere, or among the findings."""
    source = variable.value_from
    if source is None:
        return {"name": variable.name, "value": variable.value}
    path = f"{path}.valueFrom"
    given = [
        one
        for one in (
            source.config_map_key_ref,
            source.secret_key_ref,
            source.field_ref,
            source.resource_field_ref,
        )
        if one is not None
    ]
    if len(given) != 1 or variable.value:
        scene.findings.refuse(path, "it is exactly one source, and no value beside it")
        return None
    if source.field_ref is not None:
        field = _BY_THE_CLUSTER.get(source.field_ref.field_path)
        if field is not None:
            return {"name": variable.name, "valueFrom": {"fieldRef": {"fieldPath": field.value}}}
        text = field_value(scene, source.field_ref, f"{path}.fieldRef")
        return None if text is None else _literal(variable.name, text)
    if source.resource_field_ref is not None:
        text = resource_value(scene, source.resource_field_ref, f"{path}.resourceFieldRef", needs)
        return None if text is None else _literal(variable.name, text)
    is_secret = source.secret_key_ref is not None
    kind, name = ("Secret", "secretKeyRef") if is_secret else ("ConfigMap", "configMapKeyRef")
    ref = source.secret_key_ref or source.config_map_key_ref
    assert ref is not None
    values = scene.values_of(kind, ref.name, f"{path}.{name}.name", optional=ref.optional)
    if values is None:
        return None
    if ref.key not in values:
        if not ref.optional:
            scene.findings.refuse(f"{path}.{name}.key", f"{kind} {ref.name} has no key {ref.key[:80]}")
        return None
    text = _text(scene, values[ref.key], f"{path}.{name}", ref.key)
    return None if text is None else _literal(variable.name, text, is_secret=is_secret)


def _text(scene: Scene, data: bytes, path: str, key: str) -> str | None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        scene.findings.refuse(path, f"the value of {key[:80]} is no text, as a variable has to be")
        return None
    return text


def _literal(name: str, text: str, *, is_secret: bool = False) -> Variable:
    made: Variable = {"name": name, "value": literal(text)}
    return {**made, "secret": True} if is_secret else made


def field_value(scene: Scene, field: FieldSelector, path: str) -> str | None:
    """What the pod says of itself, where that is known before it runs."""
    workload = scene.workload
    metadata = workload.pod_metadata
    known = {
        "metadata.name": workload.pod_name,
        "metadata.namespace": workload.namespace,
        "spec.serviceAccountName": "default",
        "metadata.labels": _lines(metadata.labels),
        "metadata.annotations": _lines(metadata.annotations),
        **{f"metadata.labels['{key}']": value for key, value in metadata.labels.items()},
        **{f"metadata.annotations['{key}']": value for key, value in metadata.annotations.items()},
    }
    if field.field_path in known:
        return known[field.field_path]
    if field.field_path.startswith(("metadata.labels['", "metadata.annotations['")):
        return ""
    if field.field_path in _OF_ITS_HOST:
        reason = f"{field.field_path} changes while it runs: an Endophyte moves between hosts"
    elif field.field_path in _BY_THE_CLUSTER:
        reason = f"{field.field_path} is known to variables alone"
    else:
        reason = f"{field.field_path[:80]!r} is not a field that can be kept"
    scene.findings.refuse(f"{path}.fieldPath", reason)
    return None


def resource_value(scene: Scene, ref: ResourceSelector, path: str, needs: Needs) -> str | None:
    """What the container may use, in the divisor's units; without a limit, what the guest has."""
    which, _, name = ref.resource.partition(".")
    defaults = {"cpu": Fraction(needs.cpus), "memory": Fraction(needs.memory)}
    if which not in ("limits", "requests") or name not in defaults:
        scene.findings.refuse(
            f"{path}.resource", f"{ref.resource[:80]!r} is not cpu or memory of limits or requests"
        )
        return None
    resources = scene.workload.container.resources
    given = (resources.limits if which == "limits" else resources.requests).get(name)
    amount = defaults[name] if given is None else parse_quantity(given)
    divisor = parse_quantity(ref.divisor) or Fraction(1)
    return str(whole(amount / divisor))


def _lines(values: dict[str, str]) -> str:
    """As a downward volume has them."""
    return "\n".join(f'{key}="{_quoted(value)}"' for key, value in sorted(values.items()))


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
