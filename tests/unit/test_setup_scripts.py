"""The scripts of `make setup` and the demo guest's store, as far as they run without a network or a guest."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "images"
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))

DEB822 = """\
# a comment, and a disabled archive
Types: deb
URIs: http://disabled.example.org/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb
URIs: http://security.example.org/debian-security
Suites: bookworm-security
Components: main

Types: deb deb-src
URIs: http://vendor.example.org/apt
Suites: bookworm
Components: main

Types: deb
URIs: http://mirror.example.org/debian
Suites: bookworm
 bookworm-updates
Components: main
"""
CLASSIC = """\
deb [arch=amd64] http://vendor.example.org/apt bookworm main
deb http://security.example.org/debian-security bookworm-security main
# deb http://disabled.example.org/debian bookworm main
deb http://mirror.example.org/debian bookworm main contrib
"""
ARCHIVES = {  # list file of apt -> origin, label, codename, as the archive's Release file says
    "mirror.example.org_debian_dists_bookworm": ("Debian", "Debian", "bookworm"),
    "mirror.example.org_debian_dists_bookworm-updates": ("Debian", "Debian", "bookworm-updates"),
    "disabled.example.org_debian_dists_bookworm": ("Debian", "Debian", "bookworm"),
    "security.example.org_debian-security_dists_bookworm-security": (
        "Debian",
        "Debian-Security",
        "bookworm-security",
    ),
    "vendor.example.org_apt_dists_bookworm": ("Vendor", "Vendor", "bookworm"),
}


def bash(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script that may use the functions of images/lib."""
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    prelude = f"set -euo pipefail; . {IMAGES}/lib/common.sh; . {IMAGES}/lib/debian.sh\n"
    return subprocess.run(
        ["bash", "-c", prelude + script],
        env={"PATH": path, **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def apt_config(tmp_path: Path) -> Path:
    """An apt configuration of its own, with archives that were fetched before."""
    lists = tmp_path / "lists"
    (tmp_path / "parts").mkdir()
    (lists / "partial").mkdir(parents=True)
    for name, (origin, label, codename) in ARCHIVES.items():
        (lists / f"{name}_Release").write_text(
            f"Origin: {origin}\nLabel: {label}\nCodename: {codename}\n"
            "Components: main\nArchitectures: amd64\n"
        )
        (lists / f"{name}_main_binary-amd64_Packages").touch()
    config = tmp_path / "apt.conf"
    config.write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "{tmp_path}/parts";\n'
        f'Dir::State::lists "{lists}";\n'
    )
    return config


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt on this machine")
class TestMirror:
    """Which archive the recipes unpack Debian from."""

    def test_in_deb822_form(self, apt_config: Path) -> None:
        (apt_config.parent / "parts" / "debian.sources").write_text(DEB822)
        found = bash("require_debian_mirror", APT_CONFIG=str(apt_config))
        assert found.stdout == "http://mirror.example.org/debian/\n", found.stderr

    def test_in_one_line_form(self, apt_config: Path) -> None:
        (apt_config.parent / "sources.list").write_text(CLASSIC)
        found = bash("require_debian_mirror", APT_CONFIG=str(apt_config))
        assert found.stdout == "http://mirror.example.org/debian/\n", found.stderr

    def test_none_is_one_line_with_a_hint(self, apt_config: Path) -> None:
        found = bash("require_debian_mirror", APT_CONFIG=str(apt_config))
        assert found.returncode == 1
        assert found.stderr.startswith("error: apt knows no Debian archive; add one")
        assert found.stderr.count("\n") == 1

    def test_proxy_is_handed_on(self, apt_config: Path) -> None:
        apt_config.write_text(
            apt_config.read_text() + 'Acquire::http::Proxy "http://proxy.example.org:3128";\n'
        )
        found = bash("proxy_options", APT_CONFIG=str(apt_config))
        assert 'Acquire::http::Proxy "http://proxy.example.org:3128";' in found.stdout.splitlines()


class TestArtefacts:
    """Versions and publication of what the recipes make."""

    def test_version_follows_content_and_name_but_not_place(self, tmp_path: Path) -> None:
        for folder, text in (("a", "same"), ("b", "same"), ("c", "other")):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "recipe").write_text(text)
        digests = bash(f"for d in a b c; do digest_of {tmp_path}/$d/recipe; done").stdout.split()
        assert digests[0] == digests[1] != digests[2]
        assert all(re.fullmatch("[0-9a-f]{12}", digest) for digest in digests)

    def test_publishing_replaces_the_link_and_keeps_the_older_version(self, tmp_path: Path) -> None:
        script = """
            for version in v1 v2; do
                mkdir -p "$VDC_CACHE_DIR/k/.build"
                echo "$version" >"$VDC_CACHE_DIR/k/.build/f"
                publish k "$version" "$VDC_CACHE_DIR/k/.build"
            done
            is_current k v2 && ! is_current k v1
        """
        done = bash(script, VDC_CACHE_DIR=str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "k" / "current" / "f").read_text() == "v2\n"
        assert sorted(path.name for path in (tmp_path / "k").iterdir()) == ["current", "v1", "v2"]

    def test_existing_version_is_not_built_again(self, tmp_path: Path) -> None:
        script = """
            require_root() { :; }
            build() { echo "building $1"; mkdir "$2/done"; publish k "$1" "$2/done"; }
            for version in v1 v1 v2 v1; do (ensure_artefact k "$version" thing build); done
            ls -A "$VDC_CACHE_DIR/k" | sort
        """
        done = bash(script, VDC_CACHE_DIR=str(tmp_path))
        assert done.stdout.splitlines() == [
            "building v1",
            "==> thing: up to date (v1)",
            "building v2",
            "==> thing: built before (v1)",
            ".lock",
            "current",
            "v1",
            "v2",
        ]

    def test_failed_build_leaves_the_current_version(self, tmp_path: Path) -> None:
        script = """
            require_root() { :; }
            build() { touch "$2/half"; [[ $1 != bad ]]; mkdir "$2/done"; publish k "$1" "$2/done"; }
            (ensure_artefact k good thing build)
            set +e
            (set -e; ensure_artefact k bad thing build); echo "$?"; readlink "$VDC_CACHE_DIR/k/current"
            ls "$VDC_CACHE_DIR/k"
        """
        done = bash(script, VDC_CACHE_DIR=str(tmp_path))
        assert done.stdout.split() == ["1", "good", "current", "good"]

    def test_failure_of_a_long_command_is_one_line_with_its_last_complaint(self, tmp_path: Path) -> None:
        work = "work() { echo noise; echo 'E: disk full'; false; echo unreachable; }"
        done = bash(f"{work}; run_quietly job 'make room' work", VDC_CACHE_DIR=str(tmp_path))
        log = tmp_path / "log" / "job.log"
        assert done.returncode == 1
        assert done.stderr == f"error: job failed: E: disk full; make room (its output is in {log})\n"
        assert log.read_text() == "noise\nE: disk full\n"


