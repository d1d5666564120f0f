"""What can go wrong with a guest that is asked for something.

    GuestError
    ├── GuestGoneError     the channel is not there, or ended; whether anything was done is unknown  (conflict)
    └── GuestRefusedError  the guest could not, the sentence is its own; or too much is asked of it  (refused)

Neither is `unavailable`: another agent would ask the same guest.
"""

from __future__ import annotations

from vdc.model.errors import ConflictError, RefusedError, VdcError


class GuestError(VdcError):
    """Base of both."""

    default_code = "guest"


class GuestGoneError(GuestError, ConflictError):
    """Nobody answers in the guest, what answers is not our init, or the connection ended."""

    default_code = "guest-gone"


class GuestRefusedError(GuestError, RefusedError):
    """What the guest says of a request that it could not carry out; or it was not asked, as it is asked too much."""

    default_code = "guest-refused"
