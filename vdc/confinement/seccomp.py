"""Which system calls a sandboxed program may make: all but those that reach for the kernel or for other processes.

A classic BPF program as seccomp(2) takes it, for x86-64. It is the outer one of two filters for QEMU, whose own
(`-sandbox on,...`) begins only when QEMU has read its command line. What it refuses needs a capability anyway, or
opens a door to kernel code that no guest needs. Refused calls fail with EPERM; those that a C library tries first
and does without (`clone3`) fail with ENOSYS. Another architecture's calls end the process.

A program without netlink sockets has no interfaces to manage, but may be given taps and connections of the host's
network, by which the kernel lets it ask about interfaces and change a tap: to give it the address of another guest,
say, which the bridge then takes for the host's own. A namespace does not help; these requests are refused too.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable, Iterator
from typing import Final

_INSTRUCTION = struct.Struct("=HBBI")  # code, jump if true, jump if false, operand
_LOAD, _EQUALS, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCH, _ARGUMENTS, _ARGUMENT_BYTES = 0, 4, 16, 8  # offsets in struct seccomp_data
_X86_64, _X32_BIT = 0xC000003E, 0x40000000
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET and TIME
_CLONE, _CLONE3, _SOCKET, _SOCKETPAIR, _IOCTL = 56, 435, 41, 53, 16
_ABOUT_INTERFACES, _OF_256 = 0x8900, 0xFFFFFF00  # SIOC...: the first of them, and what they have in common
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET = 1, 2, 10, 16, 17

REFUSED: Final = {
    # namespaces and mounts
    "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "open_tree_attr": 467,
    # other processes
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "pidfd_getfd": 438,
    "process_madvise": 440, "move_pages": 279, "migrate_pages": 256,
    # kernel interfaces with a history
    "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "add_key": 248, "request_key": 249, "keyctl": 250,
    "modify_ldt": 154, "name_to_handle_at": 303, "open_by_handle_at": 304, "fanotify_init": 300,
    # the machine
    "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246, "kexec_file_load": 320,
    "reboot": 169, "swapon": 167, "swapoff": 168, "acct": 163, "quotactl": 179, "quotactl_fd": 443,
    "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "settimeofday": 164,
    "clock_settime": 227, "syslog": 103, "vhangup": 153, "uselib": 134, "mknod": 133, "mknodat": 259,
    # makes and connects sockets in the kernel, unseen by this filter; QEMU waits by epoll then
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
}  # fmt: skip
TAP_REQUESTS: Final = {  # what changes a tap itself, and not how packets are handed over
    "TUNSETDEBUG": 0x400454C9, "TUNSETIFF": 0x400454CA, "TUNSETPERSIST": 0x400454CB, "TUNSETOWNER": 0x400454CC,
    "TUNSETLINK": 0x400454CD, "TUNSETGROUP": 0x400454CE, "TUNSETTXFILTER": 0x400454D1,
    "TUNATTACHFILTER": 0x401054D5, "TUNSETQUEUE": 0x400454D9, "TUNSETCARRIER": 0x400454E2,
}  # fmt: skip
FAMILIES: Final = (AF_UNIX, AF_INET, AF_INET6)


def syscall_filter(families: Iterable[int] = FAMILIES) -> bytes:
    """The program; `families` are the address families that sockets may have."""
    families = tuple(families)
    steps = [_step(_LOAD, _ARCH), *_if(_EQUALS, _X86_64, otherwise=_KILL), _step(_LOAD, _NUMBER)]
    steps += [*_unless(_AT_LEAST, _X32_BIT, _ERRNO | _ENOSYS), *_unless(_EQUALS, _CLONE3, _ERRNO | _ENOSYS)]
    for number in sorted(REFUSED.values()):
        steps += _unless(_EQUALS, number, _ERRNO | _EPERM)
    steps += _about(_CLONE, _unless(_ANY_BIT, _NEW_NAMESPACES, _ERRNO | _EPERM))
    accepted = [step for family in families for step in _unless(_EQUALS, family, _ALLOW)]
    for number in (_SOCKET, _SOCKETPAIR):
        steps += _about(number, [*accepted, _step(_RETURN, _ERRNO | _EAFNOSUPPORT)])
    if AF_NETLINK not in families:
        steps += _about(_IOCTL, _no_interfaces(), argument=1)
    return b"".join([*steps, _step(_RETURN, _ALLOW)])


@contextlib.contextmanager
def filter_descriptor(families: Iterable[int] = FAMILIES) -> Iterator[int]:
    """A descriptor from which one `bwrap --seccomp` reads the filter."""
    handle = os.memfd_create("syscalls", os.MFD_CLOEXEC)
    try:
        os.write(handle, syscall_filter(families))
        os.lseek(handle, 0, os.SEEK_SET)
        yield handle
    finally:
        os.close(handle)


def _no_interfaces() -> list[bytes]:
    refused = _ERRNO | _EPERM
    steps = [step for request in TAP_REQUESTS.values() for step in _unless(_EQUALS, request, refused)]
    return [*steps, _step(_AND, _OF_256), *_unless(_EQUALS, _ABOUT_INTERFACES, refused)]


def _step(code: int, operand: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, if_true, if_false, operand)


def _if(test: int, operand: int, *, otherwise: int) -> list[bytes]:
    """Go on where the test holds, else return `otherwise`."""
    return [_step(test, operand, if_true=1), _step(_RETURN, otherwise)]


def _unless(test: int, operand: int, verdict: int) -> list[bytes]:
    """Return `verdict` where the test holds, else go on."""
    return [_step(test, operand, if_false=1), _step(_RETURN, verdict)]


def _about(number: int, steps: list[bytes], argument: int = 0) -> list[bytes]:
    """For this call, judge the lower half of one argument; what comes after sees the call's number again."""
    judged = [_step(_LOAD, _ARGUMENTS + argument * _ARGUMENT_BYTES), *steps, _step(_LOAD, _NUMBER)]
    return [_step(_EQUALS, number, if_false=len(judged)), *judged]
