"""What each event means and what to do about it: for `vdc doctor --explain`, and for docs/operations.md.

Codes are stable. A test compares this table with the codes that the agents write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Explanation:
    """Of one code. `severity` is the usual one; `meaning` says where it is another. `advice`: empty for none."""

    severity: str
    meaning: str
    advice: str = ""


_N, _W = "Normal", "Warning"
_WAIT = "nothing; look again with `vdc get endophytes` in a minute"

EXPLANATIONS: Mapping[str, Explanation] = {
    # ---- a VM's life
    "placed": Explanation(_N, "the controller chose a host"),
    "started": Explanation(_N, "the guest was powered on (`start_ms`)"),
    "start-failed": Explanation(
        _W, "the guest could not be started; it is tried again", "read the reason; `vdc logs`, free room or memory"
    ),
    "no-host": Explanation(
        _W, "no host can take the VM or its secondary, with each host's reason",
        "give the hosts what the reasons name, or ask for less; `vdc get nodes -o wide`",
    ),
    "paused": Explanation(_N, "as asked"),
    "resumed": Explanation(_N, "as asked: a paused VM, or a drained host"),
    "stopped": Explanation(_N, "as asked; says so where the guest did not shut down when asked"),
    "guest-powered-off": Explanation(_N, "the guest shut itself down; it stays off until `vdc start`"),
    "deleted": Explanation(_N, "gone, disks included"),
    # ---- snapshots
    "snapshot-taken": Explanation(_N, "all disks were copied as they were at one moment (`size_bytes`)"),
    "backup-taken": Explanation(_N, "all disks, or what had changed of them, were read into a repository"),
    "snapshot-lost": Explanation(
        _W, "a snapshot was not finished: its agent was restarted, its host lost, or QEMU silent; nothing is left",
        "take it again: `vdc snapshot create`",
    ),
    "restored": Explanation(_N, "the VM begins anew from a snapshot; its disks of before are gone"),
    # ---- the program of a container
    "program-ready": Explanation(_N, "it runs, and its readiness probe (if there is one) is well"),
    "program-not-ready": Explanation(
        _W, "its readiness probe fails; the program goes on", "`vdc logs NAME`; what does the probe ask?"
    ),
    "program-ended": Explanation(
        _W, "it ended, with this exit code; Normal where that was 0 and it is not started again",
        "`vdc logs NAME`: what did it say last? 128+N: killed by signal N",
    ),
    "program-restarted": Explanation(
        _W, "the guest started it again: by its restart policy, or because its startup or liveness probe failed",
        "`vdc logs NAME`; once is no harm, again and again is",
    ),
    "program-silent": Explanation(
        _W, "the init in the guest has answered before and does not now",
        "`vdc logs NAME --console`; `vdc restart NAME`",
    ),
    "consent-missing": Explanation(
        _W, "the VM is protected, but without the kernel's second gate: a primary whose agent is dead at the wrong "
        "moment may send acknowledgements that nobody agreed to",
        "the reason names what is missing: nftables, or netdev hooks in the kernel",
    ),
    "orphaned": Explanation(
        _W, "a host has a copy of a VM that the cluster knows nothing of, nor that it was deleted; it is left as it is",
        "was etcd restored or replaced? bring back the right one; `vdc delete endophyte NAME` if the copy is to go",
    ),
    # ---- protection
    "protecting": Explanation(_N, "a secondary was chosen"),
    "resync-queued": Explanation(
        _N, "it is protected when the hosts that it needs have finished with another VM", _WAIT
    ),
    "lockstep-entered": Explanation(
        _N,
        "disk and memory are copied (`stopped_ms`, `copy_ms`, `copied_bytes`, `disk_bytes` of it; `resumed` 1: only "
        "what was written since an older copy)",
    ),
    "lockstep": Explanation(_N, "three checkpoints completed: from now on the secondary may take over"),
    "protection-failed": Explanation(
        _W, "lockstep was not reached; another host is tried",
        "if it repeats: the reason names the step; `vdc doctor` on both hosts, `vdc doctor --canary`",
    ),
    "secondary-failed": Explanation(
        _W, "a host could not make its copy",
        "the reason names what is missing on that host; it is left alone for a while"
    ),
    "alone": Explanation(
        _W, "the primary goes on without its secondary, and why",
        "nothing: it is protected again by itself; find out what the other host lost",
    ),
    "promoted": Explanation(
        _W, "the secondary took over (`arbitrated_ms`, `total_ms`); Normal where it was asked for",
        "nothing for the VM; find out what became of the host that it left",
    ),
    "copy-died": Explanation(_W, "a copy's QEMU ended", "`qemu.log` in that host's VM folder says why"),
    "qemu-hung": Explanation(
        _W, "a QEMU did nothing any more, and was ended because its VM could not go on or be stopped without it",
        "it is started again where it shall run; `qemu.log` in that host's VM folder",
    ),
    "discarded": Explanation(_N, "a host ended its copy, because a newer epoch is in force"),
    "tidy-failed": Explanation(_W, "clean-up after a promotion failed; the guest runs", "nothing: it is done again"),
    "went-on": Explanation(
        _N, "an agent was restarted in the middle of an operation, and from which step it goes on"
    ),
    "isolated": Explanation(
        _W, "paused: neither etcd nor the other copy answers",
        "mend the host's networks; it goes on, or ends in favour of a newer copy, as soon as it hears etcd",
    ),
    # ---- proofs
    "drill": Explanation(
        _N,
        "a primary failed on purpose, and what was measured (`gap_ms`, `protected_after_s`); Warning where protection "
        "did not come back in time",
    ),
    "verified": Explanation(
        _N, "both copies were compared and are the same (`frozen_ms`, `memory_bytes`, `disk_bytes`)"
    ),
    "replica-differs": Explanation(
        _W, "they are not; a fresh replica is made",
        "check that host's memory and disk, and report it: a replica must never differ",
    ),
    "verification-failed": Explanation(
        _W, "they could not be compared at their time; it is tried again after a minute",
        "if it repeats: the machine may be too busy to be stopped at the right moment; `vdc verify` by hand",
    ),
    # ---- disks and memory
    "disk-failed": Explanation(
        _W, "a disk refused something in lockstep: that host gave way, the other one goes on",
        "check that host's disk; nothing was lost",
    ),
    "disk-full": Explanation(
        _W, "paused: there is no room for what the guest writes, and no other copy; goes on by itself",
        "free room where the agent's `state_dir` is",
    ),
    "disk-error": Explanation(
        _W, "paused as above, for another error of the disk; it is tried again every 2 s",
        "check the disk; if it is dying and the VM unprotected, back it up from what can be read",
    ),
    "disk-recovered": Explanation(
        _N, "the disk takes what is written again: the end of `disk-full` and `disk-error`"
    ),
    "disk-low": Explanation(
        _W, "about a host: less than 2 GiB, or a tenth, is free where its disks or images are",
        "free room: `vdc image ls`, delete VMs, or give it a larger disk",
    ),
    "image-missing": Explanation(
        _W,
        "about a host: an image of the cluster is not on it, with the reason; it goes on trying",
        "free room on that host (`vdc image prune`), start a host that holds the image, or import it again",
    ),
    "disk-room": Explanation(_N, "about a host: the end of `disk-low`"),
    # ---- maintenance
    "draining": Explanation(_N, "a host is drained: by hand, and why"),
    "moving": Explanation(_N, "it leaves a drained host: a copy is made on the named one"),
    "moved": Explanation(_N, "it runs where it was to run, or need not move any more"),
    "move-failed": Explanation(
        _W, "the move was given up, and why; it runs where it was", "mend the reason and ask again"
    ),
    "replica-moves": Explanation(_N, "its secondary was given up on purpose, to be made anew elsewhere"),
    "promotion-late": Explanation(
        _W, "a planned promotion did not come about; it is asked for again", "nothing, unless it repeats"
    ),
    "host-removed": Explanation(
        _W, "a host was declared gone for good; names the VMs that are lost (Normal where none is)",
        "delete the lost ones or restore them from a backup",
    ),
    # ---- audit
    "audit-damaged": Explanation(
        _W, "the audit log in etcd does not continue what this host remembers of it",
        "`vdc audit verify` names the place; somebody with a host's keys has written to etcd",
    ),
    "audit-trimmed": Explanation(
        _W, "the audit log was full, and entries of the last 30 days had to go",
        "`vdc audit export` regularly keeps them elsewhere; `vdc audit list` shows who does so much",
    ),
    # ---- identities
    "host-joined": Explanation(_N, "a host or witness got its certificate by a join token"),
    "user-added": Explanation(_N, "somebody got a certificate, with this role"),
    "user-removed": Explanation(_N, "a user's certificates do not count any more"),
    "certificate-revoked": Explanation(_N, "one certificate does not count any more"),
    "certificate-renewed": Explanation(_N, "this host's own, before it ran out"),
    "renewal-failed": Explanation(
        _W, "this host's certificate is due and could not be renewed; it is tried again",
        "read the reason; once it has run out: `vdc cluster token create`, then `hostagent join` on that host",
    ),
    "authority-handed-over": Explanation(_N, "a full host got the cluster's key from another one"),
    "authority-rotating": Explanation(_N, "a new authority is being introduced to every host"),
    "authority-issuing": Explanation(_N, "every host trusts the new authority, which issues from now on"),
    "authority-retired": Explanation(_N, "the old authority is not trusted any more"),
    # ---- majority
    "majority-lost": Explanation(
        _W, "this host finds no majority of the etcd members; nothing can be changed",
        "bring hosts or networks back; guests go on meanwhile. For good: `vdc promote replica NAME --force`",
    ),
    "majority-back": Explanation(_N, "it finds one again"),
    "undecided": Explanation(
        _W, "a primary does not answer, and without a majority its replica may not take over",
        "bring a member back; or make sure that the other host is off, then `vdc promote replica NAME --force`",
    ),
    "forced-promotion": Explanation(
        _W, "a human overrode the cluster: who, for what, and what was asserted (`lineage`)",
        "let the hosts that are left out re-join: `hostagent rejoin`",
    ),
    "left-out": Explanation(
        _W, "a newer lineage is in force; this host's etcd member was ended and has to re-join",
        "`hostagent rejoin` on that host",
    ),
}  # fmt: skip
