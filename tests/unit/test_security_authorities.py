"""The record of whom to trust counts with the signature of somebody who is trusted already, and not otherwise."""

from __future__ import annotations

import pytest
from pki_support import authority

from vdc.model.errors import VdcError
from vdc.protection.rotation import begin
from vdc.security.authorities import entry_of, first_record, sign, verify

OURS, NEXT, EVIL = authority(), authority(number=1), authority(number=2)
FIRST = first_record(OURS)


def code_of(record, *trusted) -> str:
    with pytest.raises(VdcError) as caught:
        verify(record, tuple(one.certificate for one in trusted or (OURS,)))
    return caught.value.code


def test_what_an_authority_signed_is_believed_by_who_trusts_it() -> None:
    introduced = sign(begin(FIRST, entry_of(NEXT)), OURS)
    verify(FIRST, (OURS.certificate,))
    verify(introduced, (EVIL.certificate, OURS.certificate))
    assert code_of(introduced, NEXT) == "authority-forged"


def test_everything_that_it_says_is_signed() -> None:
    introduced = sign(begin(FIRST, entry_of(NEXT)), OURS)
    evil = entry_of(EVIL)
    for forged in (
        introduced.with_(number=introduced.number + 1),
        introduced.with_(issuing=NEXT.fingerprint),
        introduced.with_(entries=(*introduced.entries, evil)),
        introduced.with_(signed_by=NEXT.fingerprint),
        introduced.with_(signature=""),
        introduced.with_(signature="zz"),
        sign(begin(FIRST, evil), EVIL),
        sign(begin(FIRST, evil), EVIL).with_(signed_by=OURS.fingerprint),
    ):
        assert code_of(forged) == "authority-forged"


def test_an_authority_says_the_truth_about_itself_and_is_of_this_cluster() -> None:
    wrong = entry_of(NEXT).with_(fingerprint="00" * 32)
    other = entry_of(authority("ba9876543210"))
    assert code_of(sign(begin(FIRST, wrong), OURS)) == "authority-forged"
    assert code_of(sign(begin(FIRST, other), OURS)) == "authority-forged"
    nobody = begin(FIRST, entry_of(NEXT)).with_(issuing="00" * 32)
    assert code_of(sign(nobody, OURS)) == "authority-forged"
