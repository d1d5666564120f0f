"""The audit log's chain: every kind of damage is found, with its exact sentence."""

from __future__ import annotations

import hashlib
import json

import pytest
from audit_support import Chain, asked
from hypothesis import given
from hypothesis import strategies as st

from vdc.model.audit import ORIGIN, AuditHead, canonical, hash_of, parse_entry
from vdc.model.audit_chain import DamageKind, check_export


def test_an_entry_is_its_canonical_text_and_its_hash_covers_it() -> None:
    entry = asked().sealed(1, ORIGIN, 0)
    values = json.loads(entry.text)
    assert entry.text == json.dumps(values, sort_keys=True, separators=(",", ":"))
    without = {key: value for key, value in values.items() if key != "hash"}
    assert entry.hash == hashlib.sha256(canonical(without).encode()).hexdigest()
    assert entry.prev == ORIGIN and entry.seq == 1


def test_a_whole_chain_is_whole() -> None:
    chain = Chain(12)
    assert chain.check(chain.remembered("h1", 12), chain.remembered("h2", 3)) == ([], [])
    assert Chain(0).check() == ([], [])


def test_one_that_was_trimmed_is_whole() -> None:
    chain = Chain(5, first=401)
    assert chain.check(chain.remembered("h1", 401), keep=5) == ([], [])


def test_a_field_of_a_newer_version_is_under_the_hash() -> None:
    chain = Chain(3)
    values = {**json.loads(chain.texts[3]), "newer": "x"}
    values["hash"] = hash_of(values)
    chain.texts[3] = canonical(values)
    chain.head = AuditHead(seq=3, hash=values["hash"])
    assert chain.check() == ([], [])
    chain.texts[3] = chain.texts[3].replace('"x"', '"y"')
    assert chain.check()[0] == ["entry 3 was changed: its content does not match its hash"]


def test_changed() -> None:
    chain = Chain(5)
    chain.change(3, who="vdc://0123456789ab/operator/bob")
    assert chain.check()[0] == ["entry 3 was changed: its content does not match its hash"]


def test_changed_in_its_form_alone() -> None:
    chain = Chain(2)
    chain.texts[2] = chain.texts[2].replace('"seq":2', '"seq": 2')
    assert chain.check()[0] == ["entry 2 was changed: its content does not match its hash"]


def test_replaced() -> None:
    chain = Chain(5)
    chain.forge(3, result="role-missing")
    assert chain.check()[0] == ["entry 4 does not follow entry 3: one of the two was replaced"]


def test_the_last_one_replaced() -> None:
    chain = Chain(5)
    chain.forge(5, result="role-missing")
    assert chain.check()[0] == ["the head does not match entry 5: one of the two was replaced"]


def test_the_first_one_replaced() -> None:
    chain = Chain(2)
    chain.texts[1] = chain.entries[1].sealed(1, "b" * 64, 0).text
    assert chain.check()[0] == [
        "entry 1 does not follow the beginning of a log: one of the two was replaced",
        "entry 2 does not follow entry 1: one of the two was replaced",
    ]
    chain = Chain(2, first=401)
    chain.anchor = chain.anchor.with_(hash="b" * 64)
    assert chain.check()[0] == [
        "entry 401 does not follow what was trimmed up to entry 400: one of the two was replaced"
    ]


def test_missing() -> None:
    chain = Chain(9)
    del chain.texts[3], chain.texts[6], chain.texts[7]
    assert chain.check()[0] == ["entry 3 is missing", "entries 6 to 7 are missing"]


def test_reordered() -> None:
    chain = Chain(5)
    chain.texts[2], chain.texts[3] = chain.texts[3], chain.texts[2]
    assert chain.check()[0] == [
        "entry 3 stands in the place of entry 2",
        "entry 2 stands in the place of entry 3",
    ]


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "{}", "null", '{"seq":2}', "[" * 100_000, '{"seq":' + "9" * 5000 + "}", '"\\ud800"'],
)
def test_unreadable(text: str) -> None:
    chain = Chain(3)
    chain.texts[2] = text
    assert chain.check()[0] == ["entry 2 cannot be read"]


