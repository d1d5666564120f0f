"""A primary's guest is heard while its secondary sends by the connection of the checkpoints, and not after."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from hostagent.drivers.net import Port, consent, nft
from hostagent.drivers.net.names import consent_table
from tests.integration.netns_support import ADDRESS, MAC, Guest, Host, Lab, wait_until

UID = "00000000-0000-0000-0000-000000000001"
MIGRATION, ELSEWHERE = 21020, 21024
LAPSE_MS = 400
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


@dataclass
class Pair:
    """A guest that answers pings on its primary's host, and the connection of its checkpoints."""

    lab: Lab
    primary: Host
    secondary: Host
    rules: consent.Consent

    def connect(self, port: int) -> tuple[socket.socket, socket.socket]:
        """A TCP connection from the primary's host: its end and the secondary's."""
        listener = self.secondary.call(socket.create_server, (f"10.8.0.{self.secondary.number}", port))
        with listener:
            near = self.primary.call(socket.create_connection, listener.getsockname())
            far, _ = listener.accept()
        for one in (near, far):
            self.lab.cleanup.callback(one.close)
        return near, far

    def is_heard(self) -> bool:
        """Whether a client gets an answer from the guest at this moment."""
        return self.lab.client.reaches(ADDRESS, 0.1)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Lab(hosts=2) as lab:
        primary, secondary = lab.hosts
        port = Port.of(UID, 0, MAC, ADDRESS)
        primary.do(primary.net.attach_port(port, live=True))
        Guest(lab, primary, port.ifname, MAC, ADDRESS)
        lab.client.ping(ADDRESS)
        rules = consent.Consent(UID, (port.ifname,), "m0", "10.8.0.2", MIGRATION, LAPSE_MS)
        yield Pair(lab, primary, secondary, rules)


def test_silence_closes_and_the_next_packet_opens(pair: Pair) -> None:
    near, far = pair.connect(MIGRATION)
    _, other = pair.connect(ELSEWHERE)
    pair.primary.do(consent.require(pair.rules))
    assert pair.is_heard(), "open at first"
    wait_until(lambda: not pair.is_heard(), "silence closes the tap")
    other.send(b"of another connection")
    assert not pair.is_heard()
    far.send(b"checkpoint")
    assert pair.is_heard()
    wait_until(lambda: not pair.is_heard(), "silence closes it again")
    near.send(b"data that the secondary's kernel acknowledges")
    assert pair.is_heard()


@pytest.mark.parametrize("is_reset", [False, True], ids=["FIN", "RST"])
def test_the_end_of_the_connection_closes_at_once(pair: Pair, is_reset: bool) -> None:
    rules = consent.Consent(UID, pair.rules.taps, "m0", "10.8.0.2", MIGRATION, lapse_ms=60_000)
    _, far = pair.connect(MIGRATION)
    pair.primary.do(consent.require(rules))
    far.send(b"checkpoint")
    assert pair.is_heard()
    if is_reset:
        linger_for_0_s = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_0_s)
    far.close()
    wait_until(lambda: not pair.is_heard(), "the end closes the tap")
    for _ in range(5):
        assert not pair.is_heard()


def test_it_is_heard_throughout_while_checkpoints_complete(pair: Pair) -> None:
    _, far = pair.connect(MIGRATION)
    pair.primary.do(consent.require(pair.rules))
    pair.primary.do(consent.require(pair.rules))  # as the next agent does
    end = time.monotonic() + 3 * LAPSE_MS / 1000
    while time.monotonic() < end:
        far.send(b"checkpoint")
        assert pair.is_heard()


def test_a_guest_that_goes_on_alone_needs_nobody(pair: Pair) -> None:
    pair.primary.do(consent.require(pair.rules))
    wait_until(lambda: not pair.is_heard(), "silence closes the tap")
    pair.primary.do(consent.end(UID))
    assert pair.is_heard()
    pair.primary.do(consent.end(UID))
    assert pair.primary.do(nft.tables("netdev")) == ()


def test_rules_of_a_vm_that_is_gone_are_swept_and_others_stay(pair: Pair) -> None:
    pair.primary.do(consent.require(pair.rules))
    pair.primary.do(nft.apply("add table netdev of_the_user"))
    assert pair.primary.do(consent.sweep([UID])) == []
    assert pair.primary.do(consent.sweep(["another"])) == [consent_table(UID)]
    assert pair.primary.do(nft.tables("netdev")) == ("of_the_user",)
    assert pair.is_heard()


def test_rules_that_the_kernel_refuses_are_an_error(pair: Pair) -> None:
    wrong = consent.Consent(UID, pair.rules.taps, "m0", "10.8.0.256", MIGRATION)
    with pytest.raises(nft.NftError, match="nft"):
        pair.primary.do(consent.require(wrong))
    assert pair.primary.do(nft.tables("netdev")) == ()
