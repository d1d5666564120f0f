"""The sandbox of the libvirt child: the host's system, read-only, and namespaces that end with it. Pure.

The mount namespace hides /run, so libvirt's folders and its pid file vanish; the pid namespace ends every
QEMU that libvirt starts to probe it; the network namespace keeps libvirt from the host's links. It sees
/dev/kvm, because what KVM offers is one of the questions.

Libvirt looks its QEMU user up by name even where it is told to use root. The accounts below answer that, so
the package that makes the user (libvirt-daemon-system) is not needed; libvirt-daemon-driver-qemu is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

ROOT = "/run/libvirt-embed"
EMBED_URI = f"qemu:///embed?root={ROOT}"
SYSTEM_URI = "qemu:///system"
SYSTEM_RUN_DIR = Path("/run/libvirt")
_SYSTEM_SOCKETS = ("libvirt-sock", "virtqemud-sock")
_LOADER = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"

USERS = "root:x:0:0:root:/:/bin/false\nlibvirt-qemu:x:0:0::/:/bin/false\nqemu:x:0:0::/:/bin/false\n"
GROUPS = "root:x:0:\nlibvirt-qemu:x:0:\nqemu:x:0:\nkvm:x:0:\ntss:x:0:\n"


def sandboxed(
    argv: list[str],
    *,
    passwd_fd: int,
    group_fd: int,
    sockets: Sequence[Path] = (),
    hidden: Path | None = None,
    bwrap: str = "bwrap",
) -> list[str]:
    """`argv` in the sandbox. The descriptors hold USERS and GROUPS; `sockets` are a system daemon's.

    `hidden` is the agent's folder, with the host's keys in it.
    """
    command = [bwrap, "--ro-bind", "/", "/", "--dev", "/dev", "--dev-bind-try", "/dev/kvm", "/dev/kvm"]
    command += ["--proc", "/proc", "--tmpfs", "/run", "--dir", ROOT]
    for socket in sockets:
        command += ["--ro-bind", str(socket), str(SYSTEM_RUN_DIR / socket.name)]
    if hidden is not None:
        command += ["--tmpfs", str(hidden)]
    for descriptor, path in ((passwd_fd, "/etc/passwd"), (group_fd, "/etc/group")):
        command += ["--ro-bind-data", str(descriptor), path]
    command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    command += ["--die-with-parent", "--new-session", "--chdir", "/"]
    return [*command, "--", *argv]


def emulator(runtime_root: Path | None) -> list[str]:
    """How the runtime root's QEMU is started among the host's files: by its own loader and libraries.

    Empty for the host's own QEMU, which libvirt finds by itself.
    """
    if runtime_root is None:
        return []
    modules = runtime_root / _LIBRARIES / "qemu"
    return [
        "env", f"QEMU_MODULE_DIR={modules}", str(runtime_root / _LOADER),
        "--library-path", str(runtime_root / _LIBRARIES), str(runtime_root / "usr/bin/qemu-system-x86_64"),
    ]  # fmt: skip


def uris(runtime_root: Path | None, *, has_system_daemon: bool) -> list[str]:
    """Which connections to try, the best first.

    Only the embedded driver can look at the QEMU of the runtime root, so it comes first where there is one.
    A running daemon of the system knows the system's own QEMU already and comes first for that.
    """
    if not has_system_daemon:
        return [EMBED_URI]
    return [SYSTEM_URI, EMBED_URI] if runtime_root is None else [EMBED_URI, SYSTEM_URI]


def system_sockets(run_dir: Path = SYSTEM_RUN_DIR) -> list[Path]:
    """The sockets of the system's libvirt daemons (one for all drivers, or QEMU's own) that are there."""
    return [path for name in _SYSTEM_SOCKETS if (path := run_dir / name).is_socket()]
