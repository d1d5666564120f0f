"""CPU descriptions: out of libvirt's XML, and into what QEMU's `-cpu` takes. Pure.

Imported by the worker: nothing heavy here. The XML is libvirt's own, parsed in the sandboxed child.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass

_ON_POLICIES = frozenset({"require", "force", "optional"})

# Features that libvirt's map knows and QEMU has no property for: reading them as properties would end QEMU.
NO_QEMU_PROPERTY = frozenset({"cmt", "cvt16", "mbm_local", "mbm_total", "osxsave", "ospke", "pconfig"})

# Nested virtualisation is state that lives outside the guest's memory, which lockstep does not copy; an
# invariant TSC forbids migration. Both are switched off whatever the hosts offer.
NEVER = ("vmx", "svm", "invtsc")
_NESTED_PREFIXES = ("vmx-", "svm-")


@dataclass(frozen=True, slots=True)
class HostModel:
    """What a hypervisor can offer on a host: `xml` is a `<cpu>` element that libvirt's baseline takes."""

    name: str
    xml: str


def host_cpu_xml(capabilities_xml: str) -> str:
    """The `<cpu>` element of the host out of `virConnectGetCapabilities`; empty where there is none."""
    cpu = _parse(capabilities_xml).find("./host/cpu")
    return "" if cpu is None else _text(cpu)


def host_model(domain_capabilities_xml: str) -> HostModel | None:
    """The host-model CPU of domain capabilities, as a `<cpu>` element; None where it is not supported.

    The baseline call takes this form: `virsh hypervisor-cpu-baseline` renames the element in the same way.
    """
    mode = _parse(domain_capabilities_xml).find("./cpu/mode[@name='host-model'][@supported='yes']")
    name = None if mode is None else mode.findtext("model")
    if mode is None or not name:
        return None
    mode.tag = "cpu"
    mode.attrib.clear()
    mode.set("mode", "custom")
    mode.set("match", "exact")
    return HostModel(name=name, xml=_text(mode))


def usable_models(domain_capabilities_xml: str) -> tuple[str, ...]:
    """Named CPU models that run here without a missing feature, sorted."""
    models = _parse(domain_capabilities_xml).iterfind("./cpu/mode[@name='custom']/model[@usable='yes']")
    return tuple(sorted(model.text for model in models if model.text))


def qemu_cpu(cpu_xml: str) -> str:
    """QEMU's `-cpu` argument for a `<cpu>` element as baselines return it: `EPYC-Rome,x2apic=on,...=off`.

    The same element always gives the same text, features sorted. Raises ValueError where it names no model.
    """
    cpu = _parse(cpu_xml)
    model = (cpu.findtext("model") or "").strip()
    if not model:
        raise ValueError("the CPU description names no model")
    features = dict(_features(cpu))
    features.update(dict.fromkeys(NEVER, False))
    switches = (f"{name}={'on' if is_on else 'off'}" for name, is_on in sorted(features.items()))
    return ",".join((model, *switches))


def _features(cpu: ET.Element) -> Iterator[tuple[str, bool]]:
    for feature in cpu.iterfind("feature"):
        name = feature.get("name", "")
        if name and name not in NO_QEMU_PROPERTY and not name.startswith(_NESTED_PREFIXES):
            # QEMU spells its properties with '-'; the same name with '_' is accepted on some versions only.
            yield name.replace("_", "-"), feature.get("policy", "require") in _ON_POLICIES


def _parse(xml: str) -> ET.Element:
    try:
        return ET.fromstring(xml)  # noqa: S314 - libvirt's own output, parsed in its sandboxed child
    except ET.ParseError as error:
        raise ValueError(f"not XML: {error}") from error


def _text(element: ET.Element) -> str:
    element.tail = None
    ET.indent(element)
    return ET.tostring(element, encoding="unicode")
