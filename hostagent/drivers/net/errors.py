"""What can go wrong between this driver and the kernel.

UnavailableError
├── KernelRefusedError  the kernel answered with an error number; the same call may succeed later
└── NetworkTimeoutError no answer within the deadline; whether it took effect is unknown, so repeat it
ConflictError
└── ForeignLinkError    an interface has a name of ours and is not ours; it is never touched
"""

from __future__ import annotations

import errno
import os

from vdc.model.errors import ConflictError, UnavailableError


class KernelRefusedError(UnavailableError):
    """The kernel refused one request; `number` is its errno, `operation` says what was asked."""

    default_code = "network-refused"

    def __init__(self, operation: str, number: int, detail: str = "") -> None:
        self.operation = operation
        self.number = number
        name = errno.errorcode.get(number, str(number))
        super().__init__(f"{operation}: {detail or os.strerror(number)} ({name})")


class NetworkTimeoutError(UnavailableError):
    """The kernel did not answer in time; every operation of this driver may simply be repeated."""

    default_code = "network-timeout"

    def __init__(self, operation: str, deadline_s: float) -> None:
        self.operation = operation
        super().__init__(f"{operation}: no answer from the kernel within {deadline_s:g} s")


class ForeignLinkError(ConflictError):
    """An interface carries a name that this driver would use, without this driver's ownership tag."""

    default_code = "interface-foreign"

    def __init__(self, ifname: str, why: str) -> None:
        self.ifname = ifname
        super().__init__(
            f"interface {ifname} exists and is not ours: {why}",
            hint=f"remove or rename {ifname}, or give the network another name",
        )
