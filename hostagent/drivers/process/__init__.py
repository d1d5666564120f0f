"""Processes that outlive the agent: started detached, found again by pidfile, held by pidfd."""

from hostagent.drivers.process.adopt import adopt
from hostagent.drivers.process.errors import ProcessError, ProcessStartError, ProcessStuckError
from hostagent.drivers.process.files import remove_durably, sync_directory, write_atomically
from hostagent.drivers.process.handle import ProcessHandle
from hostagent.drivers.process.identity import ProcessIdentity, boot_id, identity_of
from hostagent.drivers.process.spawn import finished, in_thread, spawn, spawn_in_sandbox
from hostagent.drivers.process.supervised import Backoff, Supervised
from vdc.confinement.sandbox import Bind, User

__all__ = [
    "Backoff",
    "Bind",
    "ProcessError",
    "ProcessHandle",
    "ProcessIdentity",
    "ProcessStartError",
    "ProcessStuckError",
    "Supervised",
    "User",
    "adopt",
    "boot_id",
    "finished",
    "identity_of",
    "in_thread",
    "remove_durably",
    "spawn",
    "spawn_in_sandbox",
    "sync_directory",
    "write_atomically",
]
