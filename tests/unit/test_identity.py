"""Who a certificate speaks for, and which role includes which."""

import pytest

from vdc.model.errors import InvalidError
from vdc.model.identity import Identity, Role

ALICE = Identity(cluster="0123456789ab", role=Role.OPERATOR, name="alice")


def test_an_identity_is_one_uri():
    assert ALICE.uri == "vdc://0123456789ab/operator/alice"
    assert Identity.parse(ALICE.uri) == ALICE


@pytest.mark.parametrize(
    "uri",
    [
        "", "vdc://0123456789ab/root/alice", "vdc://0123456789ab/operator/alice/admin", "vdc://0123456789ab/nobody/alice",
        "vdc://0123456789ab/operator/-alice", "vdc://0123456789AB/operator/alice", "vdc://0123456789ab/operator/alice\n",
        "https://0123456789ab/operator/alice",
    ],
)  # fmt: skip
def test_anything_else_names_nobody(uri):
    with pytest.raises(InvalidError, match="names nobody"):
        Identity.parse(uri)


def test_roles_of_people_include_the_lesser_ones_and_no_machine():
    includes = {(a, b) for a in Role for b in Role if a is not Role.NOBODY and a.includes(b)}
    assert includes == {
        *((role, Role.NOBODY) for role in Role if role is not Role.NOBODY),
        *((role, role) for role in Role if role is not Role.NOBODY),
        (Role.OPERATOR, Role.VIEWER), (Role.ADMIN, Role.VIEWER), (Role.ADMIN, Role.OPERATOR), (Role.HOST, Role.WITNESS),
    }  # fmt: skip