def locked(path: Path) -> dict[str, str]:
    """Name -> version of a lock file."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", path.read_text(), flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


class TestRequirements:
    """The locks are complete, hashed, and say nothing about where packages come from."""

    @pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
    def test_lock_names_no_place(self, path: Path) -> None:
        text = path.read_text()
        assert "://" not in text
        assert not re.search(r"^\s*(--(index|extra|find|trusted)\S*|-i |-f )", text, flags=re.MULTILINE)

    @pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
    def test_every_pin_has_a_hash(self, path: Path) -> None:
        pins = re.findall(r"^\S+==(?:.*\\\n)+.*", path.read_text(), flags=re.MULTILINE)
        assert len(pins) == len(locked(path)) > 0
        assert all("--hash=sha256:" in pin for pin in pins)

    @pytest.mark.parametrize(
        ("lock", "extra"), [("base", None), ("dev", None), ("dev", "dev"), ("libvirt", "libvirt")]
    )
    def test_lock_satisfies_pyproject(self, lock: str, extra: str | None) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        wanted = project["optional-dependencies"][extra] if extra else project["dependencies"]
        pins = locked(ROOT / "requirements" / f"{lock}.txt")
        pinned = {r: pins.get(canonicalize_name(r.name)) for r in map(Requirement, wanted)}
        stale = [str(r) for r, version in pinned.items() if version is None or version not in r.specifier]
        assert stale == [], "run make lock"

    def test_development_uses_what_is_deployed(self) -> None:
        base, dev = (locked(ROOT / "requirements" / f"{name}.txt") for name in ("base", "dev"))
        assert base.items() <= dev.items()


def test_no_recipe_names_an_address() -> None:
    texts = {path: path.read_text() for path in IMAGES.rglob("*") if path.is_file()}
    assert [path.name for path, text in texts.items() if re.search(r"\b(https?|ftp)://", text)] == []


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo guest's store, compiled for this machine."""
    if shutil.which("gcc") is None:
        pytest.skip("no compiler on this machine")
    program = tmp_path_factory.mktemp("store") / "store"
    sources = [IMAGES / "mini" / name for name in ("src/store.c", "src/loop.c", "test/store_harness.c")]
    subprocess.run(["gcc", "-std=c17", "-Wall", "-Wextra", "-Werror", "-o", program, *sources], check=True)
    return program


