"""Contexts: which cluster the command line talks to. One YAML file per user, kubectl's way.

    contexts:
      lab: {endpoints: ["unix:///run/..."], previous: work}
      work: {endpoints: ["https://10.0.0.1:7400"], certificate-authority-data: PEM,
             client-certificate-data: PEM, client-key-data: PEM}
    current-context: lab

The file is private (0600) and replaced in one rename under a lock, so that two programs that write at the
same time lose nothing. A context remembers which one was current before it, and gives it back on removal.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ConfigDict, Field, ValidationError

from vdc.api.endpoints import parse_endpoint
from vdc.model.base import Record
from vdc.model.errors import ConflictError, InvalidError, NotFoundError, RefusedError
from vdc.security.credentials import UserCredentials

ENV_FILE = "VDC_CONFIG"
ENV_CONTEXT = "VDC_CONTEXT"
_MAX_BYTES = 1024**2


class Context(Record):
    """One cluster: where its agents answer, whom to trust and what to show there (PEM; a local socket needs none).

    `previous`: which context was current before this one was made so.
    """

    model_config = ConfigDict(
        populate_by_name=True, serialize_by_alias=True, alias_generator=lambda name: name.replace("_", "-")
    )

    endpoints: tuple[str, ...]
    previous: str | None = None
    certificate_authority_data: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = Field(default=None, repr=False)

    @property
    def credentials(self) -> UserCredentials | None:
        """What to show, where there is something."""
        found = (self.certificate_authority_data, self.client_certificate_data, self.client_key_data)
        if found[0] is None or found[1] is None or found[2] is None:
            return None
        return UserCredentials(found[0], found[1], found[2])


class Contexts(Record):
    """The whole file."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    contexts: dict[str, Context] = Field(default_factory=dict)
    current: str | None = Field(default=None, alias="current-context")


def config_path() -> Path:
    """`$VDC_CONFIG`, else `~/.config/vdc/config.yaml` (`XDG_CONFIG_HOME` honoured)."""
    if given := os.environ.get(ENV_FILE):
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "vdc" / "config.yaml"


def load_contexts(path: Path | None = None) -> Contexts:
    """Read the file (an absent one is empty); `InvalidError` (`context-invalid`) where it makes no sense."""
    path = path or config_path()
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        contexts = parse_contexts(text, path)
    except FileNotFoundError:
        return Contexts()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if mode & 0o077 and any(found.client_key_data for found in contexts.contexts.values()):
        raise RefusedError(
            f"others may have read your private key: {path} has the mode {mode:04o}",
            hint=f"chmod go= {path}, and if others use this machine ask an admin for another certificate",
            code="key-exposed",
        )
    return contexts


