"""YAML and JSON texts to plain values, strictly and within bounds. Pure.

Values are built from the parser's events without recursion: nesting, size and what aliases expand to are
bounded before anything large exists. Unlike a usual loader this one refuses duplicate keys, NaN and infinity,
and reads plain scalars by YAML 1.2's rules (`no` is a text, and `52:54:00:12:34:56` is not a number), but for one:
a number with a leading 0 is octal, as YAML 1.1 and whoever writes `defaultMode: 0644` for Kubernetes have it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 1024**2
MAX_DEPTH = 32
MAX_VALUES = 50_000  # in one text, each use of an alias counted with all that it stands for
_MAX_DIGITS = 40

_HALF = re.compile(r"[\ud800-\udfff]")
_NULL = re.compile(r"|~|null|Null|NULL")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_OLD_OCTAL = re.compile(r"[-+]?0[0-9]+")  # to YAML 1.2 a decimal number
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_ENDS_LINE = re.compile("[\x85\u2028\u2029]")  # to YAML 1.1
_STR_TAG = "tag:yaml.org,2002:str"
_MAP_TAG, _SEQ_TAG = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"
_MERGE = "<<"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class StrictError(ValueError):
    """The text is refused; `line` counts from 1, 0 where it is not known."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {reason}" if line else reason)
        self.reason, self.line = reason, line


@dataclass(slots=True)
class _Open:
    """A mapping or sequence that is being filled."""

    value: dict[str, Any] | list[Any]
    anchor: str | None
    key: str | None = None
    count: int = 1  # values in it, itself included
    merges: list[dict[str, Any]] = field(default_factory=list)


def parse_documents(text: bytes, *, is_json: bool = False) -> list[Any]:
    """Every document of a text; empty ones are left out. Raises `StrictError`."""
    decoded = _decoded(text)
    if is_json:
        return list(_json_documents(decoded))
    try:
        return [document for document in _Builder(decoded).documents() if document is not None]
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark
        raise StrictError(error.problem or "it is not YAML", mark.line + 1 if mark else 0) from error
    except yaml.YAMLError as error:
        raise StrictError(" ".join(str(error).split())[:160]) from error


def parse_json(text: bytes, *, max_values: int = MAX_VALUES) -> Any:
    """The one value of a JSON text; None where there is none. Raises `StrictError`."""
    documents = list(_json_documents(_decoded(text), max_values))
    if len(documents) > 1:
        raise StrictError("it has more than one value")
    return documents[0] if documents else None


def _decoded(text: bytes) -> str:
    if len(text) > MAX_BYTES:
        raise StrictError(f"it is larger than {MAX_BYTES // 1024} KiB")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StrictError("it is not UTF-8 text") from error


class _Builder:
    """Turns parser events into values."""

    def __init__(self, text: str) -> None:
        self._events = yaml.parse(text, Loader=_LOADER)
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._count = 0
        self._document: Any = None

    def documents(self) -> Iterator[Any]:
        for event in self._events:
            mark: Any = event.start_mark
            self._take(event, mark.line + 1)
            if isinstance(event, yaml.DocumentEndEvent):
                yield self._document
                self._document = None
                self._anchors.clear()

    def _take(self, event: Any, line: int) -> None:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise StrictError(f"alias *{event.anchor} stands for nothing that is complete", line)
            self._put(*self._anchors[event.anchor], line)
        elif isinstance(event, yaml.ScalarEvent):
            value = _scalar(event, line, is_key=self._awaits_key())
            if event.anchor:
                self._anchors[event.anchor] = (value, 1)
            self._put(value, 1, line)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close(line)

    def _open(self, event: Any, line: int) -> None:
        if event.tag not in (None, "!", _MAP_TAG, _SEQ_TAG):
            raise StrictError(f"tag {event.tag[:40]} is not known", line)
        if self._awaits_key():
            raise StrictError("a key has to be a text", line)
        if len(self._stack) >= MAX_DEPTH:
            raise StrictError(f"it is nested deeper than {MAX_DEPTH} levels", line)
        is_map = isinstance(event, yaml.MappingStartEvent)
        if event.anchor:
            self._anchors.pop(event.anchor, None)
        self._stack.append(_Open({} if is_map else [], event.anchor))

    def _close(self, line: int) -> None:
        done = self._stack.pop()
        for merged in done.merges:
            assert isinstance(done.value, dict)
            for key, value in merged.items():
                done.value.setdefault(key, value)
        if done.anchor:
            self._anchors[done.anchor] = (done.value, done.count)
        self._put(done.value, done.count, line)

    def _awaits_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None

    def _put(self, value: Any, count: int, line: int) -> None:
        if not self._stack:
            self._count += count
            if self._count > MAX_VALUES:
                raise StrictError(f"it has more than {MAX_VALUES} values", line)
            self._document = value
            return
        top = self._stack[-1]
        top.count += count
        if top.count > MAX_VALUES:
            raise StrictError(f"it has more than {MAX_VALUES} values, aliases counted", line)
        if isinstance(top.value, list):
            top.value.append(value)
        elif top.key is None:
            if not isinstance(value, str):
                raise StrictError(f"key {str(value)[:40]!r} has to be a text: put it in quotes", line)
            if value in top.value:
                raise StrictError(f"key {value[:80]!r} is given twice", line)
            top.key = value
        else:
            _set(top, value, line)


