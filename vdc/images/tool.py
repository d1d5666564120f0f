"""Run one program over files that somebody else has made: shut in, limited, and gone when it should be.

It sees the runtime root (the machine's own /usr where that lacks the program), what is bound for it and one scratch
folder, SCRATCH, in which it begins. As root it runs as TOOL_UID; for everybody else as themselves in a user
namespace. Blocks: the command line calls it straight, async code in a thread with `is_cancelled`. However it ends,
by Ctrl-C too, nothing runs any more when a function of this module returns or raises.

Danger: what is in the scratch folder afterwards is the program's work, and it may have been taken over by its input:
open its results by `vdc.images.scratch.open_result`, which follows no links.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from vdc.confinement.limits import ToolLimits
from vdc.confinement.roots import holds, runtime_root
from vdc.confinement.sandbox import ENVIRONMENT, Bind, User, sandboxed
from vdc.confinement.seccomp import filter_descriptor
from vdc.images.toolpipes import Complaints, Pipes, Speech, drain
from vdc.model.errors import RefusedError

SCRATCH = "/run/scratch"
TOOL_UID = 1_899_999_999  # nobody's: just below the guests' (hostagent/config.py)
_UMASK = 0o077
_ENTERED_BY_BWRAP = 0o711  # which is another user and without capabilities when it changes into the folder
_END_S = 10.0
_LONGEST = 300  # of a complaint
_SANDBOX = ("bwrap: ", "setpriv: ", "prlimit: ")
_FULL = ("No space left on device", "Disk quota exceeded")
_PACKAGES = {
    "bwrap": "bubblewrap", "setpriv": "util-linux", "prlimit": "util-linux", "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs", "skopeo": "skopeo", "zstd": "zstd",
}  # fmt: skip
# What a program needs of /etc to find a registry and to believe its certificate. No private keys.
_NETWORK_FILES = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services", "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf", "/etc/ssl/cert.pem", "/etc/pki/tls/certs", "/etc/pki/ca-trust", "/etc/ca-certificates",
    "/usr/share/ca-certificates", "/usr/local/share/ca-certificates",
)  # fmt: skip

Cancelled = Callable[[], bool]


class ToolFailedError(RefusedError):
    """The program ended with an error or not in time; the message is its own last line."""

    default_code = "image-tool-failed"

    def __init__(self, message: str, *, status: int | None = None, complaint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.complaint = complaint


@dataclass(frozen=True, slots=True)
class Tool:
    """A program and what it is given. Paths in `argv` are those that it sees.

    `binds` are read-only unless they say otherwise. `scratch` is a folder of ours: it is given to the program's
    user with all that is in it, so nothing in it may be a hard link to anything else. `env` is added to a path and
    a language; `has_network` gives it the machine's network, its resolver and its certificates.
    """

    argv: tuple[str, ...]
    limits: ToolLimits
    deadline_s: float
    binds: tuple[Bind, ...] = ()
    scratch: Path | None = None
    has_network: bool = False
    env: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        """As messages call it: `qemu-img convert`."""
        words = self.argv[1:2] if self.argv[1:2] and not self.argv[1].startswith("-") else ()
        return " ".join((self.argv[0], *words))


def run_tool(
    tool: Tool,
    *,
    stdin: bytes | Iterable[bytes] | BinaryIO | None = None,
    on_output: Callable[[bytes], None] | None = None,
    on_line: Callable[[str], None] | None = None,
    is_cancelled: Cancelled = lambda: False,
) -> bytes:
    """Run it to its end and return what it wrote (16 MiB at most), or nothing where `on_output` takes it.

    `stdin`: bytes, chunks that are made as it reads them, or an open file that it reads itself. `on_line` gets each
    line of output and complaint; \\r ends one too. What any of them raises ends the program.

    Raises ToolFailedError (`image-tool-failed`), RefusedError (`no-space`; `image-tool-missing`; `cancelled`).
    """
    speech = Speech(on_output, on_line)
    with _started(tool, stdin) as process:
        pipes = Pipes(process, stdin, speech)
        ended = pipes.run(tool.deadline_s, is_cancelled)
        if ended != "":
            raise _ended_early(tool, ended)
    _check_status(tool, process.returncode, speech.complaint)
    return bytes(speech.output)


@contextlib.contextmanager
def stream_tool(tool: Tool, *, stdin: BinaryIO | None = None) -> Iterator[IO[bytes]]:
    """What it writes, as a file to read from, for programs that only translate a stream.

    It may be left early; the program is ended then. Where its end was read, its status counts, also before an error
    that came of a stream cut short; raises as `run_tool`. The deadline counts from the start. The thread that enters
    has to be the one that leaves.
    """
    with _started(tool, stdin) as process:
        assert process.stdout is not None
        with Complaints(process, tool.deadline_s) as complaints:
            try:
                yield process.stdout
            except Exception:
                if _is_at_end(process):
                    _check_end(tool, process, complaints)
                raise
            if _is_at_end(process):
                _check_end(tool, process, complaints)


def _is_at_end(process: subprocess.Popen[bytes]) -> bool:
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    return process.stdout.read(1) == b""


def _check_end(tool: Tool, process: subprocess.Popen[bytes], complaints: Complaints) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    if complaints.is_late or process.returncode is None:
        raise _ended_early(tool, "late")
    complaints.finish()
    _check_status(tool, process.returncode, complaints.text)


@contextlib.contextmanager
def _started(tool: Tool, stdin: object) -> Iterator[subprocess.Popen[bytes]]:
    """The running sandbox, in a process group of its own, which ends with this context."""
    root = _root_of(tool.argv[0])
    if tool.scratch is not None:
        _give(tool.scratch)
    given: Any = (
        stdin if hasattr(stdin, "fileno") else subprocess.DEVNULL if stdin is None else subprocess.PIPE
    )
    with filter_descriptor() as filter_fd:
        command = _command(tool, root)
        command[1:1] = ["--seccomp", str(filter_fd)]
        process = subprocess.Popen(
            [*tool.limits.prefix(), *command],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(tool),
            pass_fds=(filter_fd,),
            umask=_UMASK,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process)


def _command(tool: Tool, root: Path | None) -> list[str]:
    binds = list(tool.binds)
    if tool.scratch is not None:
        binds.append(Bind(tool.scratch, SCRATCH, is_writable=True))
    command = sandboxed(
        tool.argv,
        _user(tool.binds),
        runtime_root=root,
        binds=binds,
        has_network=tool.has_network,
        ends_with_us=True,
        working_dir=SCRATCH if tool.scratch is not None else "/",
    )
    place = command.index("--dev")  # behind the system, before what is bound
    if tool.has_network:
        command[place:place] = _network(root)
    place = command.index("/run") + 1  # behind the folders of its own
    command[place:place] = _parents(bind.target for bind in binds)
    return command


def _parents(targets: Iterable[str]) -> list[str]:
    """The folders that something is bound in: those that bwrap makes by itself are closed to the program's user."""
    found = {str(one): None for target in targets for one in reversed(PurePosixPath(target).parents[:-2])}
    return [word for folder in found for word in ("--perms", "0755", "--dir", folder)]