@pytest.mark.parametrize("value", ['"\\ud800"', "NaN", "1e999", "[" * 900 + "]" * 900, '1,"who":"nobody"'])
def test_what_could_not_be_handed_on_is_unreadable(value: str) -> None:
    chain = Chain(1)
    assert parse_entry(chain.texts[1][:-1] + ',"x":"y"}') is not None
    assert parse_entry(chain.texts[1][:-1] + f',"x":{value}}}') is None


def test_cut_at_the_end() -> None:
    chain = Chain(5)
    del chain.texts[5]
    assert chain.check()[0] == [
        "the log ends with entry 4 and its head is entry 5: entry 5 is missing at its end"
    ]
    del chain.texts[4]
    assert chain.check()[0] == [
        "the log ends with entry 3 and its head is entry 5: entries 4 to 5 are missing at its end"
    ]


def test_the_head_set_back() -> None:
    chain = Chain(5)
    entry = chain.entries[3]
    chain.head = AuditHead(seq=3, hash=entry.hash)
    assert chain.check()[0] == ["the head is entry 3, and there are entries up to 5: the head was set back"]


def test_cut_at_the_end_with_the_head_set_back_shows_by_what_a_host_remembers() -> None:
    chain = Chain(5)
    remembered = chain.remembered("h2", 5)
    del chain.texts[5], chain.texts[4]
    chain.head = AuditHead(seq=3, hash=chain.entries[3].hash)
    assert chain.check()[0] == []
    assert chain.check(remembered)[0] == [
        "h2 remembers entry 5, and the log ends with entry 3: its end was cut off and its head set back"
    ]


def test_all_of_it_removed_shows_by_what_a_host_remembers() -> None:
    chain = Chain(5)
    remembered = chain.remembered("h2", 5)
    assert Chain(0).check(remembered)[0] == [
        "h2 remembers entry 5, and the log ends with entry 0: its end was cut off and its head set back"
    ]


def test_cut_at_the_beginning() -> None:
    chain = Chain(5)
    del chain.texts[1], chain.texts[2]
    assert chain.check()[0] == [
        "the log begins with entry 3, and nothing was trimmed: entries 1 to 2 are missing at its beginning"
    ]
    chain = Chain(5, first=401)
    del chain.texts[401]
    assert chain.check()[0] == [
        "the log begins with entry 402, though it was trimmed up to entry 400 only: "
        "entry 401 is missing at its beginning"
    ]
    chain.anchor = chain.anchor.with_(seq=403)
    assert chain.check()[0][0] == "entry 402 is there, and the log says that it was trimmed up to entry 403"


def test_cut_at_the_beginning_with_the_anchor_moved() -> None:
    chain = Chain(5)
    del chain.texts[1], chain.texts[2]
    chain.anchor = chain.anchor.with_(seq=2, hash=chain.entries[2].hash)
    assert chain.check(keep=3) == ([], [])
    assert chain.check(keep=100_000)[0] == [
        "only 3 entries are left, and the newest 100000 are never trimmed: the log was cut at its beginning"
    ]


def test_rewritten_shows_by_what_a_host_remembers() -> None:
    chain = Chain(5)
    remembered = chain.remembered("h2", 4), chain.remembered("h3", 2)
    chain.rewrite(3, who="vdc://0123456789ab/operator/bob")
    assert chain.check()[0] == []
    assert chain.check(*remembered)[0] == [
        "h2 remembers another entry 4 than there is: the log was rewritten there or before"
    ]


def test_what_was_trimmed_since_cannot_be_compared() -> None:
    chain, other = Chain(5, first=401), Chain(3)
    assert chain.check(other.remembered("h3", 3)) == (
        [], ["h3 remembers entry 3, which was trimmed since: it has been away for long"],
    )  # fmt: skip
    last = other.remembered("h3", 3).with_(seq=400)
    assert chain.check(last)[0] == [
        "h3 remembers another entry 400 than there is: the log was rewritten there or before"
    ]


