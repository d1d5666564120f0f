"""What skopeo complains of, as one line with a hint. Pure.

Its words are those of containers/image, docker/distribution and Go; of several rows that fit, the first one counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from vdc.model.errors import InvalidError, NotFoundError, RefusedError, UnavailableError, VdcError

_MESSAGE = re.compile(r'level=(?:fatal|error) msg="((?:[^"\\]|\\.)*)"')
_USER_IN_URL = re.compile(r"(https?://)[^/@\s\"]+@")
_LONGEST = 300
_BROKEN_HINT = "is it whole, and a container image? fetch or build it again"


class _Row(NamedTuple):
    """`words`: one of them is in the complaint. The message may have {what}, {where} and {said}."""

    words: tuple[str, ...]
    kind: type[VdcError]
    code: str
    message: str
    hint: str


_TABLE = (
    _Row(
        ("no image found in image index", "no image found in manifest list"),
        InvalidError,
        "image-arch-unsupported",
        "{what} has no image for linux/amd64",
        "whoever publishes it has to build one: docker buildx build --platform linux/amd64",
    ),
    _Row(
        ("Source image rejected",),
        RefusedError,
        "image-rejected",
        "policy.json does not let {what} in: {said}",
        "see containers-policy.json(5)",
    ),
    _Row(
        ("toomanyrequests", "Too Many Requests", "rate limit"),
        UnavailableError,
        "registry-limit",
        "{where} takes no more requests for now",
        "log in (docker login), or wait",
    ),
    _Row(
        ("unauthorized", "authentication required", "denied", "Forbidden", "Unauthorized", "username/password",
         "insufficient_scope", "status: 401", "status: 403"),
        RefusedError,
        "registry-unauthorised",
        "{where} does not let you have {what}",
        "log in by skopeo, podman or docker login, or name a file of credentials with --authfile",
    ),
    _Row(
        ("server gave HTTP response to HTTPS client",),
        RefusedError,
        "registry-insecure",
        "{where} does not speak TLS",
        "with --insecure whoever is on the way can read and change the image",
    ),
    _Row(
        ("x509:", "tls: ", "certificate"),
        RefusedError,
        "registry-untrusted",
        "the certificate of {where} is not trusted: {said}",
        "name the authority that signed it with --ca FILE",
    ),
    _Row(
        ("did not match, expected", "does not match expected", "does not match provided manifest digest", "DiffID",
         "digest mismatch"),
        InvalidError,
        "image-digest-mismatch",
        "{where} has something else than {what} promises: {said}",
        "try again; if it stays so, it is damaged, or somebody on the way lies",
    ),
    _Row(
        ("more than one image", "expected 1 item", "choose an image"),
        InvalidError,
        "image-ambiguous",
        "{where} holds several images: {said}",
        "say which one, behind the file's name and a colon",
    ),
    _Row(
        ("manifest unknown", "name unknown", "not found", "no descriptor found", "does not exist", "status: 404"),
        NotFoundError,
        "image-not-in-source",
        "there is no {what} in {where}: {said}",
        "look at its name and tag",
    ),
    _Row(
        ("connection refused", "no such host", "timeout", "no route to host", "network is unreachable", "timed out",
         "connection reset", "deadline exceeded", "unexpected EOF", ": EOF", "broken pipe", "server misbehaving",
         "status: 5", "Temporary failure", "Client.Timeout"),
        UnavailableError,
        "registry-unreachable",
        "{where} does not answer: {said}",
        "look at its name and at the network, then try again",
    ),
)  # fmt: skip


def refusal(complaint: str, *, what: str, where: str, secrets: Iterable[str] = ()) -> VdcError:
    """The error that the user sees. `what`: the image, `where`: its registry or file."""
    said = said_by(complaint, secrets)
    for row in _TABLE:
        if any(word in said for word in row.words):
            message = row.message.format(what=what, where=where, said=said)
            return row.kind(message, hint=row.hint, code=row.code)
    return InvalidError(f"{what} cannot be read: {said}", hint=_BROKEN_HINT, code="image-damaged")


def said_by(complaint: str, secrets: Iterable[str] = ()) -> str:
    """The last reason in skopeo's log, without what nobody may see."""
    messages = _MESSAGE.findall(complaint)
    lines = [line for line in complaint.splitlines() if line.strip()]
    text = messages[-1].replace('\\"', '"') if messages else lines[-1] if lines else "no reason was given"
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _USER_IN_URL.sub(r"\1", text)
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= _LONGEST else "..." + text[-_LONGEST:]  # Go puts the reason last
