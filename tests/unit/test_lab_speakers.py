"""One speaker at a time: what the judge of captured frames calls a violation, and what it lets pass."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from ipaddress import IPv4Address

from vdc.lab.capture import Frame, filter_program, parse
from vdc.lab.speakers import Owner, judge, owners
from vdc.model.event import Event

MAC = "52:54:00:11:22:33"
NAMES = {"10.70.0.1": "h1", "10.70.0.2": "h2", "10.70.0.3": "h3"}


def frames(*spoken: tuple[float, int, str]) -> list[Frame]:
    return [Frame(at_s, IPv4Address(f"10.70.0.{host}"), MAC, protocol) for at_s, host, protocol in spoken]


def test_one_failover_is_two_turns() -> None:
    seen = frames((1, 1, "tcp"), (2, 1, "udp"), (3, 2, "tcp"), (4, 2, "tcp"))
    for allowed in ([], [Owner(1, "h1"), Owner(4, "h2", 2.5, 2.6)]):
        verdict = judge(MAC, seen, NAMES, allowed)
        assert [(turn.host, turn.frames) for turn in verdict.turns] == [("h1", 2), ("h2", 2)]
        assert not verdict.violations
        assert not verdict.late


def test_an_old_host_that_speaks_again_is_found() -> None:
    seen = frames((1, 1, "tcp"), (3, 2, "tcp"), (3.5, 1, "tcp"), (4, 2, "tcp"))
    allowed = [Owner(1, "h1"), Owner(4, "h2", 2.5, 2.6)]
    assert len(judge(MAC, seen, NAMES, []).violations) == 2, "h1 again, and h2 again"
    verdict = judge(MAC, seen, NAMES, allowed)
    assert verdict.violations == ["h1 sent 1 frames out of turn; h2 has spoken under epoch 4"]
    assert verdict.late == {"h1": {"tcp": 1}}


def test_a_host_that_speaks_before_its_epoch_is_found() -> None:
    seen = frames((1, 1, "tcp"), (2, 2, "tcp"))
    assert judge(MAC, seen, NAMES, [Owner(1, "h1"), Owner(2, "h2", 2.1, 2.2)]).violations
    assert judge(MAC, seen, NAMES, [Owner(1, "h1")]).violations, "h2 never was the primary"


def test_a_host_may_come_back_under_a_newer_epoch() -> None:
    seen = frames((1, 1, "tcp"), (3, 2, "tcp"), (5, 1, "tcp"))
    allowed = [Owner(1, "h1"), Owner(4, "h2", 2, 2), Owner(7, "h1", 4, 4)]
    assert not judge(MAC, seen, NAMES, allowed).violations
    assert judge(MAC, seen, NAMES, []).violations


def test_what_is_not_gated_is_counted_and_not_judged() -> None:
    seen = frames((1, 1, "tcp"), (3, 2, "tcp"), (3.5, 1, "arp"), (3.6, 1, "ipv6"), (3.7, 1, "arp"))
    verdict = judge(MAC, seen, NAMES, [Owner(1, "h1"), Owner(4, "h2", 2.5, 2.6)])
    assert not verdict.violations
    assert verdict.late == {"h1": {"arp": 2, "ipv6": 1}}
    assert "late from h1" in str(verdict)


def test_frames_of_another_guest_do_not_matter() -> None:
    other = Frame(2, IPv4Address("10.70.0.3"), "52:54:00:00:00:01", "tcp")
    assert not judge(MAC, [*frames((1, 1, "tcp")), other, *frames((3, 1, "tcp"))], NAMES, []).violations


def event(at_s: float, host: str, code: str, epoch: int, **figures: float) -> Event:
    at = datetime.fromtimestamp(at_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return Event(
        id=f"{at}-{host}", at=at, host=host, name="web", epoch=epoch, code=code, sentence="", figures=figures
    )


def test_owners_are_told_by_events() -> None:
    told = [
        event(1, "h1", "started", 1),
        event(2, "h1", "lockstep", 2),
        event(2.5, "h3", "secondary-failed", 2),
        event(10, "h2", "promoted", 3, total_ms=100, arbitrated_ms=40),
        event(11, "h1", "discarded", 2),
        event(20, "h2", "lockstep", 4),
        event(30, "h1", "promoted", 5, total_ms=100, arbitrated_ms=40),
        event(40, "h3", "started", 1),  # another VM of that name
    ]
    found = owners(reversed(told))
    assert [(owner.epoch, owner.host) for owner in found] == [(1, "h1"), (3, "h2"), (5, "h1"), (1, "h3")]
    assert abs(found[1].asked_at_s - 9.9) < 1e-6
    assert abs(found[1].won_at_s - 9.94) < 1e-6


def packet(ethertype: int, protocol: int = 6) -> bytes:
    inner = bytes.fromhex("525400000001") + bytes.fromhex("525400112233") + struct.pack("!H", ethertype)
    inner += bytes(9) + bytes([protocol]) + bytes(10)
    address = IPv4Address("10.70.0.2").packed
    return bytes(12) + b"\x08\x00" + bytes(12) + address + bytes(4) + bytes(16) + inner


def test_a_packet_is_read() -> None:
    for ethertype, number, protocol in (
        (0x0800, 6, "tcp"), (0x0800, 17, "udp"), (0x0800, 1, "icmp"), (0x0800, 132, "ip-132"),
        (0x0806, 0, "arp"), (0x86DD, 0, "ipv6"), (0x8035, 0, "rarp"), (0x88CC, 0, "0x88cc"),
    ):  # fmt: skip
        frame = parse(packet(ethertype, number), 1.5)
        assert frame == Frame(1.5, IPv4Address("10.70.0.2"), MAC, protocol)
    assert parse(b"short", 1.0) is None


def test_each_refusal_of_the_filter_ends_at_its_last_instruction() -> None:
    program = filter_program(7)
    accept, reject = len(program) - 2, len(program) - 1
    assert program[accept][3] and not program[reject][3]
    for place, (_, if_true, if_false, _) in enumerate(program[:accept]):
        targets = {place + 1 + if_true, place + 1 + if_false} - {place + 1, accept}
        assert targets <= {reject}
