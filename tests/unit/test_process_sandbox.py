"""The sandbox's command line, who is who, the system call filter, and names that a guest's user may have replaced."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from hostagent.drivers.process import Bind, User
from hostagent.drivers.process.foreign import (
    connect_foreign,
    is_foreign_socket,
    open_foreign,
    size_of_foreign,
)
from hostagent.drivers.process.users import GuestFolders, choose, conflicts, owner_of
from vdc.confinement.sandbox import sandboxed
from vdc.confinement.seccomp import (
    AF_INET,
    AF_NETLINK,
    AF_PACKET,
    AF_UNIX,
    REFUSED,
    TAP_REQUESTS,
    syscall_filter,
)
from vdc.model.errors import RefusedError

ALLOW, KILL, EPERM, ENOSYS, EAFNOSUPPORT = 0x7FFF0000, 0x80000000, 0x50001, 0x50026, 0x50061
X86_64, I386 = 0xC000003E, 0x40000003


def test_a_sandboxed_program_is_never_root() -> None:
    with pytest.raises(ValueError, match="never"):
        User(0)


def test_capabilities_that_are_kept_are_kept_in_every_set() -> None:
    argv = sandboxed(["dnsmasq"], User(5, capabilities=("NET_RAW",)), runtime_root=None, has_network=True)
    for option in (
        "--inh-caps=-all,+net_raw",
        "--bounding-set=-all,+net_raw",
        "--ambient-caps=-all,+net_raw",
    ):
        assert option in argv
    assert "CAP_NET_RAW" in argv and "--unshare-net" not in argv


def test_only_what_is_said_to_be_writable_is() -> None:
    binds = (Bind(Path("/a"), "/vm", is_writable=True), Bind(Path("/b"), "/images"))
    argv = sandboxed(["x"], User(5), runtime_root=Path("/r"), binds=binds)
    bound = {
        argv[i + 2]: word for i, word in enumerate(argv) if word in ("--bind", "--ro-bind", "--dev-bind")
    }
    assert bound == {"/": "--ro-bind", "/run/setpriv": "--ro-bind", "/vm": "--bind", "/images": "--ro-bind"}
    assert "--unshare-net" in argv


# ---- the filter, run as the kernel would


def verdict(number: int, *arguments: int, arch: int = X86_64, families: tuple[int, ...] = (AF_UNIX,)) -> int:
    """What the program says of a call."""
    steps = list(struct.iter_unpack("=HBBI", syscall_filter(families)))
    data = struct.pack("=IIQ6Q", number, arch, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    value, at = 0, 0
    while True:
        code, if_true, if_false, operand = steps[at]
        at += 1
        match code:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, operand)
            case 0x15:
                at += if_true if value == operand else if_false
            case 0x35:
                at += if_true if value >= operand else if_false
            case 0x45:
                at += if_true if value & operand else if_false
            case 0x54:
                value &= operand
            case 0x06:
                return operand


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_reaches_for_the_kernel_is_refused(name: str) -> None:
    assert verdict(REFUSED[name]) == EPERM


@pytest.mark.parametrize("number", [0, 1, 9, 57, 59, 202, 231, 257])
def test_ordinary_calls_pass(number: int) -> None:
    assert verdict(number) == ALLOW


@pytest.mark.parametrize(
    ("flags", "expected"),
    [(0x3D0F00, ALLOW), (0x11, ALLOW), (0x10000011, EPERM), (0x20000, EPERM), (0x80, EPERM)],
)
def test_threads_and_processes_are_made_but_no_namespaces(flags: int, expected: int) -> None:
    assert verdict(56, flags) == expected


def test_the_call_whose_flags_cannot_be_seen_is_done_without() -> None:
    assert verdict(435) == ENOSYS


def test_sockets_have_the_families_that_are_named() -> None:
    assert verdict(41, AF_UNIX) == ALLOW
    assert verdict(41, AF_INET) == EAFNOSUPPORT
    assert verdict(53, AF_UNIX) == ALLOW and verdict(53, 30) == EAFNOSUPPORT  # pairs; TIPC knows some too
    assert verdict(41, AF_NETLINK, families=(AF_UNIX, AF_NETLINK)) == ALLOW
    assert verdict(41, AF_PACKET, families=(AF_UNIX, AF_NETLINK)) == EAFNOSUPPORT


@pytest.mark.parametrize("request_of_tap", TAP_REQUESTS.values())
def test_a_tap_stays_the_one_that_it_is(request_of_tap: int) -> None:
    assert verdict(16, 7, request_of_tap) == EPERM
    assert verdict(16, 7, 0xFFFFFFFF_00000000 + request_of_tap) == EPERM, "the kernel looks at the lower half"


def test_only_who_has_netlink_asks_about_interfaces() -> None:
    for request in (0x8912, 0x8924, 0x89FF):  # SIOCGIFCONF, SIOCSIFHWADDR
        assert verdict(16, 7, request) == EPERM
        assert verdict(16, 7, request, families=(AF_UNIX, AF_NETLINK)) == ALLOW
    for request in (
        0x541B,
        0x88FF,
        0x8A00,
        0xAE80,
        0x800454D2,
        0x400454D0,
    ):  # FIONREAD, KVM_RUN, TUNGETIFF, ...
        assert verdict(16, 7, request) == ALLOW


def test_another_architecture_is_no_way_around() -> None:
    assert verdict(1, arch=I386) == KILL
    assert verdict(0x40000000 + 165) == ENOSYS


# ---- users


def test_a_user_follows_from_the_key_and_gives_way_to_who_has_it() -> None:
    uids = range(1000, 1008)
    first = choose("a", uids, frozenset())
    assert choose("a", uids, frozenset()) == first
    second = choose("a", uids, frozenset({first}))
    assert second in uids and second != first
    assert {choose("a", uids, frozenset(uids) - {uid}) for uid in uids} == set(uids)
    with pytest.raises(RefusedError, match="all 8 users") as caught:
        choose("a", uids, frozenset(uids))
    assert caught.value.code == "uids-used-up"


def test_users_that_somebody_has_are_found(tmp_path: Path) -> None:
    passwd, subuid = tmp_path / "passwd", tmp_path / "subuid"
    passwd.write_text("root:x:0:0::/:\nalice:x:5005:1::/:\n# x\ntorn\n")
    subuid.write_text("alice:100000:65536\nbob:torn:1\n")

    def found(first: int, count: int) -> tuple[str, ...]:
        return conflicts(range(first, first + count), passwd=passwd, subuid=subuid)

    assert found(1_900_000_000, 65_536) == ()
    assert found(5000, 10) == (f"{passwd} gives 5005 to alice",)
    assert found(165_535, 10) == (f"{subuid} gives 100000 and the 65536 from there to alice",)
    assert found(165_536, 10) == ()
    assert conflicts(range(1), passwd=tmp_path / "none", subuid=tmp_path / "none") == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a folder away")
def test_no_two_folders_have_the_same_user(tmp_path: Path) -> None:
    uids = range(1_900_000_000, 1_900_000_004)
    folders = GuestFolders(tmp_path, uids)
    owners = {owner_of(folders.own(f"vm{number}", "the same key")) for number in range(4)}
    assert owners == set(uids)
    again = folders.own("vm2", "another key")
    assert again.stat().st_mode & 0o7777 == 0o700
    assert owner_of(again) == owner_of(tmp_path / "vm2" / "guest")
    os.chown(again, 0, 0)  # an agent died between making it and giving it away
    assert owner_of(folders.own("vm2", "the same key")) in uids
    with pytest.raises(RefusedError):
        folders.own("vm9", "x")


# ---- what lies in a guest's folder


def test_a_link_a_pipe_and_a_folder_are_no_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"root's")
    for name in ("link", "dangling", "pipe", "folder"):
        path = tmp_path / name
        match name:
            case "link":
                path.symlink_to(secret)
            case "dangling":
                path.symlink_to(tmp_path / "nothing")
            case "pipe":
                os.mkfifo(path)
            case _:
                path.mkdir()
        for is_writable in (False, True):
            with pytest.raises(OSError):
                open_foreign(path, is_writable=is_writable)
        with pytest.raises(PermissionError):
            size_of_foreign(path)
    assert not (tmp_path / "nothing").exists()
    with open_foreign(secret) as file:
        assert file.read() == b"root's"
    assert size_of_foreign(secret) == 6
    assert size_of_foreign(tmp_path / "none") is None


async def test_a_link_to_a_socket_is_not_followed(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)  # longer than a socket address, too
    deep.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    os.chdir(deep)
    try:
        listener.bind("api.sock")
    finally:
        os.chdir("/")
    listener.listen()
    (deep / "qmp.sock").symlink_to(deep / "api.sock")
    (deep / "file").touch()
    with listener:
        (await connect_foreign(deep / "api.sock")).close()
        for name in ("qmp.sock", "file", "none"):
            with pytest.raises(OSError):
                await connect_foreign(deep / name)
    assert [is_foreign_socket(deep / name) for name in ("api.sock", "qmp.sock", "none")] == [
        True,
        False,
        False,
    ]
