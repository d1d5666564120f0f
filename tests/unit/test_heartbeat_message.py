"""The heartbeat datagram and its seal, and what echoes prove."""

from __future__ import annotations

import struct

import pytest
from heartbeat_support import KEY, datagram
from hypothesis import example, given
from hypothesis import strategies as st

from hostagent.heartbeat.echo import Marks, checksum, payload_of_reply, request
from hostagent.heartbeat.link import Link
from hostagent.heartbeat.message import MAX_BYTES, Content, Heading, decode, encode, parse
from hostagent.heartbeat.seal import SEAL_BYTES, Seal

UID = "11111111-2222-3333-4444-555555555555"
SEAL = Seal(KEY, "h2", "h1", "management")
HEADING = Heading(5, 7, 9)


def test_a_heartbeat_survives_the_wire():
    content = Content(((UID, 3),), ("h1",), 4)
    found = decode(encode(HEADING, content.encode(), SEAL), SEAL)
    assert found is not None
    assert (found[0], parse(found[1])) == (HEADING, content)


@given(st.binary(max_size=1600))
@example(bytes(39))
@example(bytes(40))
def test_garbage_is_no_heartbeat_and_no_error(data):
    assert decode(data, SEAL) is None


@given(st.data(), st.binary(max_size=300))
def test_no_bit_can_be_changed_nor_a_byte_left_out(data, body):
    sealed = encode(HEADING, body, SEAL)
    changed = bytearray(sealed)
    changed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert decode(bytes(changed), SEAL) is None
    assert decode(sealed[: data.draw(st.integers(0, len(sealed) - 1))], SEAL) is None
    assert decode(sealed + data.draw(st.binary(min_size=1, max_size=20)), SEAL) is None
    assert decode(sealed, SEAL) == (HEADING, body)


@pytest.mark.parametrize(
    "other",
    [
        Seal(b"x" * 32, "h2", "h1", "management"),
        Seal(KEY, "h1", "h2", "management"),
        Seal(KEY, "h3", "h1", "management"),
        Seal(KEY, "h2", "h1", "replication"),
    ],
    ids=["another key", "another direction", "another sender", "another network"],
)
def test_a_seal_is_good_for_one_key_direction_and_network(other):
    assert decode(encode(HEADING, b"{}", SEAL), other) is None


def test_what_is_longer_than_a_datagram_may_be_is_refused_though_it_is_sealed():
    room = MAX_BYTES - 24 - SEAL_BYTES
    assert decode(encode(HEADING, b"x" * room, SEAL), SEAL) is not None
    assert decode(encode(HEADING, b"x" * (room + 1), SEAL), SEAL) is None


def test_what_has_no_heading_is_refused_though_it_is_sealed():
    assert decode(SEAL.close(bytes(24)), SEAL) == (Heading(0, 0, 0), b"")
    assert decode(SEAL.close(bytes(23)), SEAL) is None


@given(st.binary(max_size=200) | st.text(max_size=60).map(str.encode))
def test_no_body_is_an_error(body):
    parse(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b'{"v":3}',
        b'{"d":[]}',
        b'{"v":3,"d":1}',
        b'{"v":3,"d":[["u"]]}',
        b'{"v":3,"d":[["u",1e999]]}',
        b'{"v":3,"d":[],"l":"x"}',
        b"[" * 1300,
    ],
)
def test_what_is_no_heartbeats_content_is_none(body):
    assert parse(body) is None


def test_a_later_versions_heartbeat_is_heard():
    """Agents are upgraded one after the other; silence between two versions would look like death."""
    assert parse(b'{"v":4,"d":[["u",3]],"of_tomorrow":[1]}') == Content((("u", 3),))


@pytest.mark.parametrize("version", [b"true", b"3.5", b'"4"', b"2", b"null"])
def test_a_version_is_a_number_that_is_not_too_small(version):
    assert parse(b'{"v":' + version + b',"d":[]}') is None


def test_many_deaths_do_not_split_the_datagram():
    many = tuple((UID, number) for number in range(100))
    data = datagram(10**12, dead=many)
    assert len(data) <= MAX_BYTES
    found = decode(data, SEAL)
    assert found is not None
    content = parse(found[1])
    assert content is not None and content.dead[-1] == (UID, 99)


# ---- echoes


def test_the_echo_request_has_a_right_checksum():
    assert checksum(request(0x1234, 9, b"payload")) == 0


def test_only_answers_to_our_own_requests_come_back():
    ip = bytes([0x45]) + bytes(19)
    ours = struct.pack("!BBHHH", 0, 0, 0, 0x1234, 9) + b"mark"
    assert payload_of_reply(ip + ours, 0x1234) == b"mark"
    assert payload_of_reply(ip + ours, 0x4321) is None
    assert payload_of_reply(ip + request(0x1234, 9, b"mark"), 0x1234) is None
    assert payload_of_reply(ip[:12], 0x1234) is None
    assert payload_of_reply(b"", 0x1234) is None


@given(st.binary(max_size=80))
def test_no_packet_is_an_error(packet):
    payload_of_reply(packet, 0)


def test_a_mark_tells_whom_and_when_and_is_nobody_elses():
    marks = Marks()
    payload = marks.make("10.0.0.2", 123.5)
    assert marks.asked_at_s("10.0.0.2", payload) == 123.5
    assert marks.asked_at_s("10.0.0.3", payload) is None, "another host's address"
    later = struct.pack("!d", 124.5) + payload[8:]
    assert marks.asked_at_s("10.0.0.2", later) is None, "another time"
    assert Marks().asked_at_s("10.0.0.2", payload) is None, "of an earlier agent"


@given(st.binary(max_size=40))
def test_nobody_guesses_a_mark(payload):
    assert Marks().asked_at_s("10.0.0.2", payload) is None


def test_an_answer_proves_life_at_the_time_of_its_request_however_late_it_is_let_through():
    link = Link(0.0, 0.05)
    link.echo(1.0)
    assert link.silent_ms(31.0) == 30_000
    link.asked_at_s = 30.9
    link.echo(1.0)  # the same once more
    assert (link.silent_ms(31.0), link.asked_at_s) == (30_000, 30.9), "and buys no time"
    link.echo(30.95)
    assert link.silent_ms(31.0) == pytest.approx(50) and link.asked_at_s == float("inf")
    link.echo(2.0)
    assert link.silent_ms(31.0) == pytest.approx(50), "answers may come in any order"