def parse_contexts(text: bytes, path: Path) -> Contexts:
    """The file's content, read as strictly as a manifest; raises as `load_contexts`."""
    from vdc.model.strict_yaml import StrictError, parse_documents

    try:
        documents = parse_documents(text)
        if len(documents) > 1:
            raise _unreadable(path, "it has more than one document")
        return Contexts.model_validate(documents[0] if documents else {})
    except StrictError as error:
        raise _unreadable(path, str(error)) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _unreadable(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def contexts_text(contexts: Contexts) -> str:
    """The file's text (YAML)."""
    from vdc.model.strict_yaml import dump

    return dump(contexts.model_dump(mode="json", by_alias=True, exclude_none=True))


def save_contexts(contexts: Contexts, path: Path | None = None) -> None:
    """Replace the file in one rename; mode 0600, its folder 0700 where it has to be made."""
    path = path or config_path()
    text = contexts_text(contexts)
    with _reported(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600 by contract
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def put_context(
    name: str,
    endpoints: Sequence[str],
    path: Path | None = None,
    *,
    credentials: UserCredentials | None = None,
) -> Contexts:
    """Write a context and make it the current one; writing it again keeps which one was current before."""
    context = new_context(endpoints, credentials)

    def change(file: Contexts) -> Contexts:
        old = file.contexts.get(name)
        previous = file.current if file.current != name else (old.previous if old else None)
        named = {**file.contexts, name: context.with_(previous=previous)}
        return Contexts(contexts=named, current=name)

    return _update(change, path)


def new_context(endpoints: Sequence[str], credentials: UserCredentials | None = None) -> Context:
    """A context; InvalidError (`endpoint-invalid`, `context-invalid`)."""
    context = Context(
        endpoints=tuple(endpoints),
        certificate_authority_data=credentials.authority_pem if credentials else None,
        client_certificate_data=credentials.certificate_pem if credentials else None,
        client_key_data=credentials.key_pem if credentials else None,
    )
    _check(context, "the new one")
    return context


def _check(context: Context, name: str) -> None:
    is_remote = not all(parse_endpoint(endpoint).unix_path for endpoint in context.endpoints)
    if is_remote and context.credentials is None:
        raise InvalidError(
            f"context {name} has no credentials for its https endpoints",
            hint="an admin makes some: vdc cluster user add NAME --role ROLE -o FILE; then vdc context import FILE",
            code="context-invalid",
        )


def replace_credentials(name: str, credentials: UserCredentials, path: Path | None = None) -> Contexts:
    """Let a context show something else; `NotFoundError` (`context-not-found`)."""

    def change(file: Contexts) -> Contexts:
        old = find_context(file, name)
        new = new_context(old.endpoints, credentials).with_(previous=old.previous)
        return Contexts(contexts={**file.contexts, name: new}, current=file.current)

    return _update(change, path)


def replace_authorities(name: str, bundle_pem: str, path: Path | None = None) -> Contexts:
    """Let a context trust other authorities, which the ones it trusted vouch for; no error where it is gone."""

    def change(file: Contexts) -> Contexts:
        old = file.contexts.get(name)
        if old is None:
            return file
        new = old.with_(certificate_authority_data=bundle_pem)
        return Contexts(contexts={**file.contexts, name: new}, current=file.current)

    return _update(change, path)


def import_contexts(given: Contexts, path: Path | None = None) -> Contexts:
    """Add the contexts of another file; its current one becomes the current one. ConflictError (`context-exists`)."""

    def change(file: Contexts) -> Contexts:
        for name, context in given.contexts.items():
            _check(context, name)
            if name in file.contexts and file.contexts[name].with_(previous=context.previous) != context:
                raise ConflictError(
                    f"there is another context {name} already",
                    hint=f"vdc context remove {name} gives it up",
                    code="context-exists",
                )
        current = given.current or next(iter(given.contexts), None)
        added = {name: each for name, each in given.contexts.items() if name not in file.contexts}
        if current in added:
            added[current] = added[current].with_(previous=file.current)
        return Contexts(contexts={**file.contexts, **added}, current=current or file.current)

    return _update(change, path)


def use_context(name: str, path: Path | None = None) -> Contexts:
    """Make a context the current one; `NotFoundError` (`context-not-found`)."""

    def change(file: Contexts) -> Contexts:
        find_context(file, name)
        return Contexts(contexts=file.contexts, current=name)

    return _update(change, path)


def remove_context(name: str, path: Path | None = None) -> Contexts:
    """Forget a context (no error where there is none); the one that was current before it comes back."""

    def change(file: Contexts) -> Contexts:
        gone = file.contexts.get(name)
        heir = gone.previous if gone else None
        left = {
            key: value.with_(previous=heir if value.previous == name else value.previous)
            for key, value in file.contexts.items()
            if key != name
        }
        current = heir if file.current == name else file.current
        return Contexts(contexts=left, current=current if current in left else None)

    return _update(change, path)


def find_context(file: Contexts, name: str) -> Context:
    """A context by its name; `NotFoundError` (`context-not-found`)."""
    if name in file.contexts:
        return file.contexts[name]
    known = ", ".join(sorted(file.contexts)) or "none"
    raise NotFoundError(
        f"there is no context {name!r} (known: {known})",
        hint="choose another one with --context or VDC_CONTEXT, or run: vdc lab up",
        code="context-not-found",
    )


def resolve_context(name: str | None = None, path: Path | None = None) -> tuple[str, Context]:
    """The context to use: `name`, else `$VDC_CONTEXT`, else the file's current one; `NotFoundError`."""
    file = load_contexts(path)
    chosen = name or os.environ.get(ENV_CONTEXT) or file.current
    if not chosen:
        raise NotFoundError(
            "no cluster is chosen",
            hint="run vdc lab up for one on this machine, or name one with --context",
            code="context-missing",
        )
    context = find_context(file, chosen)
    _check(context, chosen)
    return chosen, context


def _update(change: Callable[[Contexts], Contexts], path: Path | None) -> Contexts:
    path = path or config_path()
    with _reported(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(
            path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        contexts = change(load_contexts(path))
        save_contexts(contexts, path)
        return contexts
    finally:
        os.close(descriptor)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidError(
            f"{path} cannot be written: {error.strerror}",
            hint=f"choose another with {ENV_FILE}",
            code="context-invalid",
        ) from error


def _unreadable(path: Path, reason: str) -> InvalidError:
    return InvalidError(
        f"{path} cannot be used: {reason}",
        hint=f"correct or remove it, or set {ENV_FILE}",
        code="context-invalid",
    )
