"""The sandbox that QEMU and its tools run in: bwrap over a read-only system. Pure.

The process sees the runtime root (or the host's /usr), the VM's own folder and the image store, and nothing
else of the host's files. It keeps the host's network namespace (taps, migration) and pid namespace (so that
the pid in `--json-status-fd` is the real one). It has no capabilities: the taps are made before it starts,
and whoever may open /dev/net/tun may attach to a tap that belongs to nobody in particular.
There is no `--die-with-parent`: a guest outlives the agent.
"""

from __future__ import annotations

from pathlib import Path

from hostagent.drivers.qemu.spec import IMAGE_DIR, VM_DIR

_TMP = "/tmp"  # noqa: S108 - the sandbox's own
_HOST_LINKS = ("bin", "sbin", "lib", "lib64")


def sandboxed(
    argv: list[str],
    *,
    runtime_root: Path | None,
    vm_dir: Path,
    image_dir: Path,
    status_fd: int | None = None,
    devices: tuple[str, ...] = ("/dev/net/tun",),
    has_network: bool = True,
    capabilities: tuple[str, ...] = (),
) -> list[str]:
    """`argv` inside the sandbox; `status_fd` is where bwrap writes `{"child-pid": N}` as JSON."""
    command = ["bwrap", *_system(runtime_root), "--dev", "/dev", "--proc", "/proc", "--tmpfs", _TMP]
    for device in devices:
        command += ["--dev-bind", device, device]
    command += ["--bind", str(vm_dir), VM_DIR, "--ro-bind", str(image_dir), IMAGE_DIR]
    command += ["--chdir", VM_DIR, "--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL", "--new-session"]
    for capability in capabilities:
        command += ["--cap-add", capability]
    if not has_network:
        command.append("--unshare-net")
    if status_fd is not None:
        command += ["--json-status-fd", str(status_fd)]
    return [*command, "--", *argv]


def _system(runtime_root: Path | None) -> list[str]:
    if runtime_root is not None:
        return ["--ro-bind", str(runtime_root), "/"]
    system = ["--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]
    for link in _HOST_LINKS:
        system += ["--symlink", f"usr/{link}", f"/{link}"]
    return [*system, "--dir", VM_DIR, "--dir", IMAGE_DIR]
