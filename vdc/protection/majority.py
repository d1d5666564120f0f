"""What etcd's members can still decide, in numbers and in sentences. Pure."""

from __future__ import annotations


def needed(members: int) -> int:
    """How many of so many members have to agree."""
    return members // 2 + 1


def may_lose(members: int, healthy: int) -> int:
    """How many more may be lost before nothing can be decided; negative where too many are."""
    return healthy - needed(members)


def pair_without_witness(members: int) -> str | None:
    """The warning for two members: each of them is needed, so that two are less safe than one."""
    if members != 2:
        return None
    return (
        "two hosts have no majority without each other: add a witness; until then no failover is automatic "
        "when one of them dies"
    )


def notes(members: int, healthy: int, lost_witnesses: tuple[str, ...]) -> tuple[str, ...]:
    """What should worry somebody, most important first."""
    found = []
    left = may_lose(members, healthy)
    if left < 0:
        found.append(
            f"{healthy} of {members} etcd members answer, {needed(members)} are needed: nothing can be decided "
            "or changed; bring the others back, or see `vdc promote replica --help`"
        )
    if (pair := pair_without_witness(members)) is not None:
        found.append(pair)
    for name in lost_witnesses:
        worse = " and the next loss stops every decision" if left == 0 else ""
        found.append(f"witness {name} does not answer: guests go on{worse}; bring it back")
    return tuple(found)
