"""A network namespace for one test: gone after it, with everything in it."""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import subprocess

LOCAL = "127.0.0.1"
_CLONE_NEWNET = 0x40000000


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20)


class Namespace:
    """A network namespace with one bridge per NIC; gone after `remove`, with everything in it."""

    def __init__(self, nics: int) -> None:
        self.name = f"vdct-{secrets.token_hex(3)}"
        self.nics = nics
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        # Without it delayed acknowledgements of the migration stream add 30 ms to every checkpoint.
        for prefix in ("127.0.0.0/8", "127.0.0.1"):
            route = ("dev", "lo", "proto", "kernel", "scope", "host", "src", LOCAL)
            self.ip("route", "replace", "table", "local", "local", prefix, *route, "quickack", "1")
        for j in range(nics):
            # An address of its own: otherwise the bridge takes that of a tap that joins, and loses what comes
            # to the one before.
            address = f"52:54:00:99:ff:{j:02x}"
            self.ip("link", "add", f"br{j}", "address", address, "type", "bridge", "forward_delay", "0")
            self.ip("address", "add", f"10.99.{j}.1/24", "dev", f"br{j}")
            self.ip("link", "set", f"br{j}", "up")

    def ip(self, *arguments: str) -> None:
        run("ip", "-n", self.name, *arguments)

    def add_tap(self, name: str) -> None:
        self.ip("tuntap", "add", name, "mode", "tap", "vnet_hdr", "user", "0")
        self.ip("link", "set", name, "up")

    def join(self, tap: str, nic: int) -> None:
        self.ip("link", "set", tap, "master", f"br{nic}")

    def connect(self, address: str, port: int, *, deadline_s: float = 5.0) -> socket.socket:
        """A TCP connection made inside the namespace; call it in a thread."""
        libc = ctypes.CDLL(None, use_errno=True)
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            if libc.setns(there, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                sock = socket.create_connection((address, port), timeout=deadline_s)
            finally:
                libc.setns(own, _CLONE_NEWNET)
        finally:
            os.close(own)
            os.close(there)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        return sock

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, timeout=20, check=False)
