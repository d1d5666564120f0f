"""Layers over layers: what the image-spec says, case by case, and against a slow model of it."""

from __future__ import annotations

import tarfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oci_support import listing, merged, paths

from tests.oci_layout import entry, folder, link, tar_of
from vdc.images.filetree import Kind
from vdc.images.oci import merge
from vdc.images.oci.importing import add_mount_points
from vdc.images.oci.window import LayerError

LOWER = tar_of(
    folder("d"),
    entry("d/a", b"1"),
    entry("d/b", b"2"),
    folder("d/e"),
    entry("d/e/f", b"3"),
    entry("top", b"4"),
)


def test_a_layer_lies_over_the_other() -> None:
    upper = tar_of(entry("d/a", b"new"), folder("d", mode=0o700, uid=9), entry("d/c"))
    assert listing(LOWER, upper) == {
        "d": None, "d/a": b"new", "d/b": b"2", "d/c": b"", "d/e": None, "d/e/f": b"3", "top": b"4",
    }  # fmt: skip
    found = merged(LOWER, upper).children[b"d"]
    assert (found.permissions, found.uid) == (0o700, 9)


@pytest.mark.parametrize(
    ("upper", "gone"),
    [
        (tar_of(entry("d/.wh.a")), {"d/a"}),
        (tar_of(entry("./d/.wh.e")), {"d/e", "d/e/f"}),
        (tar_of(entry(".wh.d")), {"d", "d/a", "d/b", "d/e", "d/e/f"}),
        (tar_of(entry("d/.wh..wh..opq")), {"d/a", "d/b", "d/e", "d/e/f"}),
        (tar_of(entry("d/.wh.nothing"), entry("nowhere/.wh.x"), entry("top/.wh.x")), set()),
        (tar_of(entry(".wh..wh.plnk", b"x"), folder("d/.wh..wh.aufs"), entry("d/.wh..wh.aufs/x")), set()),
    ],
)
def test_whiteouts(upper: bytes, gone: set[str]) -> None:
    lower = listing(LOWER)
    assert listing(LOWER, upper) == {path: what for path, what in lower.items() if path not in gone}


