"""The overlay on real kernel networking: three hosts, guests on taps, and a client that only learns."""

from __future__ import annotations

import asyncio
import os
import statistics
import threading
import time
from collections.abc import Iterator

import pytest

from hostagent.drivers.net import ForeignLinkError, KernelRefusedError, Port
from tests.integration.netns_support import (
    ADDRESS,
    ADDRESS_B,
    MAC,
    MAC_B,
    Guest,
    Host,
    Lab,
    attach,
    frames,
    hears,
    run,
    start_guest,
    timed,
    wait_until,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def links(host: Host) -> list[str]:
    """`ip -o link` without the interfaces' numbers."""
    return [line.split(": ", 1)[1] for line in host.ip("-o", "link").splitlines()]


def fixed_state(host: Host) -> tuple[list[list[str]], list[str]]:
    """Which interfaces there are, by number and name, and all forwarding entries that are not learned."""
    interfaces = [line.split(":")[:2] for line in host.ip("-o", "link").splitlines()]
    entries = run("bridge", "-n", host.netns, "fdb").splitlines()
    return interfaces, sorted(entry for entry in entries if "permanent" in entry or "static" in entry)


def test_ensure_is_idempotent_and_remove_leaves_nothing(lab: Lab) -> None:
    host = lab.hosts[0]
    host.do(host.net.remove())
    before = links(host)
    peers = ["10.9.0.2", "10.9.0.3"]
    assert host.do(host.net.ensure(peers))
    after, shown = fixed_state(host), host.ip("-d", "link")
    assert host.do(host.net.ensure(peers)) == ()
    assert fixed_state(host) == after
    assert "forward_delay 0" in shown and "stp_state 0" in shown and "mcast_snooping 0" in shown
    assert "learning" in shown and "nolearning" not in shown and "mtu 1400" in shown
    assert "10.77.0.1/24" in host.ip("addr", "show", host.net.bridge)
    assert host.do(host.net.ensure(["10.9.0.3"])) == ("stop flooding to 10.9.0.2",)
    attach(host, "uid-a", MAC, live=True)
    assert links(host) != before
    host.do(host.net.remove())
    assert links(host) == before
    host.do(host.net.remove())


def test_ensure_repairs_what_somebody_broke(lab: Lab) -> None:
    host = lab.hosts[0]
    peers = ["10.9.0.2", "10.9.0.3"]
    host.do(host.net.place({MAC: "10.9.0.2", MAC_B: None}))
    host.ip("addr", "add", "10.77.0.99/24", "dev", host.net.bridge)
    host.ip("link", "set", host.net.bridge, "type", "bridge", "mcast_snooping", "1")
    host.ip("link", "set", host.net.vxlan, "nomaster", "down")
    assert host.do(host.net.ensure(peers)) == (
        f"configure {host.net.bridge}",
        f"set {host.net.vxlan} up",
        "delete address 10.77.0.99",
    )
    host.ip("link", "del", host.net.vxlan)
    with pytest.raises(KernelRefusedError):
        host.do(host.net.place({MAC: "10.9.0.3"}))
    assert f"create {host.net.vxlan}" in host.do(host.net.ensure(peers))
    host.do(host.net.sync_placements({MAC: "10.9.0.2", MAC_B: None}))
    assert host.do(host.net.placements()) == {MAC: "10.9.0.2", MAC_B: None}
    assert host.do(host.net.ensure(peers)) == ()


def test_an_interface_with_another_index_than_remembered_is_looked_up_again(lab: Lab) -> None:
    host = lab.hosts[0]
    port = attach(host, "uid-a", MAC, live=False)
    before = host.net
    host.do(before.place({MAC_B: None}))
    host.start_driver(1, ["10.9.0.2"], netlink=host.netlink)  # as a second run of the agent
    host.do(host.net.remove())
    host.do(host.net.ensure(["10.9.0.2"]))
    attach(host, "uid-a", MAC, live=False)
    host.do(before.place({MAC_B: "10.9.0.2"}))
    host.do(before.go_live([(port.ifname, MAC)]))
    assert host.do(host.net.placements()) == {MAC: None, MAC_B: "10.9.0.2"}
    assert host.do(host.net.list_ports())[0].is_live


def test_a_wrong_vxlan_is_made_again_with_its_placements(lab: Lab) -> None:
    host = lab.hosts[0]
    host.do(host.net.remove())
    host.do(host.net.ensure(["10.9.0.2"]))
    host.do(host.net.place({MAC: "10.9.0.2", MAC_B: None}))
    before = host.do(host.net.placements())
    host.ip("link", "set", host.net.vxlan, "type", "vxlan", "ageing", "7")
    assert f"create {host.net.vxlan}" in host.do(host.net.ensure(["10.9.0.2"]))
    assert host.do(host.net.placements()) == before == {MAC: "10.9.0.2", MAC_B: None}


def test_foreign_interfaces_are_never_touched(lab: Lab) -> None:
    host = lab.hosts[0]
    host.do(host.net.remove())
    port = Port.of("uid-a", 0, MAC, ADDRESS)
    host.ip("link", "add", host.net.bridge, "type", "bridge")
    host.ip("link", "add", port.ifname, "type", "bridge")
    before = links(host)
    for call in (
        lambda: host.net.ensure([]),
        host.net.remove,
        lambda: host.net.attach_port(port, live=True),
    ):
        with pytest.raises(ForeignLinkError):
            host.do(call())
    host.do(host.net.remove_port(port.ifname))
    assert host.do(host.net.sweep(set())) == []
    assert links(host) == before


def test_guests_hosts_and_the_client_reach_each_other(lab: Lab) -> None:
    first = start_guest(lab, lab.hosts[0], "uid-a", MAC, ADDRESS)
    second = start_guest(lab, lab.hosts[1], "uid-b", MAC_B, ADDRESS_B)
    lab.client.ping(ADDRESS)
    first.place.ping(ADDRESS_B)
    second.place.ping("10.77.0.250")
    lab.hosts[2].ping(ADDRESS)
    lab.hosts[0].ping("10.77.0.3")


class Prober:
    """The client's UDP echo every 10 ms; records when an answer came and from which copy of the guest."""

    def __init__(self, lab: Lab) -> None:
        self.answers: list[tuple[float, str]] = []
        self._socket = lab.client.udp(timeout_s=0.01)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        lab.cleanup.callback(self.stop)

    def _main(self) -> None:
        while not self._stop.is_set():
            try:
                self._socket.sendto(b"x", (ADDRESS, Guest.ECHO_PORT))
                data = self._socket.recv(2048)
                self.answers.append((time.monotonic(), data.split(b":")[0].decode()))
                time.sleep(0.01)
            except OSError:
                continue

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._socket.close()

    def since(self, moment: float, guest: Guest) -> float | None:
        """Milliseconds from a moment to the first answer of this copy, or None."""
        return next(
            ((at - moment) * 1e3 for at, who in self.answers if at > moment and who == guest.place.netns),
            None,
        )


def test_failover_of_a_mac_from_one_host_to_another(lab: Lab) -> None:
    h1, h2, h3 = lab.hosts
    old = start_guest(lab, h1, "uid-a", MAC, ADDRESS)
    old.serve_echo()
    new = start_guest(lab, h2, "uid-a", MAC, ADDRESS, live=False)
    new.serve_echo()
    bystander = start_guest(lab, h3, "uid-b", MAC_B, ADDRESS_B)
    bystander.place.ping(ADDRESS)
    prober = Prober(lab)
    wait_until(lambda: len(prober.answers) > 5, "the client's echo runs")
    assert {who for _, who in prober.answers} == {old.place.netns}

    lab.switch.ip("link", "set", "u1", "down")  # the first host loses its power
    old.stop()
    lost = time.monotonic()
    ifname = Port.of("uid-a", 0, MAC, ADDRESS).ifname
    h2.do(h2.net.go_live([(ifname, MAC)]))
    h3.do(h3.net.place({MAC: h2.vtep}))
    new.send_broadcast()  # QEMU's announce-self
    gap_ms = wait_until(lambda: prober.since(lost, new), "the echo goes on")
    print(f"UDP echo is back {gap_ms:.1f} ms after the first call")
    bystander.place.ping(ADDRESS, 2.0)
    h2.ping(ADDRESS, 2.0)


def test_promotion_takes_a_few_milliseconds(lab: Lab) -> None:
    host = lab.hosts[0]
    port = attach(host, "uid-a", MAC, live=False)
    Guest(lab, host, port.ifname, MAC)
    live, placed, silent = [], [], []
    for _ in range(30):
        placed.append(host.do(timed(host.net.place({MAC: "10.9.0.2"}))))
        live.append(host.do(timed(host.net.go_live([(port.ifname, MAC)]))))
        silent.append(host.do(timed(host.net.go_silent(port.ifname))))
    for name, values in (("place", placed), ("go_live", live), ("go_silent", silent)):
        print(f"{name}: p50 {statistics.median(values):.2f} max {max(values):.2f} ms")
    assert statistics.median(live) + statistics.median(placed) < 15


def test_static_entries_fence_off_a_speaker_of_the_past(lab: Lab) -> None:
    """The old host missed everything and its guest still speaks: no host takes its frames any more."""
    h1, h2, h3 = lab.hosts
    zombie = start_guest(lab, h1, "uid-a", MAC, ADDRESS)
    current = start_guest(lab, h2, "uid-a", MAC, ADDRESS, live=False)
    ears = {name: host.packet_socket(host.net.bridge) for name, host in (("h2", h2), ("h3", h3))}
    client = lab.client.packet_socket("vx")
    zombie.send_broadcast(b"before")
    assert hears(ears["h3"], b"before", 2.0)  # while it is the primary it is heard
    assert hears(client, b"before", 2.0)

    h2.do(h2.net.go_live([(Port.of("uid-a", 0, MAC, ADDRESS).ifname, MAC)]))
    h3.do(h3.net.place({MAC: h2.vtep}))
    for _ in range(20):
        zombie.send_broadcast(b"zombie")
    assert hears(client, b"zombie", 2.0)  # the frames are really sent; only hosts have the fence
    current.send_broadcast(b"current")
    heard = list(frames(ears["h3"], 0.5))
    assert any(b"current" in data for data in heard)
    assert not any(b"zombie" in data for data in heard)
    assert not any(b"zombie" in data for data in frames(ears["h2"], 0.5))
    assert h3.do(h3.net.placements()) == {MAC: h2.vtep}
    for sock in (*ears.values(), client):
        sock.close()


def test_a_secondary_is_silent_in_both_directions(lab: Lab) -> None:
    host = lab.hosts[0]
    port = attach(host, "uid-a", MAC, live=False)
    host.ip("link", "set", port.ifname, "down")  # coming up is when a kernel greets its neighbours
    tap_ear = host.packet_socket(port.ifname)
    attach(host, "uid-a", MAC, live=False)
    secondary = Guest(lab, host, port.ifname, MAC, ADDRESS)
    bridge_ear, client = host.packet_socket(host.net.bridge), lab.client.packet_socket("vx")
    secondary.send_broadcast(b"secondary")
    assert hears(tap_ear, b"secondary", 2.0)  # it speaks, as far as its tap
    assert not secondary.place.reaches("10.77.0.1")
    assert not hears(bridge_ear, b"secondary", 0.5)
    assert not hears(client, b"secondary", 0.5)
    mac = bytes.fromhex(MAC.replace(":", ""))
    foreign = [data for data in frames(tap_ear, 1.5) if data[6:12] != mac]
    assert foreign == []  # neither did the host answer it
    assert "inet6" not in host.ip("addr", "show", "dev", port.ifname)
    for sock in (tap_ear, bridge_ear, client):
        sock.close()


def test_go_silent_takes_the_voice_away(lab: Lab) -> None:
    host = lab.hosts[0]
    guest = start_guest(lab, host, "uid-a", MAC, ADDRESS)
    ifname = Port.of("uid-a", 0, MAC, ADDRESS).ifname
    client = lab.client.packet_socket("vx")
    guest.send_broadcast(b"loud")
    assert hears(client, b"loud", 2.0)
    host.do(host.net.go_silent(ifname, "vdc-missing"))
    guest.send_broadcast(b"quiet")
    host.do(host.net.go_live([(ifname, MAC)]))
    guest.send_broadcast(b"again")
    heard = list(frames(client, 1.0))
    assert any(b"again" in data for data in heard)
    assert not any(b"quiet" in data for data in heard)
    client.close()


def test_a_neighbour_cannot_take_over_a_mac(lab: Lab) -> None:
    host = lab.hosts[0]
    victim = start_guest(lab, host, "uid-a", MAC, ADDRESS)
    port = attach(host, "uid-b", MAC_B, live=True)
    thief = Guest(lab, host, port.ifname, MAC_B, ADDRESS_B)
    thief.place.ping(ADDRESS)
    for _ in range(5):
        thief.send_broadcast(source=MAC)
    fdb = run("bridge", "-n", host.netns, "fdb", "show", "br", host.net.bridge)
    owners = [line for line in fdb.splitlines() if line.startswith(MAC) and "master" in line]
    assert [line.split()[2] for line in owners] == [Port.of("uid-a", 0, MAC, ADDRESS).ifname]
    victim.place.ping(ADDRESS_B)


def test_ports_are_listed_swept_and_removed_by_their_tag(lab: Lab) -> None:
    host = lab.hosts[0]
    kept, stale = attach(host, "uid-a", MAC, live=True), attach(host, "uid-b", MAC_B, live=False)
    host.ip("tuntap", "add", "vdcother", "mode", "tap")  # somebody else's, with a name like ours
    states = {state.ifname: state for state in host.do(host.net.list_ports())}
    assert set(states) == {kept.ifname, stale.ifname}
    assert (states[kept.ifname].uid, states[kept.ifname].mac) == ("uid-a", MAC)
    assert states[kept.ifname].is_live and not states[stale.ifname].is_live
    assert not states[kept.ifname].is_open
    assert host.do(host.net.sweep({"uid-a"})) == [stale.ifname]
    host.do(host.net.remove_port(kept.ifname))
    host.do(host.net.remove_port(kept.ifname))
    assert host.do(host.net.list_ports()) == []
    assert host.do(host.net.placements()) == {}
    assert "vdcother" in host.ip("link")


def test_attach_adopts_the_tap_of_an_earlier_run(lab: Lab) -> None:
    host = lab.hosts[0]
    port = attach(host, "uid-a", MAC, live=True)
    Guest(lab, host, port.ifname, MAC)
    before = host.do(host.net.list_ports())
    attach(host, "uid-a", MAC, live=True)  # QEMU still has it open
    assert host.do(host.net.list_ports()) == before
    attach(host, "uid-a", MAC, live=False)
    assert not host.do(host.net.list_ports())[0].is_live


def test_many_tasks_at_once_leave_the_last_word(lab: Lab) -> None:
    host = lab.hosts[0]
    macs = [f"52:54:00:00:01:{number:02x}" for number in range(150)]

    async def storm() -> None:
        async with asyncio.TaskGroup() as group:
            for mac in macs:
                group.create_task(host.net.place({mac: "10.9.0.2"}))
            for _ in range(5):
                group.create_task(host.net.ensure(["10.9.0.2", "10.9.0.3"]))
                group.create_task(host.net.list_ports())
        await host.net.sync_placements(dict.fromkeys(macs, "10.9.0.3"))

    host.do(storm())
    assert host.do(host.net.placements()) == dict.fromkeys(macs, "10.9.0.3")
    assert host.do(host.net.sync_placements(dict.fromkeys(macs, "10.9.0.3"))) == ()
    host.do(host.net.sync_placements({macs[0]: host.vtep}))
    assert host.do(host.net.placements()) == {macs[0]: None}
