"""What becomes of a Service in front of an Endophyte: its name and ports are the Endophyte's own. Pure."""

from __future__ import annotations

from vdc.kubernetes.fields import Findings
from vdc.kubernetes.objects import Service, ServicePort
from vdc.kubernetes.scene import Workload

_UNPUBLISHED = "publishing ports on the hosts is not supported yet"


def check_service(service: Service, workload: Workload, findings: Findings) -> None:
    """Find where the Endophyte is not reached as the Service says, by its name and at its ports."""
    spec, name = service.spec, workload.metadata.name
    if spec.type != "ClusterIP":
        findings.refuse("spec.type", f"{spec.type}: {_UNPUBLISHED}, {name} is reached at its overlay address")
    if service.metadata.name != name:
        findings.refuse(
            "metadata.name", f"endophyte/{name} is reached by its own name alone: call both the same"
        )
    for n, port in enumerate(spec.ports):
        target = _target(port, workload)
        if target is None:
            named = str(port.target_port)[:40]
            findings.refuse(f"spec.ports[{n}].targetPort", f"the container has no port named {named!r}")
        elif target != port.port:
            reason = (
                f"{port.port} leads to {target}, and {name} is reached at its own ports alone: write {target}"
            )
            findings.refuse(f"spec.ports[{n}].port", reason)


def _target(port: ServicePort, workload: Workload) -> int | None:
    target = port.target_port
    if isinstance(target, str) and not (target.isascii() and target.isdigit() and len(target) <= 5):
        return next((one.container_port for one in workload.container.ports if one.name == target), None)
    return int(target) if isinstance(target, str | int) and target else port.port
