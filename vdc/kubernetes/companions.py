"""What workloads refer to, from the same call: ConfigMaps, Secrets and claims of disks. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vdc.kubernetes.fields import Findings, read
from vdc.kubernetes.objects import Claim, ConfigMap, Secret
from vdc.model.manifest_file import Loaded

DEFAULT_NAMESPACE = "default"
CLAIM = "PersistentVolumeClaim"
KINDS: Mapping[str, type[ConfigMap] | type[Secret] | type[Claim]] = {
    "ConfigMap": ConfigMap, "Secret": Secret, CLAIM: Claim,
}  # fmt: skip
_KEY = re.compile(r"(?!\.\.)[-._A-Za-z0-9]{1,253}")  # it may become a file's name


@dataclass(frozen=True, slots=True)
class Key:
    """Which object it is."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Companion:
    """One of them: values by key, or a claim; neither where it is broken."""

    values: Mapping[str, bytes] | None = field(default=None, repr=False)
    claim: Claim | None = None


class Companions:
    """All of a call."""

    def __init__(self, items: Iterable[Loaded]) -> None:
        self._found: dict[Key, Companion] = {}
        self.findings: dict[int, Findings] = {}  # by the identity of what was loaded
        self.keys: dict[int, Key] = {}
        for item in items:
            if item.kind in KINDS:
                self._add(item)

    def find(self, key: Key) -> Companion | None:
        """None where it is not in this call."""
        return self._found.get(key)

    def _add(self, item: Loaded) -> None:
        findings = self.findings[id(item)] = Findings()
        given = item.value.get("metadata")
        metadata = given if isinstance(given, dict) else {}
        space, name = (
            text if isinstance(text, str) else ""
            for text in (metadata.get("namespace"), metadata.get("name"))
        )
        key = self.keys[id(item)] = Key(item.kind, space or DEFAULT_NAMESPACE, name)
        if not name:
            findings.refuse("metadata.name", "required field is missing")
        elif key in self._found:
            findings.refuse("", f"{key} is in this call already")
        else:
            made = read(KINDS[item.kind], item.value, findings)
            claim = made if isinstance(made, Claim) else None
            values = _values(made, findings) if isinstance(made, ConfigMap | Secret) else None
            self._found[key] = Companion() if findings.refusals else Companion(values, claim)


def _values(made: ConfigMap | Secret, findings: Findings) -> dict[str, bytes]:
    is_secret = isinstance(made, Secret)
    texts, encoded = (
        (made.string_data, made.data) if isinstance(made, Secret) else (made.data, made.binary_data)
    )
    values: dict[str, bytes] = {}
    for key, text in encoded.items():
        try:
            values[key] = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            findings.refuse(f"{'data' if is_secret else 'binaryData'}.{key[:80]}", "this is not base64")
    for key, text in texts.items():
        if key in values and not is_secret:
            findings.refuse(f"data.{key[:80]}", "this key is in binaryData as well")
        values[key] = text.encode()
    for key in values:
        if not _KEY.fullmatch(key):
            findings.refuse(f"data.{key[:80]}", "a key has letters, digits, '-', '_' and '.' alone")
    return values
