"""A real libvirt without a daemon (`qemu:///embed`), shut in: what it makes outside of its root ends with it.

Run as a program, inside of the sandbox: `define` reads XML and prints what libvirt made of it, validated against its
schema; `virt-install` runs that with an event loop, on which the embedded driver relies.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

SYSTEM_PYTHON = "/usr/bin/python3"  # virt-install's
TPM_PROGRAMS = ("swtpm", "swtpm_setup", "swtpm_ioctl")  # libvirt asks them what they can do
QEMU_CONF = 'user = "root"\ngroup = "root"\nstdio_handler = "file"\nnamespaces = []\nremember_owner = 0\n'


@contextmanager
def embedded_libvirt(runtime: Path, emulator: Sequence[str]) -> Iterator[EmbeddedLibvirt]:
    """One with an empty root, whose path is short: libvirt makes sockets far below it, with 107 bytes for a path."""
    with TemporaryDirectory(prefix="lv", dir="/tmp") as root:
        yield EmbeddedLibvirt(Path(root), runtime, emulator)


class EmbeddedLibvirt:
    """One root, in a folder of the test."""

    def __init__(self, root: Path, runtime: Path, emulator: Sequence[str]) -> None:
        self.root, self._runtime = root, runtime
        self.uri = f"qemu:///embed?root={root}"
        (root / "etc").mkdir(parents=True)
        (root / "etc/qemu.conf").write_text(QEMU_CONF)
        (root / "bin").mkdir()
        *loader, folders, program = emulator
        folders = f"{folders}:{folders}/swtpm"
        for name in ("qemu-system-x86_64", *TPM_PROGRAMS):
            words = [*loader, folders, str(Path(program).with_name(name))]
            path = root / "bin" / name
            path.write_text("#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in words) + ' "$@"\n')
            path.chmod(0o755)

    def wrapper(self, *writable: Path) -> list[str]:
        """The sandbox: the machine read-only, with the runtime root's firmware, and a /run that ends with it."""
        command = ["bwrap", "--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--proc", "/proc"]
        command += ["--tmpfs", "/run", "--tmpfs", "/usr/share"]
        for path in sorted(Path("/usr/share").iterdir()):
            if path.is_symlink():
                command += ["--symlink", str(path.readlink()), str(path)]
            elif path.name not in ("qemu", "OVMF"):
                command += ["--ro-bind", str(path), str(path)]
        for name in ("qemu", "OVMF"):
            command += ["--ro-bind", str(self._runtime / "usr/share" / name), f"/usr/share/{name}"]
        for path in (self.root, *writable):
            command += ["--bind", str(path), str(path)]
        command += [
            "--setenv",
            "PATH",
            f"{self.root}/bin:{os.environ['PATH']}",
            "--setenv",
            "HOME",
            str(self.root),
        ]
        return [*command, "--unshare-pid", "--die-with-parent", "--new-session", "--"]

    def define(self, xml: str) -> str:
        """Define a domain; the XML that libvirt keeps of it."""
        return self._run([sys.executable, __file__, "define", self.uri], xml)

    def virt_install(self, *arguments: str) -> str:
        """The XML of a domain that virt-install would define."""
        return self._run(
            [SYSTEM_PYTHON, __file__, "virt-install", "--connect", self.uri, *arguments, "--print-xml"]
        )

    def _run(self, argv: Sequence[str], stdin: str = "") -> str:
        done = subprocess.run(
            [*self.wrapper(), *argv], input=stdin, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def missing(needs: Mapping[str, str]) -> str:
    """Why not, by the programs that are not there."""
    if os.geteuid() != 0:
        return "needs root"
    return ", ".join(
        f"needs {name} ({package})" for name, package in needs.items() if shutil.which(name) is None
    )


def _begin_events() -> None:
    import libvirt

    def loop() -> None:
        while libvirt.virEventRunDefaultImpl() == 0:
            pass

    libvirt.virEventRegisterDefaultImpl()
    libvirt.registerErrorHandler(lambda *_: None, None)
    threading.Thread(target=loop, daemon=True).start()


def _define(uri: str) -> None:
    import libvirt

    connection = libvirt.open(uri)
    domain = connection.defineXMLFlags(sys.stdin.read(), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    print(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


if __name__ == "__main__":
    _begin_events()
    if sys.argv[1] == "define":
        _define(sys.argv[2])
        sys.stdout.flush()
        os._exit(0)
    sys.argv = sys.argv[1:]
    runpy.run_path("/usr/bin/virt-install", run_name="__main__")