def _set(top: _Open, value: Any, line: int) -> None:
    assert isinstance(top.value, dict) and top.key is not None
    key, top.key = top.key, None
    if key != _MERGE:
        top.value[key] = value
        return
    merged = value if isinstance(value, list) else [value]
    if not all(isinstance(one, dict) for one in merged):
        raise StrictError("<< takes a mapping", line)
    top.merges += merged


def _scalar(event: Any, line: int, *, is_key: bool) -> Any:
    text: str = event.value
    if event.tag not in (None, "!", _STR_TAG) and not event.implicit[0]:
        raise StrictError(f"tag {event.tag[:40]} is not known", line)
    if not event.implicit[0] or event.tag in ("!", _STR_TAG) or (is_key and text == _MERGE):
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text[0] in "tT"
    if _NOT_FINITE.fullmatch(text):
        raise StrictError(f"{text} is not a number that means anything here", line)
    if _INT.fullmatch(text):
        if len(text) > _MAX_DIGITS:
            raise StrictError("a number has too many digits", line)
        if _OLD_OCTAL.fullmatch(text):
            return _octal(text, line)
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return _finite(text, line)
    return text


def _octal(text: str, line: int) -> int:
    try:
        return int(text, 8)
    except ValueError as error:
        raise StrictError(
            f"{text} begins with 0 like an octal number and is none: put it in quotes", line
        ) from error


def _finite(text: str, line: int = 0) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise StrictError(f"{text[:40]} is too large", line)
    return value


def _json_documents(text: str, max_values: int = MAX_VALUES) -> Iterator[Any]:
    decoder = json.JSONDecoder(
        object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_bounded_int
    )
    place = _skip_space(text, 0)
    while place < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise StrictError(f"it is not JSON: {error.msg}", error.lineno) from error
        except RecursionError as error:
            raise StrictError(f"it is nested deeper than {MAX_DEPTH} levels") from error
        _check_size(value, max_values)
        if value is not None:
            yield value
        place = _skip_space(text, place)


def _skip_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise StrictError(f"key {twice[:80]!r} is given twice")
    return result


def _no_constant(text: str) -> Any:
    raise StrictError(f"{text} is not a number that means anything here")


def _bounded_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise StrictError("a number has too many digits")
    return int(text)


def _check_size(value: Any, max_values: int) -> None:
    level, seen = [value], 0
    for depth in range(MAX_DEPTH + 2):
        seen += len(level)
        if seen > max_values:
            raise StrictError(f"it has more than {max_values} values")
        containers = [item for item in level if isinstance(item, dict | list)]
        keys = (key for item in containers if isinstance(item, dict) for key in item)
        if any(isinstance(text, str) and _HALF.search(text) for text in (*level, *keys)):
            raise StrictError("it has half of a surrogate pair, which no text has")
        if not containers:
            return
        if depth >= MAX_DEPTH:
            raise StrictError(f"it is nested deeper than {MAX_DEPTH} levels")
        level = [
            inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)
        ]


class _Dumper(yaml.SafeDumper):
    """Quotes texts that this loader (YAML 1.2) reads as something else, though PyYAML (1.1) does not: 0o7, 1e3.

    Texts of several lines (certificates) are blocks, which people can read and copy.
    """


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    others = (_NULL, _BOOL, _NOT_FINITE, _INT, _FLOAT)
    style = "'" if any(pattern.fullmatch(text) for pattern in others) else "|" if "\n" in text else None
    if _ENDS_LINE.search(text):
        style = '"'  # escaped there; PyYAML would write them as they are, and read them as a space
    return dumper.represent_scalar(_STR_TAG, text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump(values: Any) -> str:
    """Plain values as a YAML document that `parse_documents` reads as they were."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)