def _network(root: Path | None) -> list[str]:
    """An /etc of its own: users of the system that it sees, the machine's names and certificates."""
    there = root or Path("/")
    options = [
        "--perms",
        "0755",
        "--tmpfs",
        "/etc",
        *_parents(path for path in _NETWORK_FILES if path.startswith("/etc/")),
    ]
    for name in ("passwd", "group", "ld.so.cache", "alternatives"):
        options += ["--ro-bind-try", str(there / "etc" / name), f"/etc/{name}"]
    for path in _NETWORK_FILES:
        if path.startswith("/etc/") or (root is not None and (root / path.lstrip("/")).is_dir()):
            options += ["--ro-bind-try", path, path]
    return options


def _user(binds: Sequence[Bind]) -> User | None:
    """Nobody's user; it may read what only its owner may, where that was bound for it. None: we are not root."""
    if os.geteuid() != 0:
        return None
    is_open = all(_is_readable_by_all(bind.source) for bind in binds)
    return User(TOOL_UID, capabilities=() if is_open else ("DAC_READ_SEARCH",))


def _is_readable_by_all(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return True  # bwrap says what is wrong with it
    return bool(mode & stat.S_IROTH) and not stat.S_ISDIR(mode)


def _environment(tool: Tool) -> dict[str, str]:
    own = {"HOME": SCRATCH, "TMPDIR": SCRATCH} if tool.scratch is not None else {}
    return {**ENVIRONMENT, **own, **(tool.env or {})}


def _root_of(program: str) -> Path | None:
    """The runtime root where it has the program, else None: the machine itself; RefusedError where none has it."""
    helpers = ("bwrap", "prlimit", "setpriv") if os.geteuid() == 0 else ("bwrap", "prlimit")
    for helper in helpers:
        if shutil.which(helper) is None:
            raise _missing(helper, f"install {_PACKAGES[helper]}")
    root = runtime_root()
    if root is not None and holds(root, program):
        return root
    if holds(Path("/"), program):
        return None
    package = _PACKAGES.get(program, program)
    raise _missing(program, f"build the runtime root (make runtime), or install {package}")


def _give(folder: Path) -> None:
    if os.geteuid() != 0:
        return
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        if status.st_uid == TOOL_UID:
            continue
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            raise ValueError(f"{path} has other names, whose owner would change")
        os.chown(path, TOOL_UID, TOOL_UID, follow_symlinks=False)
    folder.chmod(_ENTERED_BY_BWRAP)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to all of it. Nothing in it leaves the group: the sandbox's own session would be another one."""
    while True:  # a second Ctrl-C does not leave it half ended
        try:
            with contextlib.suppress(ProcessLookupError):
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            break
        except KeyboardInterrupt:
            continue
    drain(process, _END_S)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _check_status(tool: Tool, status: int | None, complaint: str) -> None:
    if status == 0:
        return
    said = last_line(complaint) or f"it ended with status {status}"
    if any(text in complaint for text in _FULL):
        raise RefusedError(
            f"{tool.name}: {said}", hint="free room where temporary files go (TMPDIR)", code="no-space"
        )
    if said.startswith(_SANDBOX):
        raise RefusedError(
            f"the sandbox for {tool.argv[0]} cannot be made: {said}",
            hint="as root it can; for others the kernel has to allow user namespaces",
            code="image-tool-failed",
        )
    raise ToolFailedError(f"{tool.name}: {said}", status=status, complaint=complaint)


def _ended_early(tool: Tool, how: str) -> RefusedError:
    if how == "cancelled":
        return RefusedError(f"{tool.name} was called off", code="cancelled")
    return ToolFailedError(f"{tool.name} did not end within {tool.deadline_s:g} s")


def last_line(complaint: str) -> str:
    """The last line that says something, fit to be shown."""
    lines = [line.strip() for line in complaint.replace("\r", "\n").splitlines() if line.strip()]
    text = "".join(letter if letter.isprintable() else "?" for letter in lines[-1]) if lines else ""
    return text[:_LONGEST]


def _missing(program: str, hint: str) -> RefusedError:
    return RefusedError(f"the program {program} is missing", hint=hint, code="image-tool-missing")
