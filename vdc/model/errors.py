"""The errors that reach a user: a stable code, one line, a hint; classes by what the caller can do.

VdcError
├── InvalidError      the request itself is wrong; repeat it corrected          (HTTP 400)
├── UnauthenticatedError  who asks has shown no valid certificate             (HTTP 401)
├── ForbiddenError    who asks is known and may not                              (HTTP 403)
├── NotFoundError     the named object does not exist                            (HTTP 404)
├── ConflictError     the state has moved on or forbids it; look and decide      (HTTP 409)
├── FencedError       a newer epoch exists; whoever asked must stand down        (HTTP 412)
├── RefusedError      understood and not done, with the reason                   (HTTP 422)
├── TooManyError      one person asks faster than is allowed; wait               (HTTP 429)
├── UnavailableError  something needed does not answer; trying later is safe     (HTTP 503)
└── BugError          none of the above; a defect of this program                (HTTP 500)
"""

from __future__ import annotations

from typing import ClassVar

from vdc.model.base import Record


class Problem(Record):
    """An error as it travels: `code` is stable and for scripts, the two texts are for people."""

    code: str
    message: str
    hint: str = ""


class VdcError(Exception):
    """Base of every error that this project raises on purpose."""

    http_status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal"
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.problem = Problem(
            code=code or self.default_code, message=message, hint=hint or self.default_hint
        )

    @property
    def code(self) -> str:
        """The stable code, for example `image-not-found`."""
        return self.problem.code


class InvalidError(VdcError):
    """The request is malformed; the same request can never succeed."""

    http_status = 400
    default_code = "invalid"


class UnauthenticatedError(VdcError):
    """Nobody valid is at the other end: no certificate, or one that is not accepted."""

    http_status = 401
    default_code = "certificate-missing"


class ForbiddenError(VdcError):
    """The caller is known, and its role does not include this."""

    http_status = 403
    default_code = "role-missing"


class NotFoundError(VdcError):
    """The named object does not exist."""

    http_status = 404
    default_code = "not-found"


class ConflictError(VdcError):
    """The object's present state forbids the request, or somebody else changed it first."""

    http_status = 409
    default_code = "conflict"


class FencedError(VdcError):
    """A newer epoch exists: the caller's knowledge is stale and it must not act."""

    http_status = 412
    default_code = "fenced"


class RefusedError(VdcError):
    """Understood, possible to ask, and deliberately not done; the message says why."""

    http_status = 422
    default_code = "refused"


class TooManyError(VdcError):
    """Not done, because of all that the same person had done just before."""

    http_status = 429
    default_code = "too-many"


class UnavailableError(VdcError):
    """A component did not answer in time. Says nothing about whether the request took effect."""

    http_status = 503
    default_code = "unavailable"


class BugError(VdcError):
    """A state that the program's own logic excludes."""


_BY_STATUS: dict[int, type[VdcError]] = {
    cls.http_status: cls
    for cls in (
        InvalidError,
        UnauthenticatedError,
        ForbiddenError,
        NotFoundError,
        ConflictError,
        FencedError,
        RefusedError,
        TooManyError,
        UnavailableError,
        BugError,
    )
}


def error_from_problem(http_status: int, problem: Problem) -> VdcError:
    """Rebuild the error that a server answered, so that callers handle both sides of the wire alike."""
    cls = _BY_STATUS.get(http_status, BugError)
    return cls(problem.message, hint=problem.hint, code=problem.code)
