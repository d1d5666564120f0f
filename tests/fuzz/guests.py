"""Targets for what a guest says to its host."""

from __future__ import annotations

from contextlib import suppress

from hostagent.drivers.guest import qgareplies as replies
from hostagent.drivers.guest.errors import GuestError


def guest_agent(data: bytes) -> None:
    """One answer, taken for the answer to each question."""
    with suppress(GuestError):
        value = replies.returned("guest-ping", data)
        for question in (replies.interfaces, replies.started, replies.ended, replies.count):
            with suppress(GuestError):
                str(question(value))


TARGETS = (
    (
        "guest-agent",
        guest_agent,
        (
            b'{"return":[{"name":"eth0","hardware-address":"52:54:00:00:00:01","ip-addresses":[{"ip-address":"::1"}]}]}',
            b'{"return":{"exited":true,"exitcode":0,"out-data":"aGk=","signal":9,"pid":7}}',
            b'{"return":3}',
            b'{"error":{"class":"GenericError","desc":"no"}}',
        ),
    ),
)
