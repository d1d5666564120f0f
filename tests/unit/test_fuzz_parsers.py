"""No bytes bring a parser down: each returns, or raises what it promises. `VDC_FUZZ=deep` tries more."""

from __future__ import annotations

import pytest
from fuzzing import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import identities
from tests.fuzz.targets import BY_NAME, TARGETS, Target
from vdc.model.manifest_file import load_text

# Of numbers that a certificate should not have; a later version of the library refuses them.
pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")


def mutated(seed: bytes) -> st.SearchStrategy[bytes]:
    """A valid input with some parts replaced, removed, doubled or cut off."""
    piece = st.one_of(
        st.binary(max_size=8),
        st.sampled_from([
            b"\xff", b"\0", b"{", b"[", b'"', b"null", b"-1", b"1e999", b"9" * 25, b"[]", b"{}", b'"\\ud800"', b"NaN",
            b"\n", b": ", b"&a ", b"*a", b"true",
        ]),
    )  # fmt: skip
    edit = st.tuples(st.integers(0, len(seed)), st.integers(0, 12), piece)

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        found = seed
        for place, length, text in edits:
            found = found[:place] + text + found[place + length :]
        return found

    return st.lists(edit, max_size=4).map(apply)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_no_bytes_bring_it_down(target: Target) -> None:
    for seed in target.seeds:
        target.run(seed)
    inputs = st.one_of(st.binary(max_size=300), *(mutated(seed) for seed in target.seeds))

    @settings(
        max_examples=examples(60, 3_000), deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(inputs)
    def search(data: bytes) -> None:
        target.run(data)

    search()


@pytest.mark.parametrize("kind", ["certificate", "bundle", "request"])
def test_no_changed_byte_of_what_is_signed_brings_it_down(kind: str) -> None:
    """Nearly each of them leads another way through the library's reader of certificates."""
    parts = {"certificate": identities.HOST, "bundle": identities.AUTHORITY, "request": identities.REQUEST}
    whole, run = parts[kind], BY_NAME[kind].run
    for place in range(len(whole)):
        for bit in (0x01, 0x40, 0x80):
            run(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])


FOUND = {  # what brought one down once
    "manifest-yaml": (
        b"kind: Endophyte\nmetadata: {name: a}\nspec: {image: m, disks: [{name: a, size: 0GiB}]}\n",
    ),
    "yaml-values": (b'- "\\x85"\n', b'- "a\\u2028b"\n'),
    "vmdk-description": (b'version=1\nRW 8 SPARSE "a" 49600 x\n',),
    "request-body": (b'{"a\\ud800": 1}', b'{"state": "\\udfff"}'),
}


@pytest.mark.parametrize(
    "target", [one for one in TARGETS if one.name in FOUND], ids=lambda target: target.name
)
def test_what_was_found_once_stays_right(target: Target) -> None:
    for data in FOUND[target.name]:
        target.run(data)


def test_a_size_that_is_too_small_is_shown_as_it_was_written() -> None:
    (loaded,) = load_text(FOUND["manifest-yaml"][0], "a.yaml")
    assert str(loaded.error) == "a.yaml: spec.disks[0].size: has to be at least 1MiB (given: 0GiB)"
