"""What is refused for a moment is asked for again; what is refused for good is not."""

from __future__ import annotations

import pytest

from vdc.api.settling import once_settled
from vdc.model.errors import ConflictError, VdcError


class Asked:
    def __init__(self, *errors: VdcError) -> None:
        self.errors = list(errors)
        self.times = 0

    async def __call__(self) -> str:
        self.times += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def moment() -> ConflictError:
    return ConflictError("web is entering on h2", code="not-settled")


async def test_it_is_asked_until_the_vm_has_settled() -> None:
    asked, told = Asked(moment(), moment()), []
    assert await once_settled(asked, told.append, again_s=0) == "done"
    assert asked.times == 3
    assert told == ["waiting: web is entering on h2"] * 2


async def test_not_for_ever() -> None:
    asked = Asked(*[moment()] * 3)
    with pytest.raises(ConflictError) as refused:
        await once_settled(asked, print, patience_s=-1, again_s=0)
    assert refused.value.code == "not-settled"
    assert asked.times == 1


@pytest.mark.parametrize("error", [ConflictError("busy", code="backup-busy"), VdcError("no")])
async def test_other_refusals_are_final(error: VdcError) -> None:
    asked = Asked(error)
    with pytest.raises(VdcError):
        await once_settled(asked, print, again_s=0)
    assert asked.times == 1
