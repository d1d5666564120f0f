"""What cloud-init is told, as its datasource NoCloud reads it: files on a disk with the label `cidata`. Pure.

Both hosts of a pair make it from the same records, so it is the same bytes on both. The network's addresses are
static in it: a guest has them before it has asked anybody, and asks nobody again after a failover.

JSON is YAML, and what there is of it here is ASCII but for what people have written themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hostagent.drivers.guest.iso9660 import iso9660
from vdc.model.guest import GuestNic
from vdc.model.manifest import CloudInit

LABEL: Final = "cidata"
_CLOUD_CONFIG: Final = "#cloud-config\n"


def seed(
    *,
    uid: str,
    hostname: str,
    given: CloudInit,
    nics: Sequence[GuestNic],
    domain: str,
    nameservers: Sequence[str],
) -> bytes:
    """The disk. A change of `uid` makes cloud-init begin anew, as on a machine that it has never seen."""
    config = _CLOUD_CONFIG + _as_text(_config(given))
    files = {
        "meta-data": _as_text(_meta_data(uid, hostname, given)),
        "network-config": given.network_config or _as_text(_network(nics, domain, nameservers)),
        "user-data": given.user_data or config,
    }
    if given.user_data and given.user:
        files["vendor-data"] = config  # cloud-init lets the user's data win over it
    return iso9660(LABEL, {name: text.encode() for name, text in files.items()})


def _as_text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _meta_data(uid: str, hostname: str, given: CloudInit) -> dict[str, Any]:
    """The keys are here, and so are those of the image's own user whatever the user's data says."""
    return {
        "instance-id": uid,
        "local-hostname": hostname,
        "public-keys": list(given.ssh_authorized_keys),
    }


def _config(given: CloudInit) -> dict[str, Any]:
    """`user` renames the image's own user, which keeps its groups, its shell and its right to become root."""
    return {"user": {"name": given.user}} if given.user else {}


def _network(nics: Sequence[GuestNic], domain: str, nameservers: Sequence[str]) -> dict[str, Any]:
    """Version 2. The first NIC has the names; a NIC is known by its MAC and called eth0, eth1 and so on."""
    return {
        "version": 2,
        "ethernets": {f"eth{i}": _nic(i, nic, domain, nameservers) for i, nic in enumerate(nics)},
    }


def _nic(number: int, nic: GuestNic, domain: str, nameservers: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "match": {"macaddress": nic.mac},
        "set-name": f"eth{number}",
        "addresses": [f"{nic.address}/{nic.prefix}"],
        "dhcp4": False,
        "dhcp6": False,
        "mtu": nic.mtu,
    }
    if nic.gateway:
        values["routes"] = [{"to": "0.0.0.0/0", "via": nic.gateway}]
    if number == 0 and nameservers:
        values["nameservers"] = {"addresses": list(nameservers), "search": [domain] if domain else []}
    return values
