"""What a container's guest runs: the image's program with what a manifest changes about it. Pure.

As Kubernetes does it: `$(NAME)` in `command`, `args`, in values and in probes' commands stands for a variable of the
manifest; one that is not known stays as it is, and `$$(NAME)` is `$(NAME)`. What the image says itself is not expanded.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import Final

from vdc.model.errors import InvalidError
from vdc.model.guest import GuestFile, GuestProcess
from vdc.model.process import ImageProcess, Probe, Process

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REFERENCE = re.compile(r"\$\$|\$\(([^)]*)\)")
_REALTIME = re.compile(r"SIGRT(MIN\+|MAX-)([0-9]{1,2})")
_MOST_REALTIME: Final = 30  # from the least to the most, with glibc's own left out
_HIGHEST_SIGNAL: Final = 64


def guest_process(given: Process, image: ImageProcess, hostname: str) -> GuestProcess:
    """Everything that can be decided outside the guest. Raises InvalidError (`command-missing`, `signal-unknown`)."""
    values = _values(given)
    return GuestProcess(
        argv=_argv(given, image, values),
        env=_env(given, image, values, hostname),
        working_dir=given.working_dir or image.working_dir or "/",
        user=given.user or image.user or "0",
        stop_signal=signal_name(given.stop_signal or image.stop_signal or "SIGTERM"),
        stop_seconds=given.stop_seconds,
        restart_policy=given.restart_policy,
        startup_probe=_probe(given.startup_probe, values),
        liveness_probe=_probe(given.liveness_probe, values),
        readiness_probe=_probe(given.readiness_probe, values),
    )


def guest_files(given: Process) -> tuple[GuestFile, ...]:
    """The files that are laid over the image's."""
    return tuple(
        GuestFile(path=file.path, content_base64=file.base64, mode=file.mode) for file in given.files
    )


def expand(text: str, values: Mapping[str, str]) -> str:
    """Put variables' values for `$(NAME)`."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[1] is None else values.get(match[1], match[0])

    return _REFERENCE.sub(value, text)


def signal_name(text: str) -> str:
    """`SIGTERM` for `TERM`, `SIGTERM` and `15`. Raises InvalidError (`signal-unknown`)."""
    if text.isdigit() and 1 <= int(text) <= _HIGHEST_SIGNAL:
        number = int(text)
        return signal.Signals(number).name if number in set(signal.Signals) else str(number)
    name = text if text.startswith("SIG") else f"SIG{text}"
    realtime = _REALTIME.fullmatch(name)
    is_realtime = realtime is not None and int(realtime[2]) <= _MOST_REALTIME
    if not is_realtime and name not in signal.Signals.__members__:
        raise InvalidError(f"{text[:40]!r} is no signal: write for example SIGTERM", code="signal-unknown")
    return name


def _values(given: Process) -> dict[str, str]:
    """The manifest's variables; one may refer to those before it."""
    values: dict[str, str] = {}
    for variable in given.env:
        values[variable.name] = expand(variable.value, values)
    return values


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


def _env(given: Process, image: ImageProcess, values: Mapping[str, str], hostname: str) -> tuple[str, ...]:
    of_image = dict(entry.partition("=")[::2] for entry in image.env)
    return tuple(
        f"{name}={value}"
        for name, value in ({"PATH": DEFAULT_PATH, "HOSTNAME": hostname} | of_image | dict(values)).items()
    )


def _probe(probe: Probe | None, values: Mapping[str, str]) -> Probe | None:
    if probe is None or probe.exec is None:
        return probe
    command = tuple(expand(word, values) for word in probe.exec.command)
    return probe.with_(exec=probe.exec.with_(command=command))
