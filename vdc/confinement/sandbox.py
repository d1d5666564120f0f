"""The sandbox of every helper program: bwrap over a read-only system, and a user of its own. Pure.

The program sees the runtime root (or the host's /usr) and what is bound for it, its own processes alone, and
nothing of the host's control groups, names or shared memory. `bwrap` makes the mounts as root, so that a folder
need not be open to the program's user on the way to it. Then `setpriv` gives up root for good, inside: uid, gid,
groups, every capability of every set. (bwrap itself can change the uid only through a user namespace, which some
machines forbid and which would let the program be root in it.) setpriv is util-linux's, so every Debian has it;
over the runtime root, which has none, the host's is bound.

The program is process 1 of its pid namespace, so that `--json-status-fd` names it and not a reaper; a process 1
that does not handle a signal is not ended by it from inside, but SIGKILL and SIGSTOP from outside always work, and
all else that it started ends with it. A guest outlives the agent; a tool ends with whoever started it
(`ends_with_us`). Of our environment it gets nothing (`ENVIRONMENT`).

Who is not root has a user namespace instead (`user` None): the program is that same user, without any capability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TMP = "/tmp"  # noqa: S108 - the sandbox's own
_TMP_BYTES = 16 << 20
_RUN_BYTES = 64 << 10
ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
_DETACHED = ("--new-session", "--unshare-pid", "--as-pid-1")
_HOST_LINKS = ("bin", "sbin", "lib", "lib64")
_HOST_SETPRIV = "/usr/bin/setpriv"
_BOUND_SETPRIV = "/run/setpriv"
_TO_DROP = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")  # what setpriv needs, and gives up with the rest


@dataclass(frozen=True, slots=True)
class User:
    """Who a program runs as: a uid that is its gid as well; never root."""

    uid: int
    groups: tuple[int, ...] = ()
    capabilities: tuple[str, ...] = ()  # without `CAP_`, that it keeps all the same

    def __post_init__(self) -> None:
        if self.uid <= 0:
            raise ValueError("a sandboxed program never runs as root")


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or folder of the host, and where the program sees it. A device needs `is_device` to be one there."""

    source: Path
    target: str
    is_writable: bool = False
    is_device: bool = False

    @property
    def option(self) -> str:
        """What bwrap calls it."""
        return "--dev-bind" if self.is_device else "--bind" if self.is_writable else "--ro-bind"


def sandboxed(
    argv: Sequence[str],
    user: User | None,
    *,
    runtime_root: Path | None,
    binds: Sequence[Bind] = (),
    devices: Sequence[str] = (),
    has_network: bool = False,
    status_fd: int | None = None,
    ends_with_us: bool = False,
    working_dir: str = "/",
) -> list[str]:
    """`argv` inside the sandbox; `status_fd` is where bwrap writes `{"child-pid": N}` as JSON.

    `ends_with_us`: it is killed when the thread that starts it ends, and stays in the process group of its
    starter, which has to be one without a terminal. Process 1 is bwrap's own then: a parent without capabilities
    cannot signal a child of another user, and process 1 takes all others with it.
    """
    command = ["bwrap", *_system(runtime_root), "--dev", "/dev", "--proc", "/proc"]
    command += ["--perms", "1777", "--size", str(_TMP_BYTES), "--tmpfs", _TMP]
    command += ["--perms", "0755", "--size", str(_RUN_BYTES), "--tmpfs", "/run"]
    if runtime_root is not None and user is not None:
        command += ["--ro-bind", _HOST_SETPRIV, _BOUND_SETPRIV]
    for device in devices:
        command += ["--dev-bind", device, device]
    for bind in binds:
        command += [bind.option, str(bind.source), bind.target]
    command += ["--chdir", working_dir]
    command += ["--unshare-pid", "--die-with-parent"] if ends_with_us else _DETACHED
    command += ["--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if not has_network:
        command.append("--unshare-net")
    command += ["--cap-drop", "ALL"]
    if status_fd is not None:
        command += ["--json-status-fd", str(status_fd)]
    if user is None:
        return [*command, "--unshare-user", "--", *argv]
    for capability in (*_TO_DROP, *(f"CAP_{name}" for name in user.capabilities)):
        command += ["--cap-add", capability]
    setpriv = _HOST_SETPRIV if runtime_root is None else _BOUND_SETPRIV
    return [*command, "--", setpriv, *_become(user), "--", *argv]


def _become(user: User) -> list[str]:
    groups = ["--groups", ",".join(map(str, user.groups))] if user.groups else ["--clear-groups"]
    kept = ",".join(["-all", *(f"+{name.lower()}" for name in user.capabilities)])
    options = ["--reuid", str(user.uid), "--regid", str(user.uid), *groups]
    options += [f"--inh-caps={kept}", f"--bounding-set={kept}"]
    if user.capabilities:
        options.append(f"--ambient-caps={kept}")
    return [*options, "--no-new-privs"]


def _system(runtime_root: Path | None) -> list[str]:
    if runtime_root is not None:
        return ["--ro-bind", str(runtime_root), "/"]
    system = ["--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]
    for link in _HOST_LINKS:
        system += ["--symlink", f"usr/{link}", f"/{link}"]
    return system
