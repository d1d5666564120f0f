"""What a guest's NICs may send: each as the guest, on its own overlay."""

from __future__ import annotations

from protection_world import endophyte

from hostagent.supervisor.ports import ports_of
from vdc.model.endophyte import Nic
from vdc.model.manifest import NetworkPort


def test_nics_of_one_overlay_share_their_addresses() -> None:
    nics = tuple(
        Nic(network=network, mac=f"52:54:00:00:00:0{number}", address=f"10.77.0.1{number}")
        for number, network in enumerate(("default", "default", "other"))
    )
    wanted = tuple(NetworkPort(network=nic.network) for nic in nics)
    ports = ports_of(endophyte(networks=wanted).with_(nics=nics))
    assert [port.senders for port in ports] == [
        ("10.77.0.10", "10.77.0.11"),
        ("10.77.0.11", "10.77.0.10"),
        ("10.77.0.12",),
    ]
