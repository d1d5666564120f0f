"""Identifiers as NewTypes, and the one grammar that names have to follow."""

from __future__ import annotations

import re
import uuid
from typing import Annotated, NewType

from pydantic import AfterValidator

EndophyteName = NewType("EndophyteName", str)
HostName = NewType("HostName", str)
NetworkName = NewType("NetworkName", str)
ImageRef = NewType("ImageRef", str)
Digest = NewType("Digest", str)
Uid = NewType("Uid", str)
Epoch = NewType("Epoch", int)

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def check_dns_label(text: str) -> str:
    """Accept an RFC 1123 label (it becomes a file name, a DNS name and part of etcd keys); else `ValueError`."""
    if not _DNS_LABEL.fullmatch(text):
        raise ValueError(
            f"{text[:80]!r} is not a valid name: 1 to 63 lower-case letters, digits and '-', "
            "beginning and ending with a letter or digit"
        )
    return text


DnsLabel = Annotated[str, AfterValidator(check_dns_label)]


def new_uid() -> Uid:
    """A random identity (UUID 4) for something that may be deleted and made again under the same name."""
    return Uid(str(uuid.uuid4()))
