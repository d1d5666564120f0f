"""dnsmasq's files and signals; the process itself is somebody else's.

Invariants: a file is replaced as a whole and only when its content differs, so an unchanged cluster causes no
signal. dnsmasq reads them as a user of its own, who sees the folder alone (`sandboxed`): they are open to all.
"""

from __future__ import annotations

import os
import signal
from enum import StrEnum
from pathlib import Path

from hostagent.drivers.net.dhcpdns import (
    CONFIG_FILE,
    DHCP_HOSTS_FILE,
    DNS_HOSTS_FILE,
    DhcpDnsConfig,
    render_config,
    render_dhcp_hosts,
    render_dns_hosts,
)
from hostagent.drivers.process import Bind, User
from vdc.confinement import sandbox
from vdc.confinement.seccomp import AF_INET, AF_INET6, AF_NETLINK, AF_UNIX

SEEN_AS = Path("/vm")  # a mount point that every runtime root has
FAMILIES = (AF_UNIX, AF_INET, AF_INET6, AF_NETLINK)
_CAPABILITIES = ("NET_BIND_SERVICE",)


class Change(StrEnum):
    """What a running dnsmasq needs after its files were written."""

    NOTHING = "nothing"
    RELOAD = "reload"  # SIGHUP
    RESTART = "restart"


def dnsmasq_argv(folder: Path, *, program: str = "dnsmasq") -> list[str]:
    """The command line; dnsmasq stays in the foreground and logs to its standard error."""
    return [program, "--keep-in-foreground", f"--conf-file={folder / CONFIG_FILE}"]


def sandboxed(argv: list[str], uid: int, *, runtime_root: Path | None, folder: Path) -> list[str]:
    """`argv` as `uid`, with what its ports take and no more.

    Of the host it sees its own folder, to read, as `SEEN_AS`, and the network.
    """
    user = User(uid, capabilities=_CAPABILITIES)
    return sandbox.sandboxed(
        argv, user, runtime_root=runtime_root, binds=(Bind(folder, str(SEEN_AS)),), has_network=True
    )


class DhcpDns:
    """The files of one overlay's dnsmasq, in a folder of their own; `seen_as` is where dnsmasq finds it."""

    def __init__(self, folder: Path, *, seen_as: Path | None = None) -> None:
        self._folder = folder
        self._seen_as = seen_as or folder

    def argv(self, *, program: str = "dnsmasq") -> list[str]:
        """See `dnsmasq_argv`."""
        return dnsmasq_argv(self._seen_as, program=program)

    def write(self, config: DhcpDnsConfig) -> Change:
        """Write what differs and say what that needs."""
        self._folder.mkdir(parents=True, exist_ok=True)
        has_withdrawn = self._withdraws(render_dhcp_hosts(config))
        hosts_changed = [
            _replace(self._folder / DHCP_HOSTS_FILE, render_dhcp_hosts(config)),
            _replace(self._folder / DNS_HOSTS_FILE, render_dns_hosts(config)),
        ]
        if _replace(self._folder / CONFIG_FILE, render_config(config, self._seen_as)) or has_withdrawn:
            return Change.RESTART
        return Change.RELOAD if any(hosts_changed) else Change.NOTHING

    def _withdraws(self, dhcp_hosts: str) -> bool:
        """Whether a reservation goes away: a running dnsmasq would keep its lease, and refuse the address to
        the next guest that it is reserved for. It forgets when it is started anew."""
        try:
            present = (self._folder / DHCP_HOSTS_FILE).read_text()
        except (FileNotFoundError, UnicodeDecodeError):
            return False
        return not set(present.splitlines()) <= set(dhcp_hosts.splitlines())

    @staticmethod
    def reload(pid: int) -> None:
        """Have dnsmasq read the host files again (additions and deletions both take effect)."""
        os.kill(pid, signal.SIGHUP)


def _replace(path: Path, text: str) -> bool:
    """Replace a file's content; returns whether it differed."""
    try:
        if path.read_text() == text:
            return False
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.chmod(0o644)
    temporary.replace(path)
    return True