def ask(store: Path, log: Path, *requests: str) -> list[str]:
    """What the store on this log answers, and before that says about the log."""
    text = "".join(f"{request}\n" for request in requests)
    return subprocess.run(
        [store, log], input=text, capture_output=True, text=True, check=True
    ).stdout.splitlines()


class TestStore:
    """The durable store of the demo guest, run on the host."""

    def test_put_is_idempotent_and_refuses_another_text(self, store: Path, tmp_path: Path) -> None:
        requests = ["PUT 7 a b", "PUT 7 a b", "PUT 7 c", "GET 7", "GET 8", "COUNT"]
        replies = ["OK 7", "OK 7", "ERR 7 conflict", "VALUE 7 a b", "NONE 8", "COUNT 1"]
        assert ask(store, tmp_path / "log", *requests) == replies

    @pytest.mark.parametrize(
        "request_line", ["", "PUT", "PUT 1", "PUT x y", "GET 1 2", "GET -1", "PUT 9999999999999999999 x"]
    )
    def test_bad_request_is_an_error_and_changes_nothing(
        self, store: Path, tmp_path: Path, request_line: str
    ) -> None:
        reply, count = ask(store, tmp_path / "log", request_line, "COUNT")
        assert reply.startswith("ERR ")
        assert count == "COUNT 0"

    def test_many_records_outlive_a_restart(self, store: Path, tmp_path: Path) -> None:
        numbers = range(0, 3000 * 1024, 1024)  # equal low bits: the index has to spread them
        ask(store, tmp_path / "log", *(f"PUT {n} text {n}" for n in numbers))
        replies = ask(store, tmp_path / "log", "COUNT", *(f"GET {n}" for n in numbers))
        assert replies == ["COUNT 3000", *(f"VALUE {n} text {n}" for n in numbers)]

    def test_log_cut_anywhere_keeps_exactly_its_whole_records(self, store: Path, tmp_path: Path) -> None:
        log = tmp_path / "log"
        ask(store, log, "PUT 1 first", "PUT 2 second")
        whole = log.read_bytes()
        first_end = whole.index(b"\n") + 1
        for size in range(first_end, len(whole)):
            log.write_bytes(whole[:size])
            *said, count, value = ask(store, log, "COUNT", "GET 1")
            assert (count, value) == ("COUNT 1", "VALUE 1 first")
            assert said == (
                [f"mini: store: {size - first_end} torn bytes dropped"] if size > first_end else []
            )
            assert log.read_bytes() == whole[:first_end]

    def test_changed_byte_ends_the_log_before_it(self, store: Path, tmp_path: Path) -> None:
        log = tmp_path / "log"
        ask(store, log, "PUT 1 first", "PUT 2 second", "PUT 3 third")
        log.write_bytes(log.read_bytes().replace(b"second", b"sEcond"))
        assert ask(store, log, "COUNT", "GET 1", "PUT 2 again")[1:] == ["COUNT 1", "VALUE 1 first", "OK 2"]
