"""What the user's machine says about registries: mirrors, certificates, and whom to trust, in containers' own files.

They are shown to skopeo where it looks for them: containers-registries.conf(5), containers-certs.d(5),
containers-policy.json(5).
"""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from vdc.confinement.sandbox import Bind
from vdc.images.oci.credentials import find_credentials
from vdc.images.oci.source import Source
from vdc.model.errors import InvalidError, NotFoundError

_ETC = Path("/etc/containers")
_CERTIFICATES = "/run/certs"
_CERTIFICATE_FOLDERS = ("/etc/containers/certs.d", "/etc/docker/certs.d")
_MAX_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """What the user says about the registry. `ca`: a certificate, or a folder as docker's certs.d has them."""

    ca: Path | None = None
    is_insecure: bool = False
    auth_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """How skopeo gets to a registry. `source`: its options about the source, without what comes before their names."""

    program: tuple[str, ...] = ("--insecure-policy",)
    source: tuple[str, ...] = ()
    binds: tuple[Bind, ...] = ()
    auth_json: str = field(default="", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


def access_to(source: Source, options: RegistryOptions) -> Access:
    """Raises InvalidError (`registries-conf-invalid`, `auth-file-invalid`), NotFoundError (`ca-missing`, ...)."""
    if not source.registry:
        return Access()
    binds, flags = _certificates(source.registry, options)
    conf = _user_file("registries.conf", os.environ.get("CONTAINERS_REGISTRIES_CONF"))
    drop_in = _ETC / "registries.conf.d"
    policy = _user_file("policy.json", None)
    for path, name in ((conf, "registries.conf"), (policy, "policy.json"), (drop_in, drop_in.name)):
        if path is not None and path.exists():
            binds.append(Bind(path, str(_ETC / name)))
    places = (source.repository, *_mirrors(source.repository, conf, drop_in))
    credentials = find_credentials(places, options.auth_file)
    return Access(
        program=() if policy is not None else ("--insecure-policy",),
        source=tuple(flags),
        binds=(*binds, *_keys(policy)),
        auth_json=credentials.to_json(),
        secrets=credentials.secrets,
    )


def _certificates(registry: str, options: RegistryOptions) -> tuple[list[Bind], list[str]]:
    if options.is_insecure:
        return [], ["tls-verify=false"]
    if options.ca is None:
        folders = [Path(folder) / registry for folder in _CERTIFICATE_FOLDERS]
        return [Bind(folder, str(folder)) for folder in folders if folder.is_dir()], []
    if not options.ca.exists():
        raise NotFoundError(f"there is no file or folder {options.ca}", code="ca-missing")
    place = _CERTIFICATES if options.ca.is_dir() else f"{_CERTIFICATES}/ca.crt"
    return [Bind(options.ca.resolve(), place)], [f"cert-dir={_CERTIFICATES}"]


def _user_file(name: str, named: str | None) -> Path | None:
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path(os.environ.get("HOME") or "/root") / ".config")
    paths = [Path(named)] if named else [home / "containers" / name, _ETC / name]
    return next((path for path in paths if path.is_file()), None)


def _mirrors(repository: str, conf: Path | None, drop_in: Path) -> list[str]:
    """Places that may be asked instead, whose credentials are needed too."""
    files = [conf] if conf is not None else []
    files += sorted(drop_in.glob("*.conf")) if drop_in.is_dir() else []
    found = []
    for path in files:
        try:
            tables = tomllib.loads(path.read_bytes()[:_MAX_BYTES].decode()).get("registry", [])
            for table in tables:
                prefix = str(table.get("prefix") or table.get("location") or "")
                if not prefix or not (repository + "/").startswith(prefix.removeprefix("*.") + "/"):
                    continue
                rest = repository.removeprefix(prefix)
                locations = [
                    table.get("location"),
                    *(mirror.get("location") for mirror in table.get("mirror", [])),
                ]
                found += [str(location) + rest for location in locations if location]
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, AttributeError, TypeError) as error:
            raise InvalidError(
                f"{path} cannot be read: {error}", hint="correct it", code="registries-conf-invalid"
            ) from error
    return found


def _keys(policy: Path | None) -> tuple[Bind, ...]:
    """The public keys that a policy names, which have to be below /etc to be seen."""
    if policy is None:
        return ()
    try:
        waiting, found = [json.loads(policy.read_bytes()[:_MAX_BYTES])], []
    except (OSError, ValueError, RecursionError):
        return ()  # skopeo says what is wrong with it
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                names = [inner] if key == "keyPath" else inner if key == "keyPaths" else []
                found += [Path(name) for name in names if isinstance(name, str)]
                waiting.append(inner)
        elif isinstance(value, list):
            waiting += value
    inside = (
        path for path in found if path.is_file() and path.is_relative_to("/etc") and ".." not in path.parts
    )
    return tuple(Bind(path, str(path)) for path in dict.fromkeys(inside))
