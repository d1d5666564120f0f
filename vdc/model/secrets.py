"""Secrets of a manifest: hidden in everything that is shown, and kept where what was shown is applied again. Pure.

Only here is decided what a secret is: the values of `env[]` and `files[]` that say `secret: true`, and
`cloudInit.userData`, in which people write passwords.
"""

from __future__ import annotations

from collections.abc import Mapping

from vdc.model.errors import InvalidError
from vdc.model.manifest import EndophyteManifest
from vdc.model.process import EnvVar, InjectedFile, Process

MASK = "<secret>"  # in place of a value


def masked(manifest: EndophyteManifest) -> EndophyteManifest:
    """The manifest as anybody may see it."""
    given, process = manifest.spec.cloud_init, manifest.spec.process
    if given is not None and given.user_data is not None:
        manifest = _with_user_data(manifest, MASK)
    if process is None:
        return manifest
    return _with_process(
        manifest,
        env=tuple(one.with_(value=MASK) if one.secret else one for one in process.env),
        files=tuple(
            one.with_(content=MASK, content_base64=None) if one.secret else one for one in process.files
        ),
    )


def unmasked(manifest: EndophyteManifest, stored: EndophyteManifest | None) -> EndophyteManifest:
    """The manifest with what is stored in place of each mask.

    Raises InvalidError (`secret-missing`) where nothing is stored, or what is stored would cease to be a secret.
    """
    given, process = manifest.spec.cloud_init, manifest.spec.process
    if given is not None and given.user_data == MASK:
        known = stored.spec.cloud_init.user_data if stored is not None and stored.spec.cloud_init else None
        if known is None:
            raise _missing("spec.cloudInit.userData", "it", is_known=False)
        manifest = _with_user_data(manifest, known)
    if process is None:
        return manifest
    before = stored.spec.process if stored is not None and stored.spec.process is not None else Process()
    variables = {one.name: one for one in before.env if one.secret}
    files = {one.path: one for one in before.files if one.secret}
    return _with_process(
        manifest,
        env=tuple(_variable(one, variables, f"spec.process.env[{n}]") for n, one in enumerate(process.env)),
        files=tuple(_file(one, files, f"spec.process.files[{n}]") for n, one in enumerate(process.files)),
    )


def _with_user_data(manifest: EndophyteManifest, text: str) -> EndophyteManifest:
    given = manifest.spec.cloud_init
    assert given is not None
    return manifest.with_(spec=manifest.spec.with_(cloud_init=given.with_(user_data=text)))


def _with_process(
    manifest: EndophyteManifest, *, env: tuple[EnvVar, ...], files: tuple[InjectedFile, ...]
) -> EndophyteManifest:
    process = manifest.spec.process
    if process is None or (env == process.env and files == process.files):
        return manifest
    return manifest.with_(spec=manifest.spec.with_(process=process.with_(env=env, files=files)))


def _variable(one: EnvVar, stored: Mapping[str, EnvVar], path: str) -> EnvVar:
    if one.value != MASK or not (one.secret or one.name in stored):
        return one
    if one.name not in stored or not one.secret:
        raise _missing(f"{path}.value", one.name, is_known=one.name in stored)
    return one.with_(value=stored[one.name].value)


def _file(one: InjectedFile, stored: Mapping[str, InjectedFile], path: str) -> InjectedFile:
    if one.content != MASK or not (one.secret or one.path in stored):
        return one
    if one.path not in stored or not one.secret:
        raise _missing(f"{path}.content", one.path, is_known=one.path in stored)
    kept = stored[one.path]
    return one.with_(content=kept.content, content_base64=kept.content_base64)


def _missing(path: str, what: str, *, is_known: bool) -> InvalidError:
    if is_known:
        reason = f"the stored value of {what} is a secret; to show it from now on, give it once more"
    else:
        reason = f"{MASK} keeps a stored value, and none is stored for {what}"
    return InvalidError(f"{path}: {reason}", code="secret-missing", hint="write the value itself")


__all__ = ["MASK", "masked", "unmasked"]
