"""A program: enter a network namespace and run a command there, without a shell and without this project.

    launcher.py detach NETNS CGROUPS LOG COMMAND...   starts it on its own and prints its pid
    launcher.py run    NETNS COMMAND...               becomes it

CGROUPS are folders with `:` between them, or `-`. Run it with `python -I -S`: it needs the standard library alone
and starts in milliseconds.
The command gets a private mount namespace in which /sys shows the interfaces of its network namespace;
nothing that is mounted here is seen by anybody else.
"""

from __future__ import annotations

import ctypes
import os
import sys

_CLONE_NEWNET, _CLONE_NEWNS = 0x40000000, 0x00020000
_MS_BIND, _MS_REC, _MS_SLAVE = 4096, 16384, 1 << 19
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_CGROUPS = "/sys/fs/cgroup"
_NOT_STARTED = 126


def main(arguments: list[str]) -> int:
    """Do what the arguments say; returns only where it failed, or as the parent of a detached command."""
    try:
        if arguments[:1] == ["detach"]:
            netns, cgroups, log, *command = arguments[1:]
            return _detach(netns, cgroups.split(":"), log, command)
        if arguments[:1] == ["run"]:
            netns, *command = arguments[1:]
            _enter(netns)
            os.execvp(command[0], command)  # noqa: S606 - a shell is what must not be there
    except (OSError, ValueError, IndexError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        name = getattr(error, "filename", None)
        sys.stderr.write(f"{name}: {reason}\n" if name else f"{reason}\n")
        return _NOT_STARTED
    sys.stderr.write("usage: launcher.py detach NETNS CGROUPS LOG COMMAND... | run NETNS COMMAND...\n")
    return 2


def _detach(netns: str, cgroups: list[str], log: str, command: list[str]) -> int:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    _enter(netns)
    for cgroup in cgroups if cgroups != ["-"] else ():
        with open(os.path.join(cgroup, "cgroup.procs"), "w") as file:  # noqa: PTH118, PTH123 - the least imports
            file.write("0")
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(command, output, tell)
    os.close(tell)
    failure = os.read(told, 4096)  # ends without a byte when the command took the child's place
    if failure:
        sys.stderr.write(os.fsdecode(failure) + "\n")
        return _NOT_STARTED
    sys.stdout.write(f"{pid}\n")
    return 0


def _become(command: list[str], output: int, tell: int) -> None:
    try:
        os.setsid()
        os.chdir("/")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.execvp(command[0], command)  # noqa: S606 - a shell is what must not be there
    except OSError as error:
        os.write(tell, os.fsencode(f"{command[0]}: {error.strerror}"))
    finally:
        os._exit(_NOT_STARTED)


def _enter(netns: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    _check(libc.setns(descriptor, _CLONE_NEWNET), netns)
    _check(libc.unshare(_CLONE_NEWNS), "unshare")
    _check(libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None), "/")
    cgroups = os.open(_CGROUPS, os.O_PATH | os.O_CLOEXEC) if os.path.isdir(_CGROUPS) else None  # noqa: PTH112
    _check(libc.mount(b"sysfs", b"/sys", b"sysfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, None), "/sys")
    if cgroups is not None:  # the new /sys hides them, and programs read their limits there
        source = os.fsencode(f"/proc/self/fd/{cgroups}")
        _check(libc.mount(source, os.fsencode(_CGROUPS), None, _MS_BIND | _MS_REC, None), _CGROUPS)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