@pytest.mark.parametrize(
    "upper",
    [
        tar_of(*(entry(f"{'x/' * 50}{n}/f") for n in range(30))),
        tar_of(*(entry(f"w/{n}") for n in range(40)), *(entry("w/.wh..wh..opq") for _ in range(40))),
        tar_of(link("l", "d/../" * 30), *(entry(f"{'l/' * 9}d{n}/f") for n in range(4))),
    ],
    ids=["deep", "opaque", "links"],
)
def test_layers_that_take_for_ever_are_given_up(upper: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert listing(LOWER, upper)
    monkeypatch.setattr(merge, "MAX_STEPS", 1000)
    assert listing(LOWER, LOWER)
    with pytest.raises(LayerError, match="too long"):
        listing(LOWER, upper)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_whiteout_spares_its_own_layer(is_first: bool) -> None:
    """Whichever of them comes first in the archive."""
    own = [folder("d"), entry("d/a", b"own"), folder("d/e"), entry("d/e/g", b"own")]
    marks = [entry("d/.wh..wh..opq"), entry("d/.wh.a"), entry("d/.wh.e")]
    upper = tar_of(*(marks + own if is_first else own + marks))
    assert listing(LOWER, upper) == {"d": None, "d/a": b"own", "d/e": None, "d/e/g": b"own", "top": b"4"}


def test_a_folder_that_goes_keeps_what_its_own_layer_put_there() -> None:
    assert listing(LOWER, tar_of(entry("d/e/new", b"n"), entry(".wh.d"))) == {
        "d": None, "d/e": None, "d/e/new": b"n", "top": b"4",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("upper", "there"),
    [
        (tar_of(entry("d", b"file")), {"d": b"file", "top": b"4"}),
        (tar_of(link("d", "/x")), {"d": "-> /x", "top": b"4"}),
        (tar_of(entry("d", kind=tarfile.FIFOTYPE)), {"d": "FIFO", "top": b"4"}),
        (tar_of(folder("top")), {"top": None, **{k: v for k, v in listing(LOWER).items() if k != "top"}}),
        (tar_of(entry("d", b"x"), folder("d"), entry("d/n")), {"d": None, "d/n": b"", "top": b"4"}),
        (tar_of(entry("top", b"1"), entry("top", b"2")), {**listing(LOWER), "top": b"2"}),
        (
            tar_of(entry("a/b/c/d", b"x")),
            {**listing(LOWER), "a": None, "a/b": None, "a/b/c": None, "a/b/c/d": b"x"},
        ),
    ],
)
def test_one_thing_instead_of_another(upper: bytes, there: dict[str, object]) -> None:
    assert listing(LOWER, upper) == there


def test_nothing_leads_out_of_the_root() -> None:
    layer = tar_of(
        entry("../../up", b"1"), entry("/absolute", b"2"), entry("a/../../b", b"3"), link("out", "../../../.."),
        entry("out/through", b"4"), link("far", "/etc"), entry("far/x", b"5"), link("rel", "./sub/../etc"),
        entry("rel/y", b"6"), entry("out/../z", b"7"),
    )  # fmt: skip
    found = listing(layer)
    assert found == {
        "up": b"1", "absolute": b"2", "b": b"3", "out": "-> ../../../..", "through": b"4", "far": "-> /etc",
        "etc": None, "etc/x": b"5", "rel": "-> ./sub/../etc", "sub": None, "etc/y": b"6", "z": b"7",
    }  # fmt: skip


def test_links_of_the_layers_below_are_followed() -> None:
    """As on a merged /usr."""
    lower = tar_of(
        folder("usr"), folder("usr/lib"), link("lib", "usr/lib"), entry("usr/lib/old"), entry("usr/lib/gone")
    )
    upper = tar_of(entry("lib/new", b"x"), entry("lib/.wh.gone"), folder("lib/sub", mode=0o700))
    assert listing(lower, upper) == {
        "lib": "-> usr/lib", "usr": None, "usr/lib": None, "usr/lib/new": b"x", "usr/lib/old": b"", "usr/lib/sub": None,
    }  # fmt: skip
    last = tar_of(entry("x/1"), link("x", "y"), entry("x/2"))
    assert listing(last) == {"x": "-> y", "y": None, "y/2": b""}
    deep = tar_of(
        folder("a/b"), link("a/b/top", "/c"), entry("a/b/top/x"), link("a/b/up", "../c"), entry("a/b/up/x")
    )
    assert {"c/x", "a/c/x"} < listing(deep).keys() and "a/b/c" not in listing(deep)
    itself = tar_of(link("x", "."), folder("x/x"), entry("x/y"))
    assert listing(itself) == {"x": None, "x/y": b""}


def test_hard_links() -> None:
    lower = tar_of(
        entry("a", b"1"), link("b", "a", hard=True, mode=0o600), link("s", "a"), link("t", "s", hard=True)
    )
    root = merged(lower)
    assert root.children[b"a"] is root.children[b"b"] and root.children[b"a"].permissions == 0o644
    assert root.children[b"s"] is root.children[b"t"] and root.children[b"t"].kind is Kind.SYMLINK
    upper = tar_of(entry("a", b"2"), link("c", "./b", hard=True), link("d", "/a", hard=True), entry(".wh.b"))
    assert listing(lower, upper) == {"a": b"2", "c": b"1", "d": b"2", "s": "-> a", "t": "-> a"}
    root = merged(lower, upper)
    assert root.children[b"a"] is root.children[b"d"] and root.children[b"a"] is not root.children[b"c"]
    assert (
        listing(tar_of(folder("r"), entry("r/x", b"1"), link("l", "r"), link("h", "l/x", hard=True)))["h"]
        == b"1"
    )
    assert listing(tar_of(entry("a", b"1"), link("a", "a", hard=True))) == {"a": b"1"}


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (tar_of(link("a", "b", hard=True)), "target 'b' does not exist"),
        (tar_of(folder("b"), link("a", "b", hard=True)), "is a folder"),
        (tar_of(entry("a"), entry("a/b")), "below a file|no folder"),
        (tar_of(entry("a"), entry("a/b/c")), "no folder"),
        (tar_of(link("a", "b"), link("b", "a"), entry("a/x")), "too many symbolic links"),
        (tar_of(entry("n" * 256)), "longer than 255"),
        (tar_of(entry("n" * 256 + "/x")), "no folder"),
        (tar_of(entry(".wh.")), "removes nothing"),
        (tar_of(entry(".wh...")), "removes nothing"),
        (tar_of(entry("x/..", b"file")), "root folder"),
        (tar_of(link(".", "x")), "root folder"),
    ],
)
def test_what_makes_no_sense_is_refused(layer: bytes, reason: str) -> None:
    with pytest.raises(LayerError, match=reason) as caught:
        merged(tar_of(folder("q")), layer)
    assert str(caught.value).startswith("layer 2: ")
    assert "\n" not in str(caught.value)


