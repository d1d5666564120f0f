"""The guest channel: requests to the init of a container's guest (docs/guest-channel.md)."""

from hostagent.drivers.guest.channel import GuestChannel
from hostagent.drivers.guest.errors import GuestError, GuestGoneError, GuestRefusedError
from hostagent.drivers.guest.stream import Errors, GuestStream, Output

__all__ = [
    "Errors",
    "GuestChannel",
    "GuestError",
    "GuestGoneError",
    "GuestRefusedError",
    "GuestStream",
    "Output",
]
