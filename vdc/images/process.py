"""What a container image may say of its program: looked at where it is imported, and by the host that gets it. Pure."""

from __future__ import annotations

import re

from vdc.model.process import ImageProcess

_MOST_BYTES = 256 * 1024  # of all its words: it is part of one record of the store
_MOST_WORDS = 4_096
_LONGEST_TEXT = 4_096
_SIGNAL = re.compile(r"(?:SIG)?[A-Z0-9+-]{1,16}|[0-9]{1,2}")
_PORT = re.compile(r"[0-9]{1,5}/(?:tcp|udp|sctp)")


def fault_of(process: ImageProcess) -> str:
    """What makes no sense in it, as part of a sentence; empty where all does."""
    words = (*process.entrypoint, *process.cmd, *process.env)
    texts = (process.working_dir, process.user, process.stop_signal, *process.volumes)
    if (
        len(words) > _MOST_WORDS
        or len(process.exposed_ports) > _MOST_WORDS
        or len(process.volumes) > _MOST_WORDS
    ):
        return "its configuration has too many words"
    if len(process.to_json().encode("utf-8", "surrogatepass")) > _MOST_BYTES:
        return "its configuration is larger than anything that makes sense"
    if any("\0" in word for word in words):
        return "one of its words holds the character NUL"
    if any(len(text) > _LONGEST_TEXT or not text.isprintable() for text in texts):
        return "its User, WorkingDir, StopSignal or Volumes are no texts"
    if any(word.startswith("=") or "=" not in word for word in process.env):
        return "its Env is not of the form NAME=VALUE"
    if process.stop_signal and not _SIGNAL.fullmatch(process.stop_signal):
        return f"its StopSignal is {process.stop_signal[:20]!r}"
    paths = (process.working_dir or "/", *process.volumes)
    if not all(path.startswith("/") for path in paths) or any(
        ".." in path.split("/") for path in process.volumes
    ):
        return "its WorkingDir or Volumes are no absolute paths"
    wrong = [port for port in process.exposed_ports if not _is_port(port)]
    return f"it exposes {wrong[0][:20]!r}" if wrong else ""


def _is_port(text: str) -> bool:
    return _PORT.fullmatch(text) is not None and 1 <= int(text.partition("/")[0]) <= 65535