def test_the_end_that_a_newer_lineage_does_not_have() -> None:
    """A human let one member go on with its data, which lacked what others had seen."""
    old, new = Chain(6), Chain(5, lineages=(0, 0, 0, 1, 1))
    seen = old.remembered("h3", 6), old.remembered("h2", 4)
    notes = [
        "h3 remembers entry 6 of lineage 0, whose end a newer lineage does not have",
        "h2 remembers entry 4 of lineage 0, whose end a newer lineage does not have",
    ]
    assert new.check(*seen, lineage=1) == ([], notes)
    assert new.check(old.remembered("h3", 6).with_(lineage=1), lineage=1)[0] == [
        "h3 remembers entry 6, and the log ends with entry 5: its end was cut off and its head set back"
    ]
    short = Chain(3)
    assert short.check(seen[0], lineage=1) == ([], notes[:1])
    assert len(short.check(seen[0], lineage=0)[0]) == 1


def test_what_was_rewritten_before_a_lineage_began_is_not_excused_by_it() -> None:
    chain = Chain(5, lineages=(0, 0, 0, 1, 1))
    remembered = chain.remembered("h3", 2)
    chain.rewrite(1, who="nobody")
    assert chain.check(remembered, lineage=1)[0] == [
        "h3 remembers another entry 2 than there is: the log was rewritten there or before"
    ]


def test_a_lineage_that_is_not_in_force() -> None:
    chain = Chain(2, lineages=(0, 7))
    assert chain.check(lineage=0)[0] == ["entry 2 claims lineage 7, and lineage 0 is in force"]


def test_the_head_missing() -> None:
    chain = Chain(2)
    chain.head = None  # type: ignore[assignment]
    assert chain.check()[0] == ["the head of the log is missing"]


def test_much_damage_is_counted() -> None:
    chain = Chain(60)
    for seq in chain.texts:
        chain.change(seq, who="nobody")
    assert len(chain.check()[0]) == 20


@given(st.data())
def test_no_change_of_one_entry_goes_unnoticed(data: st.DataObject) -> None:
    chain = Chain(6)
    seq = data.draw(st.integers(1, 6))
    text = chain.texts[seq]
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from(sorted(set('abc019{}",: ') - {text[at]})))
    chain.texts[seq] = text[:at] + other + text[at + 1 :]
    assert chain.check()[0]


# ---- exports


def exported(chain: Chain) -> list[str]:
    return [chain.texts[seq] for seq in sorted(chain.texts)]


def test_an_export_is_checked_from_its_first_entry_on() -> None:
    chain = Chain(9)
    check = check_export(exported(chain)[3:])
    assert (check.damage, check.first, check.last, check.end_hash) == ([], 4, 9, chain.entries[9].hash)
    assert check_export([]).damage == []


def test_a_damaged_export() -> None:
    lines = exported(Chain(6))
    lines[1], lines[2] = lines[2], lines[1]
    lines[4] = lines[4].replace("alice", "bobby")
    found = check_export([*lines, lines[0], "x"])
    assert [(one.kind, one.sentence) for one in found.damage] == [
        (DamageKind.REORDERED, "entry 2 stands after entry 3"),
        (DamageKind.REORDERED, "entry 1 is there twice"),
        (DamageKind.UNREADABLE, "line 8 is no entry of an audit log"),
        (DamageKind.CHANGED, "entry 5 was changed: its content does not match its hash"),
    ]
    assert [one.sentence for one in check_export([lines[0], *lines[3:4]]).damage] == [
        "entries 2 to 3 are missing"
    ]


def test_what_is_no_entry_is_none() -> None:
    assert parse_entry('{"id":"a","at":"","host":"","what":"","seq":"1"}') is None
