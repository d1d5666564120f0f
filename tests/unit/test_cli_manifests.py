"""Manifest files: strict, bounded, with the place of each mistake."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from vdc.cli.manifests import read_manifests
from vdc.model.manifest import ComputerType, MemorySync
from vdc.model.manifest_file import ManifestError, load_object, load_text
from vdc.model.strict_yaml import MAX_BYTES, MAX_DEPTH, StrictError, dump, parse_documents

SEED = """
apiVersion: v1
kind: Endophyte
metadata:
  name: windows-desktop
  annotations:
    mycelium.network/service-type: "endophyte"
    mycelium.network/isolation-level: "dedicated"
spec:
  virtualComputer:
    type: "full-virtualization"
    dedicatedNodes: 3
    memorySync: "continuous"
  image: "mycelium/windows-11:latest"
"""


def error_of(text: str | bytes, **options: Any) -> str:
    loaded = load_text(text.encode() if isinstance(text, str) else text, "f.yaml", **options)
    assert len(loaded) == 1 and loaded[0].error is not None, loaded
    return str(loaded[0].error)


def minimal(**spec: Any) -> dict[str, Any]:
    return {"kind": "Endophyte", "metadata": {"name": "a"}, "spec": {"image": "x", **spec}}


def test_the_seed_form_is_taken_word_for_word() -> None:
    (loaded,) = load_text(SEED.encode(), "seed.yaml")
    manifest = loaded.manifest
    assert manifest is not None and loaded.label == "endophyte/windows-desktop"
    assert manifest.spec.virtual_computer.type is ComputerType.FULL_VIRTUALIZATION
    assert manifest.spec.virtual_computer.memory_sync is MemorySync.CONTINUOUS
    assert manifest.is_dedicated and manifest.spec.image == "mycelium/windows-11:latest"


def test_json_and_yaml_of_one_manifest_are_equal() -> None:
    as_json = json.dumps(yaml.safe_load(SEED)).encode()
    assert load_text(as_json, "a", is_json=True)[0].manifest == load_text(SEED.encode(), "a")[0].manifest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("memorySync", "memorySnc"), ("spec.virtualComputer.memorySnc", "did you mean memorySync?")),
        (("image:", "imagee:"), ("spec.image: required", "spec.imagee", "did you mean image?")),
        (("dedicatedNodes: 3", "dedicatedNodes: '3'"), ("spec.virtualComputer.dedicatedNodes", "integer")),
        (("dedicatedNodes: 3", "dedicatedNodes: true"), ("spec.virtualComputer.dedicatedNodes", "integer")),
        (("dedicatedNodes: 3", "dedicatedNodes: 0"), ("greater than or equal to 1", "'0'")),
        (('"continuous"', "sometimes"), ("'continuous' or 'none'", "'sometimes'")),
        (("windows-desktop", "Windows_Desktop"), ("metadata.name", "not a valid name")),
        (("name: windows-desktop", "name: 1"), ("metadata.name", "string")),
        (('"dedicated"', "lonely"), ("neither 'shared' nor 'dedicated'",)),
        (("kind: Endophyte", "kind: Endophite"), ("kind Endophite is not supported yet",)),
        (("kind: Endophyte", "kind: 3"), ("kind is missing",)),
        (("apiVersion: v1", "apiVersion: v2"), ("apiVersion",)),
    ],
)
def test_each_mistake_is_named_with_its_place(change: tuple[str, str], words: tuple[str, ...]) -> None:
    message = error_of(SEED.replace(*change))
    assert message.startswith("f.yaml: ") and "\n" not in message
    for word in words:
        assert word in message


def test_sizes_in_errors_are_written_like_sizes() -> None:
    loaded = load_object(minimal(resources={"memory": "1MiB"}), "f")
    assert "at least 64MiB (given: 1MiB)" in str(loaded.error)


def test_many_mistakes_are_summed_up() -> None:
    loaded = load_object(minimal(**{f"wrong{n}": 1 for n in range(9)}), "f")
    assert str(loaded.error).endswith("and 6 more")


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "Service", "Endomycete", "List", "Widget"])
def test_other_kinds_are_refused_by_name(kind: str) -> None:
    (loaded,) = load_text(f"apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: x}}".encode(), "f")
    assert isinstance(loaded.error, ManifestError)
    assert loaded.error.code == "kind-unsupported" and kind in str(loaded.error)
    assert loaded.label == f"{kind.lower()}/x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "line 2: key 'a' is given twice"),
        ("a: {b: 1, b: 1}", "given twice"),
        ("a: .nan", ".nan"),
        ("a: -.inf", "-.inf"),
        ("a: 1e999", "too large"),
        ("a: " + "9" * 50, "too many digits"),
        ("a: 089", "begins with 0"),
        ("? [1]\n: 2", "a key has to be a text"),
        ("1: 2", "has to be a text"),
        ("true: 2", "has to be a text"),
        ("a: *b", "stands for nothing"),
        ("a: &a [*a]", "stands for nothing"),
        ("a: !!python/object/apply:os.system [x]", "tag"),
        ("a: !custom x", "tag"),
        ("a: !!binary eA==", "tag"),
        ("<<: 1", "takes a mapping"),
        ("a: [", "line"),
        ("a:\n\t- b", "line 2"),
        ("\x00", "control characters"),
        (b"\xff\xfe\xff", "not UTF-8"),
        ("", "no object"),
        ("---\n---\n", "no object"),
        ("- a", "an object with"),
        ("text", "an object with"),
    ],
)
def test_a_text_that_is_not_strict_yaml_is_refused(text: str | bytes, words: str) -> None:
    assert words in error_of(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 2}', "given twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": Infinity}', "Infinity"),
        ('{"a": 1e999}', "too large"),
        ('{"a": ' + "9" * 50 + "}", "too many digits"),
        ("[" * 100_000, "deeper"),
        ("[" * 40 + "]" * 40, "deeper"),
        ("[" + "1," * 60_000 + "1]", "more than"),
        ('{"a": 1} x', "not JSON"),
        ("{", "not JSON"),
    ],
)
def test_a_text_that_is_not_strict_json_is_refused(text: str, words: str) -> None:
    assert words in error_of(text, is_json=True)


def test_plain_scalars_follow_yaml_1_2_but_for_octal_numbers() -> None:
    text = (
        b"no: [no, on, 52:54:00:12:34:56, 2030-01-01, 0o17, 0x1f, 010, 0644, ~, True, 1.5, 'true', !!str 1]"
    )
    assert parse_documents(text) == [
        {
            "no": [
                "no",
                "on",
                "52:54:00:12:34:56",
                "2030-01-01",
                15,
                31,
                8,
                0o644,
                None,
                True,
                1.5,
                "true",
                "1",
            ]
        }
    ]


def test_aliases_and_merges_work_within_bounds() -> None:
    text = b"a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}\nc: [*x, *x]\nd: {<<: [{m: 1}, {m: 2, n: 3}]}"
    x = {"k": 1, "l": 2}
    assert parse_documents(text) == [{"a": x, "b": {"k": 3, "l": 2}, "c": [x, x], "d": {"m": 1, "n": 3}}]


def test_a_bomb_of_aliases_is_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    begin = time.process_time()
    assert "aliases counted" in error_of("\n".join(lines))
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("text", [b"[" * 900_000, b"{a: " * 200_000, b"- " * 400_000, b"- a\n" * 250_000])
def test_large_and_deep_texts_are_refused_quickly(text: bytes) -> None:
    begin = time.process_time()
    with pytest.raises(StrictError):
        parse_documents(text)
    assert time.process_time() - begin < 2


def test_the_bounds_themselves_are_allowed() -> None:
    assert parse_documents(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(StrictError):
        parse_documents(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))
    with pytest.raises(StrictError, match="larger"):
        parse_documents(b"#" * (MAX_BYTES + 1))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), plain, min_size=1, max_size=4))
def test_json_comes_back_as_it_went(value: dict[str, Any]) -> None:
    assert parse_documents(json.dumps(value).encode(), is_json=True) == [value]


@given(
    st.dictionaries(
        st.text(alphabet="abc é-", min_size=1), st.text(alphabet="abcex: #é'\"no10.-~"), min_size=1
    )
)
@example({"a": "0o0"})
@example({"a": "1e3"})
@example({"a": "0x1f"})
def test_texts_come_back_from_yaml_as_they_went(value: dict[str, str]) -> None:
    assert parse_documents(dump(value).encode()) == [value]


@given(st.text(alphabet=st.sampled_from("ab:-[]{},&*!|>'\"#? \n\t0.<~"), max_size=60))
def test_no_text_brings_the_loader_down(text: str) -> None:
    for is_json in (False, True):
        for loaded in load_text(text.encode(), "x", is_json=is_json):
            assert loaded.error is not None


@given(plain)
def test_no_value_brings_the_loader_down(value: Any) -> None:
    for candidate in (value, {"kind": value}, {"kind": "Endophyte", "metadata": value, "spec": value}):
        assert load_object(candidate, "x").error is not None


def test_a_folder_is_read_by_name_and_everything_has_its_own_result(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(SEED + "---\nkind: Service\nmetadata: {name: s}\n")
    (tmp_path / "a.json").write_text(json.dumps(minimal()))
    (tmp_path / "c.yml").write_text("a: [")
    (tmp_path / "notes.txt").write_text("not a manifest")
    (tmp_path / ".hidden.yaml").write_text("a: [")
    labels = [(item.label, item.manifest is not None) for item in read_manifests((str(tmp_path),))]
    assert labels == [
        ("endophyte/a", True),
        ("endophyte/windows-desktop", True),
        ("service/s", False),
        (str(tmp_path / "c.yml"), False),
    ]


def test_standard_input_takes_both_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (
        SEED,
        json.dumps(yaml.safe_load(SEED)),
        json.dumps(minimal()) + "\n" + json.dumps(minimal()),
    ):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert all(item.manifest for item in read_manifests(("-",)))


@pytest.mark.parametrize("name", ["absent.yaml", "empty"])
def test_nothing_to_read_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError) as caught:
        read_manifests((str(tmp_path / name),))
    assert caught.value.code == "manifest-not-found"


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_bytes(b"a" * (MAX_BYTES + 1000))
    (loaded,) = read_manifests((str(tmp_path / "big.yaml"),))
    assert "larger" in str(loaded.error)


def test_addresses_that_a_guest_may_send_from_beside_its_own() -> None:
    def loaded(*prefixes: str) -> str:
        return json.dumps(minimal(networks=[{"allowedAddresses": prefixes}]))

    (one,) = load_text(loaded("192.0.2.0/24", "10.77.0.250").encode(), "f.yaml")
    assert one.manifest is not None
    assert list(map(str, one.manifest.spec.networks[0].allowed_addresses)) == [
        "192.0.2.0/24",
        "10.77.0.250/32",
    ]
    assert "allowedAddresses" in error_of(loaded("192.0.2.1/24"))  # bits of a host are set
    assert "allowedAddresses" in error_of(loaded("everything"))
    assert "allowedAddresses" in error_of(loaded("2001:db8::/32"))
    assert "at most 4" in error_of(loaded(*(f"192.0.{n}.0/24" for n in range(5))))


@pytest.mark.parametrize("value", [False, 0, 1.5, 167772161])
def test_an_address_is_text(value: object) -> None:
    """Python's `ipaddress` takes `false` for 0.0.0.0."""
    for port in ({"address": value}, {"allowedAddresses": [value]}):
        assert "write it as text" in error_of(json.dumps(minimal(networks=[port])))
