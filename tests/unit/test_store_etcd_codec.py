"""The etcd client's pure parts: bytes and base64, errors and what they mean, the order of endpoints."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdc.model.errors import BugError
from vdc.store import etcd_codec as codec
from vdc.store.etcd_admin import parse_status
from vdc.store.etcd_client import Endpoints
from vdc.store.etcd_errors import Meaning, classify, error_of
from vdc.store.protocol import Change, ChangeKind, Delete, KeyValue, LeaseId, Put, Unchanged
from vdc.store.rules import check_repeatable

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@given(TEXT)
def test_text_survives(text: str) -> None:
    assert codec.decode(codec.encode(text)) == text


@given(TEXT.filter(bool), TEXT)
def test_the_end_of_a_prefix_is_just_behind_it(prefix: str, rest: str) -> None:
    end = base64.b64decode(codec.prefix_end(prefix))
    raw = prefix.encode()
    assert raw <= (prefix + rest).encode() < end
    assert not end.startswith(raw)
    assert len(end) <= len(raw)


@given(st.lists(st.binary().filter(lambda line: b"\n" not in line.strip())), st.lists(st.integers(0, 50)))
def test_lines_are_the_same_however_they_were_cut(lines: list[bytes], cuts: list[int]) -> None:
    stripped = [line.strip() for line in lines]
    data = b"".join(line + b"\n" for line in stripped)
    splitter, found = codec.LineSplitter(), []
    for size in cuts:
        found += splitter.feed(data[:size])
        data = data[size:]
    found += splitter.feed(data)
    assert found == [line for line in stripped if line]


def test_a_line_without_its_end_is_kept_back() -> None:
    splitter = codec.LineSplitter()
    assert splitter.feed(b'{"a"') == []
    assert splitter.feed(b":1}") == []
    assert splitter.feed(b'\n{"b":2}\n{"c"') == [b'{"a":1}', b'{"b":2}']


def test_a_commit_as_etcd_wants_it() -> None:
    body = codec.txn_request(
        [Unchanged("a", 7), Unchanged("b", 0)],
        [Put("a", "v", LeaseId(9)), Put("b", ""), Delete("c"), Delete("d/", is_prefix=True)],
    )
    assert body == {
        "compare": [
            {"result": "EQUAL", "target": "MOD", "key": "YQ==", "mod_revision": "7"},
            {"result": "EQUAL", "target": "MOD", "key": "Yg==", "mod_revision": "0"},
        ],
        "success": [
            {"request_put": {"key": "YQ==", "value": "dg==", "lease": "9"}},
            {"request_put": {"key": "Yg==", "value": ""}},
            {"request_delete_range": {"key": "Yw=="}},
            {"request_delete_range": {"key": "ZC8=", "range_end": "ZDA="}},
        ],
    }


def test_events_of_a_watch() -> None:
    result = {
        "events": [
            {
                "kv": {
                    "key": "YQ==",
                    "value": "dg==",
                    "mod_revision": "5",
                    "create_revision": "3",
                    "lease": "9",
                }
            },
            {"type": "DELETE", "kv": {"key": "YQ==", "mod_revision": "6"}},
        ]
    }
    assert codec.changes(result) == (
        Change(ChangeKind.PUT, 5, KeyValue("a", "v", 5, 3, LeaseId(9))),
        Change(ChangeKind.DELETE, 6, KeyValue("a", "", 6, 0)),
    )


@pytest.mark.parametrize(
    ("code", "text", "meaning"),
    [
        (14, "etcdserver: no leader", Meaning.NO_EFFECT),
        (8, "etcdserver: too many requests", Meaning.NO_EFFECT),
        (14, "etcdserver: leader changed", Meaning.UNKNOWN),
        (14, "etcdserver: request timed out", Meaning.UNKNOWN),
        (14, "etcdserver: request timed out, possibly due to previous leader failure", Meaning.UNKNOWN),
        (14, "etcdserver: server stopped", Meaning.UNKNOWN),
        (14, 'connection error: desc = "transport: error while dialing"', Meaning.UNKNOWN),
        (8, "etcdserver: mvcc: database space exceeded", Meaning.UNKNOWN),
        (4, "context deadline exceeded", Meaning.UNKNOWN),
        (2, "raft proposal dropped", Meaning.UNKNOWN),
        (0, "", Meaning.UNKNOWN),
        (5, "etcdserver: requested lease not found", Meaning.LEASE_GONE),
        (11, "etcdserver: mvcc: required revision has been compacted", Meaning.COMPACTED),
        (3, "etcdserver: duplicate key given in txn request", Meaning.INVALID),
        (3, "etcdserver: request is too large", Meaning.INVALID),
        (7, "etcdserver: permission denied", Meaning.DENIED),
    ],
)
def test_what_an_error_means(code: int, text: str, meaning: Meaning) -> None:
    assert classify(code, text) is meaning


def test_errors_are_found_where_the_gateway_puts_them() -> None:
    plain = error_of(
        "e", 503, {"error": "etcdserver: no leader", "code": 14, "message": "etcdserver: no leader"}
    )
    stream = error_of(
        "e", 200, {"error": {"grpc_code": 14, "http_code": 503, "message": "etcdserver: no leader"}}
    )
    assert plain.meaning is stream.meaning is Meaning.NO_EFFECT
    assert error_of("e", 502, {}).meaning is Meaning.UNKNOWN
    assert error_of("e", 502, {}).text == "HTTP status 502"


def test_members_with_trouble_are_asked_last_for_a_while() -> None:
    now = [100.0]
    endpoints = Endpoints(["http://a/", "http://b", "http://c"], clock=lambda: now[0])
    endpoints.failed("http://a")
    now[0] += 1
    endpoints.failed("http://b")
    assert endpoints.in_order() == ("http://c", "http://a", "http://b")
    endpoints.heard("http://b")
    assert endpoints.in_order() == ("http://b", "http://c", "http://a")
    now[0] += 4.5
    assert endpoints.in_order() == ("http://a", "http://b", "http://c")


def test_a_client_needs_an_endpoint() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Endpoints([])


@pytest.mark.parametrize(
    ("compares", "operations", "is_safe"),
    [
        ([Unchanged("a", 1)], [Put("a", "x")], True),
        ([Unchanged("a", 0)], [Put("a", "x")], True),
        ([Unchanged("a", 1)], [Delete("a")], True),
        ([Unchanged("a", 1), Unchanged("b", 1)], [Put("b", "x"), Put("c", "x")], True),
        ([], [Put("a", "x")], False),
        ([Unchanged("b", 1)], [Put("a", "x")], False),
        ([Unchanged("a", 0)], [Delete("a")], False),
    ],
)
def test_only_what_fails_the_second_time_may_be_sent_twice(
    compares: list[Unchanged], operations: list[Put | Delete], is_safe: bool
) -> None:
    if is_safe:
        check_repeatable(compares, operations)
    else:
        with pytest.raises(BugError):
            check_repeatable(compares, operations)


def test_status_of_a_follower_and_of_one_without_a_leader() -> None:
    answer = {
        "header": {"member_id": "255", "revision": "9"}, "version": "3.5.16", "dbSize": "20480",
        "leader": "16", "raftIndex": "8", "raftTerm": "2",
    }  # fmt: skip
    status = parse_status("e", answer, 1.5)
    assert status.is_healthy and not status.is_leader
    assert (status.member_id, status.leader_id, status.raft_term, status.db_size_bytes) == (
        "ff",
        "10",
        2,
        20480,
    )
    assert parse_status("e", {**answer, "leader": "255"}, 1.5).is_leader
    lost = parse_status("e", {**answer, "leader": "0"}, 1.5)
    assert not lost.is_healthy and not lost.is_leader and lost.error == "no leader"
    alarmed = parse_status("e", {**answer, "errors": ["memberID:255 alarm:NOSPACE"]}, 1.5)
    assert not alarmed.is_healthy and "NOSPACE" in alarmed.error