def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "MAX_ENTRIES", 5)
    with pytest.raises(LayerError, match="more than 5 entries"):
        merged(LOWER)
    monkeypatch.setattr(merge, "MAX_ENTRIES", 100)
    monkeypatch.setattr(merge, "MAX_HELD_BYTES", 20)
    with pytest.raises(LayerError, match="too many"):
        merged(tar_of(link("s", "x" * 50)))


def test_names_of_any_kind() -> None:
    deep = "/".join("d" * 2 for _ in range(1300))
    odd = b"\xff\xfe \n\"'\\"
    root = merged(tar_of(entry(deep + "/x", b"1"), entry(odd, b"2"), pax=False))
    assert odd in root.children
    found = dict(paths(root))
    assert deep.encode() + b"/x" in found
    assert len(found) == 1302
    assert len(dict(paths(merged(tar_of(entry(deep + "/x")), tar_of(entry(".wh.dd")))))) == 0


def test_mount_points_are_added_where_nothing_is() -> None:
    root = merged(
        tar_of(link("tmp", "var/tmp"), folder("dev", mode=0o700), entry("dev/null", kind=tarfile.CHRTYPE))
    )
    add_mount_points(root)
    assert sorted(root.children) == [b"dev", b"proc", b"run", b"sys", b"tmp"]
    assert root.children[b"tmp"].kind is Kind.SYMLINK and root.children[b"dev"].permissions == 0o700
    assert root.children[b"sys"].permissions == 0o555


# A model: a dictionary of paths, changed entry by entry, without links. Slow, and easily seen to be right.

NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
STEP = st.one_of(
    st.tuples(st.just("file"), NAMES),
    st.tuples(st.just("folder"), NAMES),
    st.tuples(st.just("whiteout"), NAMES),
    st.tuples(st.just("opaque"), NAMES),
)


def _below(path: str, above: str) -> bool:
    return path.startswith(above + "/")


def _model(layers: list[list[tuple[str, str]]]) -> dict[str, tuple[str | None, int]] | None:
    """Content (None: a folder) and layer of each path; None where a file would have to be a folder."""
    world: dict[str, tuple[str | None, int]] = {}
    for number, steps in enumerate(layers):
        for index, (what, path) in enumerate(steps):
            if what in ("whiteout", "opaque"):
                mine = {one for one, (_, owner) in world.items() if owner == number}
                for one in list(world):
                    hit = _below(one, path) or (what == "whiteout" and one == path)
                    is_kept = one in mine or any(_below(other, one) for other in mine)
                    if hit and not is_kept:
                        del world[one]
                continue
            parts = path.split("/")
            for depth in range(1, len(parts)):
                above = "/".join(parts[:depth])
                if above not in world:
                    world[above] = (None, number)
                elif world[above][0] is not None:
                    return None
            is_file = what == "file"
            if path in world and (is_file or world[path][0] is not None):
                for one in [one for one in world if one == path or _below(one, path)]:
                    del world[one]
            world[path] = (f"{number}.{index}" if is_file else None, number)
    return world


@settings(max_examples=400, deadline=None)
@given(st.lists(st.lists(STEP, max_size=8), min_size=1, max_size=4))
def test_it_does_what_the_model_does(layers: list[list[tuple[str, str]]]) -> None:
    archives = []
    for number, steps in enumerate(layers):
        entries: list[Any] = []
        for index, (what, path) in enumerate(steps):
            parent, _, name = path.rpartition("/")
            prefix = parent + "/" if parent else ""
            made = {
                "file": lambda path=path, index=index, number=number: entry(
                    path, f"{number}.{index}".encode()
                ),
                "folder": lambda path=path: folder(path),
                "whiteout": lambda prefix=prefix, name=name: entry(f"{prefix}.wh.{name}"),
                "opaque": lambda path=path: entry(f"{path}/.wh..wh..opq"),
            }[what]
            entries.append(made())
        archives.append(tar_of(*entries))
    expected = _model(layers)
    if expected is None:
        with pytest.raises(LayerError):
            merged(*archives)
        return
    wanted = {path: None if content is None else content.encode() for path, (content, _) in expected.items()}
    assert listing(*archives) == wanted
