"""A user's credentials for a registry, looked for where docker and podman keep them.

Only what is needed for one import is passed on: one file with the entries of the registries that it asks, for the
tool alone. Nothing of it is ever in an argument, a message or a log. A helper program is asked as docker asks it.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vdc.model.errors import InvalidError, NotFoundError

_MAX_BYTES = 1024**2
_HELPER = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HELPER_S = 30.0
_DOCKER_HUB, _DOCKER_HUB_KEY = "docker.io", "https://index.docker.io/v1/"
_TOKEN = "<token>"  # noqa: S105 - what a helper says instead of a user


@dataclass(frozen=True, slots=True)
class Credentials:
    """The entries of an authentication file by the place that they are for; `secrets` must never be shown."""

    entries: Mapping[str, Mapping[str, str]] = field(repr=False)

    def to_json(self) -> str:
        """The authentication file."""
        return json.dumps({"auths": self.entries})

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every text that gives something away."""
        found = []
        for entry in self.entries.values():
            found += [entry[key] for key in ("auth", "identitytoken", "password") if entry.get(key)]
            try:
                found.append(base64.b64decode(entry.get("auth", "")).decode().partition(":")[2])
            except (binascii.Error, UnicodeDecodeError):
                continue
        return tuple(text for text in found if text)


def find_credentials(places: tuple[str, ...], auth_file: Path | None = None) -> Credentials:
    """Of each place (`registry/team/app`) the nearest entry: of the place itself, a folder above it, the registry.

    `auth_file` alone counts where it is given. Raises NotFoundError (`auth-file-missing`), InvalidError
    (`auth-file-invalid`).
    """
    files = [(path, content) for path in _files(auth_file) if (content := _read(path, auth_file is not None))]
    entries = {}
    for place in places:
        for path, content in files:
            if found := _entry(path, content, place):
                entries[found[0]] = found[1]
                break
    return Credentials(entries)


def _files(auth_file: Path | None) -> Iterator[Path]:
    """In the order in which podman looks, then docker."""
    if auth_file is not None:
        yield auth_file
        return
    if named := os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
        return
    home = Path(os.environ.get("HOME") or "/root")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    yield (Path(runtime) if runtime else Path(f"/run/containers/{os.getuid()}")) / (
        "containers/auth.json" if runtime else "auth.json"
    )
    yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"
    yield Path(os.environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"


def _read(path: Path, is_named: bool) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_BYTES))
    except FileNotFoundError as error:
        if is_named:
            raise NotFoundError(f"there is no file {path}", code="auth-file-missing") from error
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _invalid(path, "it cannot be read as JSON") from error
    if not isinstance(content, dict):
        raise _invalid(path, "it is no object")
    return content


def _entry(path: Path, content: Mapping[str, Any], place: str) -> tuple[str, dict[str, str]] | None:
    registry = place.partition("/")[0]
    auths, helpers = content.get("auths") or {}, content.get("credHelpers") or {}
    if not isinstance(auths, dict) or not isinstance(helpers, dict):
        raise _invalid(path, "auths and credHelpers have to be objects")
    helper = helpers.get(registry)
    if helper is not None:
        return _asked(path, helper, registry)
    by_place = {_place_of(key): value for key, value in auths.items()}
    while place:
        entry = by_place.get(place)
        if isinstance(entry, dict) and any(entry.get(key) for key in ("auth", "identitytoken", "password")):
            return place, {key: value for key, value in entry.items() if isinstance(value, str)}
        place = place.rpartition("/")[0]
    store = content.get("credsStore")
    return _asked(path, store, registry) if store is not None else None


def _place_of(key: str) -> str:
    """docker writes addresses where podman writes places."""
    if key == _DOCKER_HUB_KEY:
        return _DOCKER_HUB
    bare = re.sub(r"^https?://", "", key)
    return re.sub(r"/v[12]/?$", "", bare).rstrip("/")


def _asked(path: Path, helper: object, registry: str) -> tuple[str, dict[str, str]] | None:
    """What `docker-credential-HELPER get` says; None where it knows nothing."""
    if not isinstance(helper, str) or not _HELPER.fullmatch(helper):
        raise _invalid(path, f"its helper program is called {str(helper)[:40]!r}")
    asked_for = _DOCKER_HUB_KEY if registry == _DOCKER_HUB else registry
    try:
        answer = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=asked_for.encode(),
            capture_output=True,
            timeout=_HELPER_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _invalid(path, f"its helper docker-credential-{helper} does not answer") from error
    if answer.returncode != 0:
        return None
    try:
        said = json.loads(answer.stdout[:_MAX_BYTES])
        user, secret = str(said["Username"]), str(said["Secret"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _invalid(path, f"its helper docker-credential-{helper} is not understood") from error
    if user == _TOKEN:
        return registry, {"identitytoken": secret}
    return registry, {"auth": base64.b64encode(f"{user}:{secret}".encode()).decode()}


def _invalid(path: Path, reason: str) -> InvalidError:
    return InvalidError(
        f"the credentials in {path} cannot be used: {reason}",
        hint="log in again (skopeo login, podman login, docker login), or name another file with --authfile",
        code="auth-file-invalid",
    )
