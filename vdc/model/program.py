"""What a container's guest runs: the image's program with what a manifest changes about it. Pure.

As Kubernetes does it: `$(NAME)` in `command`, `args`, in values and in probes' commands stands for a variable of the
manifest; what the image says itself is not expanded.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Final

from vdc.model.errors import InvalidError
from vdc.model.guest import GuestFile, GuestProcess
from vdc.model.image import Image
from vdc.model.manifest import EndophyteSpec
from vdc.model.process import EnvField, ImageProcess, Probe, Process, expand

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def guest_process(
    given: Process, image: ImageProcess, hostname: str, fields: Mapping[EnvField, str]
) -> GuestProcess:
    """Everything that can be decided outside the guest; `fields` are those of the Endophyte.

    Raises InvalidError (`command-missing`).
    """
    values = given.environment(fields)
    return GuestProcess(
        argv=_argv(given, image, values),
        env=_env(image, values, hostname),
        working_dir=given.working_dir or image.working_dir or "/",
        user=given.user or image.user or "0",
        stop_signal=signal_name(given.stop_signal or image.stop_signal or "SIGTERM"),
        stop_seconds=given.stop_seconds,
        restart_policy=given.restart_policy,
        security_context=given.security_context,
        startup_probe=_probe(given.startup_probe, values),
        liveness_probe=_probe(given.liveness_probe, values),
        readiness_probe=_probe(given.readiness_probe, values),
    )


def guest_files(given: Process) -> tuple[GuestFile, ...]:
    """The files that are laid over the image's."""
    return tuple(
        GuestFile(path=file.path, content_base64=file.base64, mode=file.mode) for file in given.files
    )


def signal_name(text: str) -> str:
    """`SIGTERM` for `TERM`, `SIGTERM` and `15`. An image's that is none stays as it is: its guest says so."""
    if text.isdecimal():
        number = int(text)
        return signal.Signals(number).name if number in set(signal.Signals) else text
    return text if text.startswith("SIG") else f"SIG{text}"


def volumes_on_root(spec: EndophyteSpec, image: Image) -> tuple[str, ...]:
    """The folders that a container image wants on a volume, and the manifest leaves on the root disk."""
    elsewhere = {disk.mount_path for disk in spec.disks}
    elsewhere |= {folder.path for folder in (spec.process.empty_dirs if spec.process else ())}
    return tuple(path for path in (image.process.volumes if image.process else ()) if path not in elsewhere)


def _argv(given: Process, image: ImageProcess, values: Mapping[str, str]) -> tuple[str, ...]:
    def expanded(words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(expand(word, values) for word in words)

    command = image.entrypoint if given.command is None else expanded(given.command)
    own = image.cmd if given.command is None else ()
    argv = (*command, *(own if given.args is None else expanded(given.args)))
    if not argv or not argv[0]:
        raise InvalidError(
            "the image says no command, and the manifest gives none",
            hint="process.command", code="command-missing",
        )  # fmt: skip
    return argv


def _env(image: ImageProcess, values: Mapping[str, str], hostname: str) -> tuple[str, ...]:
    of_image = dict(entry.partition("=")[::2] for entry in image.env)
    every = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname} | of_image | dict(values)
    return tuple(f"{name}={value}" for name, value in every.items())


def _probe(probe: Probe | None, values: Mapping[str, str]) -> Probe | None:
    if probe is None or probe.exec is None:
        return probe
    command = tuple(expand(word, values) for word in probe.exec.command)
    return probe.with_(exec=probe.exec.with_(command=command))
