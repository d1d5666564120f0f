"""Every QMP command that this driver sends, and which QEMU can be trusted with it.

`capabilities` compares this list with the schema of the installed binary: the commands that begin with `x-`
carry no promise of stability. A command that is not a member here cannot be sent by the choreography.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

OLDEST_TRUSTED: Final = (11, 0)  # 10.1 and older lose the secondary or hang the primary in COLO
NEEDED_OBJECTS: Final = frozenset(
    {
        "filter-mirror",
        "filter-redirector",
        "filter-rewriter",
        "colo-compare",
        "filter-buffer",
        "iothread",
        "tls-creds-x509",
    }
)
NEEDED_BLOCK_DRIVERS: Final = frozenset({"quorum", "replication", "nbd", "qcow2"})


class Command(StrEnum):
    """The vocabulary of the choreography."""

    ADD_CLIENT = "add_client"
    ANNOUNCE_SELF = "announce-self"
    BLOCK_DIRTY_BITMAP_ADD = "block-dirty-bitmap-add"
    BLOCK_DIRTY_BITMAP_REMOVE = "block-dirty-bitmap-remove"
    BLOCK_EXPORT_ADD = "block-export-add"
    BLOCK_EXPORT_DEL = "block-export-del"
    BLOCK_JOB_CANCEL = "block-job-cancel"
    BLOCKDEV_ADD = "blockdev-add"
    BLOCKDEV_BACKUP = "blockdev-backup"
    BLOCKDEV_DEL = "blockdev-del"
    BLOCKDEV_MIRROR = "blockdev-mirror"
    BLOCKDEV_SET_ACTIVE = "blockdev-set-active"
    CHARDEV_ADD = "chardev-add"
    CHARDEV_REMOVE = "chardev-remove"
    CONT = "cont"
    GETFD = "getfd"
    JOB_DISMISS = "job-dismiss"
    MIGRATE = "migrate"
    MIGRATE_CANCEL = "migrate_cancel"
    MIGRATE_CONTINUE = "migrate-continue"
    MIGRATE_INCOMING = "migrate-incoming"
    MIGRATE_SET_CAPABILITIES = "migrate-set-capabilities"
    MIGRATE_SET_PARAMETERS = "migrate-set-parameters"
    NBD_SERVER_START = "nbd-server-start"
    NBD_SERVER_STOP = "nbd-server-stop"
    OBJECT_ADD = "object-add"
    OBJECT_DEL = "object-del"
    QOM_GET = "qom-get"
    QOM_LIST = "qom-list"
    QOM_SET = "qom-set"
    QUERY_BLOCK_EXPORTS = "query-block-exports"
    QUERY_BLOCK_JOBS = "query-block-jobs"
    QUERY_CHARDEV = "query-chardev"
    QUERY_COLO_STATUS = "query-colo-status"
    QUERY_JOBS = "query-jobs"
    QUERY_MIGRATE = "query-migrate"
    QUERY_NAMED_BLOCK_NODES = "query-named-block-nodes"
    QUERY_STATUS = "query-status"
    QUERY_UUID = "query-uuid"
    QUERY_VERSION = "query-version"
    QUERY_YANK = "query-yank"
    QUIT = "quit"
    SNAPSHOT_LOAD = "snapshot-load"
    STOP = "stop"
    SYSTEM_POWERDOWN = "system_powerdown"
    SYSTEM_RESET = "system_reset"
    TRACE_EVENT_SET_STATE = "trace-event-set-state"
    TRANSACTION = "transaction"
    X_BLOCKDEV_CHANGE = "x-blockdev-change"
    X_COLO_LOST_HEARTBEAT = "x-colo-lost-heartbeat"
    X_QUERY_RAMBLOCK = "x-query-ramblock"
    YANK = "yank"
