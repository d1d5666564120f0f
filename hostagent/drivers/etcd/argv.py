"""The command line of an embedded etcd member. Pure.

etcd also reads its options from ETCD_* in the environment, of which it gets nothing in its sandbox.
Clients on the network use the JSON gateway, which speaks gRPC to the member in turn. That would show it a certificate
which no check of its name lets pass, so it does so over a unix socket.
fsync stays on: an acknowledged epoch that is lost in a power cut could be given out twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hostagent.config import EmbeddedEtcd
from hostagent.drivers.etcd.credentials import MemberFiles
from hostagent.drivers.process import Bind, User
from vdc.confinement import sandbox
from vdc.confinement.seccomp import AF_INET, AF_INET6, AF_NETLINK, AF_UNIX

SOCKET = "client.sock"  # beside the data, where nobody but etcd's user and root may enter
CLUSTER_TOKEN = "vdc"  # noqa: S105 - a name that is part of the cluster's id, no secret
QUOTA_BYTES = 2 << 30
SANDBOX_DATA_DIR = Path("/vm")  # a mount point that every runtime root has
SANDBOX_CREDENTIALS = Path("/tmp/credentials")  # noqa: S108 - inside the sandbox
SNAPSHOT_ENTRIES = 10_000  # entries kept in memory between snapshots
FAMILIES = (AF_UNIX, AF_INET, AF_INET6, AF_NETLINK)  # it looks its host's addresses up


def client_url(host: str, config: EmbeddedEtcd) -> str:
    """Where a member serves clients."""
    return f"https://{config.members[host]}:{config.client_port}"


def peer_url(host: str, config: EmbeddedEtcd) -> str:
    """Where a member serves the other members."""
    return f"https://{config.members[host]}:{config.peer_port}"


def client_urls(host: str, config: EmbeddedEtcd) -> tuple[str, ...]:
    """All members for a client on `host`: its own first, then the others in the order of their names."""
    others = sorted(config.members.keys() - {host})
    return tuple(client_url(one, config) for one in (host, *others))


def member_argv(
    host: str,
    config: EmbeddedEtcd,
    data_dir: Path,
    files: MemberFiles,
    *,
    is_rejoining: bool = False,
    initial_cluster: str = "",
    is_alone: bool = False,
) -> tuple[str, ...]:
    """The member of `host`. The initial cluster and its state matter at the first start alone.

    `is_rejoining`: the host was added to a cluster that exists, as a new member with empty data; then
    `initial_cluster` is who is in it. `is_alone`: forget every other member and go on with the data.
    """
    members = initial_cluster or ",".join(f"{one}={peer_url(one, config)}" for one in sorted(config.members))
    return (
        "etcd",
        *("--name", host),
        *("--data-dir", str(data_dir)),
        *("--listen-client-http-urls", client_url(host, config)),
        *("--listen-client-urls", f"unix://{data_dir / SOCKET}"),
        *("--advertise-client-urls", client_url(host, config)),
        *("--listen-peer-urls", peer_url(host, config)),
        *("--initial-advertise-peer-urls", peer_url(host, config)),
        *files.options,
        *("--initial-cluster", members),
        *("--initial-cluster-token", CLUSTER_TOKEN),
        *("--initial-cluster-state", "existing" if is_rejoining else "new"),
        *("--heartbeat-interval", str(config.heartbeat_ms)),
        *("--election-timeout", str(config.election_ms)),
        *("--auto-compaction-mode", "periodic"),
        *("--auto-compaction-retention", "1h"),
        *("--quota-backend-bytes", str(QUOTA_BYTES)),
        *("--snapshot-count", str(SNAPSHOT_ENTRIES)),
        *("--log-level", "info"),
        *(("--force-new-cluster",) if is_alone else ()),
    )


def sandboxed(
    argv: Sequence[str], user: User, runtime: Path | None, data_dir: Path, credentials: Path
) -> list[str]:
    """Run it as `user`; of the host it sees its data directory, its credentials and the network.

    Both folders are to be that user's.
    """
    binds = (
        Bind(data_dir, str(SANDBOX_DATA_DIR), is_writable=True),
        Bind(credentials, str(SANDBOX_CREDENTIALS)),
    )
    return sandbox.sandboxed(argv, user, runtime_root=runtime, binds=binds, has_network=True)
