"""What is said to a guest, and by whom it answers: QEMU's guest agent in a disk image, our init in a container's."""

from hostagent.drivers.guest.arrivals import Errors, Output
from hostagent.drivers.guest.channel import GuestChannel
from hostagent.drivers.guest.errors import GuestError, GuestGoneError, GuestRefusedError
from hostagent.drivers.guest.stream import GuestStream

__all__ = [
    "Errors",
    "GuestChannel",
    "GuestError",
    "GuestGoneError",
    "GuestRefusedError",
    "GuestStream",
    "Output",
]
