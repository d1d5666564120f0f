"""One program in the sandbox of `vdc.images.tool`, as root and as somebody else: what it sees, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from import_support import as_nobody

from vdc.confinement.limits import ToolLimits
from vdc.confinement.sandbox import Bind
from vdc.images import tool as module
from vdc.images.scratch import Scratch, open_result
from vdc.images.tool import SCRATCH, TOOL_UID, Tool, ToolFailedError, run_tool, stream_tool
from vdc.model.errors import InvalidError, RefusedError
from vdc.model.units import GIB, MIB

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bwrap: make packages")
LIMITS = ToolLimits(memory_bytes=2 * GIB, file_bytes=16 * MIB, processor_s=20)


def shell(script: str, *, deadline_s: float = 20, limits: ToolLimits = LIMITS, **options: object) -> Tool:
    return Tool(("sh", "-c", script), limits, deadline_s, **options)  # type: ignore[arg-type]


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    with Scratch(below=tmp_path) as made:
        yield made


def test_it_sees_its_input_and_its_scratch_folder_and_nothing_else(scratch: Scratch, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_text("content")
    given.chmod(0o600)  # its owner's alone, who is not the program's user
    script = (
        "cat /run/input; pwd; id -u; echo x >made; ls -d /etc/shadow /root /home /run/input; "
        "(echo y >>/run/input) 2>&1; ls /proc | grep -c '^[0-9]'; ls /sys/class/net 2>&1"
    )
    with pytest.raises(ToolFailedError):
        run_tool(shell(script + "; false", scratch=scratch.folder))
    out = run_tool(
        shell(script + "; true", scratch=scratch.folder, binds=(Bind(given, "/run/input"),))
    ).decode()
    uid = TOOL_UID if os.geteuid() == 0 else os.geteuid()
    assert out.startswith(f"content{SCRATCH}\n{uid}\n")
    assert "/etc/shadow" not in out.splitlines() and "/run/input" in out.splitlines()
    assert "cannot create /run/input" in out
    assert given.read_text() == "content"
    assert scratch.take("made").read_text() == "x\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
def test_it_runs_for_who_is_not_root(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(folder.stat().st_mode | 0o005)
    tmp_path.chmod(0o777)

    def work() -> str:
        heard = bytearray()
        with Scratch(below=tmp_path) as scratch:
            tool = shell("id -u; echo x >made; cat /etc/shadow", scratch=scratch.folder)
            try:
                run_tool(tool, on_output=heard.extend)
            except ToolFailedError as error:
                return f"{heard.decode()}{error} {[path.name for path in scratch.folder.iterdir()]}"
        return "it was let"

    said = as_nobody(work)
    assert said.startswith("65534\nsh: cat: /etc/shadow: ") and said.endswith("['made']")
    assert not list(tmp_path.glob("vdc-scratch-*"))


def test_it_is_fed_and_heard(scratch: Scratch) -> None:
    pieces = (b"x" * 100_000 for _ in range(100))
    assert run_tool(shell("wc -c"), stdin=pieces).strip() == b"10000000"
    assert run_tool(shell("exec <&-; echo done"), stdin=(b"x" * MIB for _ in range(50))) == b"done\n"
    assert run_tool(shell("cat"), stdin=b"text") == b"text"
    (scratch.folder / "file").write_bytes(b"from a file")
    with (scratch.folder / "file").open("rb") as file:
        assert run_tool(shell("cat"), stdin=file) == b"from a file"
    lines: list[str] = []
    run_tool(shell("printf '(1/100)\\r(2/100)\\r'; printf 'oh\\nno' >&2"), on_line=lines.append)
    assert sorted(lines) == ["(1/100)", "(2/100)", "no", "oh"]
    got = bytearray()
    assert run_tool(shell("head -c 40000000 /dev/zero"), on_output=got.extend) == b""
    assert len(got) == 40_000_000
    assert len(run_tool(shell("head -c 20000000 /dev/zero"))) == 16 * MIB


def test_what_goes_wrong_is_said_in_one_line(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToolFailedError) as caught:
        run_tool(shell("echo first >&2; printf 'the \\033[31mlast\\n\\n' >&2; exit 3"))
    assert (str(caught.value), caught.value.status) == ("sh: the ?[31mlast", 3)
    assert caught.value.code == "image-tool-failed"
    with pytest.raises(ToolFailedError, match="status 3"):
        run_tool(shell("exit 3"))
    with pytest.raises(ToolFailedError, match=r"did not end within 0.3 s"):
        run_tool(shell("sleep 60", deadline_s=0.3))
    with pytest.raises(RefusedError) as full:
        run_tool(shell("echo 'x: No space left on device' >&2; exit 1"))
    assert full.value.code == "no-space"
    with pytest.raises(RefusedError) as missing:
        run_tool(Tool(("no-such-program",), LIMITS, 1))
    assert missing.value.code == "image-tool-missing" and "no-such-program" in missing.value.problem.hint
    with pytest.raises(RefusedError, match="sandbox for sh cannot be made: bwrap: ") as unmade:
        run_tool(shell("true", binds=(Bind(Path("/nowhere"), "/run/input"),)))
    assert not isinstance(unmade.value, ToolFailedError) and unmade.value.code == "image-tool-failed"
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(RefusedError) as without:
        run_tool(shell("true"))
    assert "install bubblewrap" in without.value.problem.hint


def test_limits_are_the_kernel_s(scratch: Scratch) -> None:
    small = ToolLimits(memory_bytes=2 * GIB, file_bytes=MIB, processor_s=1)
    with pytest.raises(ToolFailedError, match="File size limit exceeded"):
        run_tool(shell("head -c 2000000 /dev/zero >big", limits=small, scratch=scratch.folder))
    assert (scratch.folder / "big").stat().st_size == MIB
    began = time.monotonic()
    with pytest.raises(ToolFailedError):
        run_tool(shell("while :; do :; done", limits=small))
    assert time.monotonic() - began < 15


def carriers(mark: str) -> list[str]:
    return [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if mark.encode() in _read(path) and path.parent.name != str(os.getpid())
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def gone(mark: str) -> bool:
    end = time.monotonic() + 10
    while carriers(mark) and time.monotonic() < end:
        time.sleep(0.02)
    return not carriers(mark)


@pytest.mark.parametrize("how", ["cancelled", "callback", "interrupt"])
def test_nothing_runs_on_when_it_is_called_off(how: str) -> None:
    mark = f"mark-{os.getpid()}-{how}"
    tool = shell(f"echo began; sleep 61 & sleep 62; : {mark}", deadline_s=60)
    began = threading.Event()

    def fail(_: bytes) -> None:
        began.set()
        if how == "callback":
            raise KeyError("callback")
        if how == "interrupt":
            signal.raise_signal(signal.SIGINT)

    expected = {"cancelled": RefusedError, "callback": KeyError, "interrupt": KeyboardInterrupt}[how]
    with pytest.raises(expected) as caught:
        run_tool(tool, on_output=fail, is_cancelled=lambda: how == "cancelled" and began.is_set())
    assert how != "cancelled" or caught.value.code == "cancelled"  # type: ignore[attr-defined]
    assert not carriers(mark)


def test_nothing_runs_on_when_we_are_killed(tmp_path: Path) -> None:
    mark = f"mark-{os.getpid()}-killed"
    code = (
        "from pathlib import Path; from vdc.confinement.limits import ToolLimits\n"
        "from vdc.images.scratch import Scratch; from vdc.images.tool import Tool, run_tool\n"
        f"with Scratch(below=Path({str(tmp_path)!r})) as scratch:\n"
        f"    run_tool(Tool(('sh', '-c', 'echo began; sleep 61; : {mark}'), ToolLimits(1<<31, 0, 9), 60,"
        " scratch=scratch.folder), on_output=lambda text: print(text, flush=True))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.kill()
    assert b"began" in first
    assert gone(mark)
    assert len(list(tmp_path.glob("vdc-scratch-*"))) == 1
    with Scratch(below=tmp_path):  # who comes next, tidies up
        assert len(list(tmp_path.glob("vdc-scratch-*"))) == 1
    assert not list(tmp_path.glob("vdc-scratch-*"))


def test_a_stream_is_read_like_a_file() -> None:
    with stream_tool(shell("head -c 3000000 /dev/zero")) as stream:
        assert len(stream.read()) == 3_000_000
    with stream_tool(shell("cat /dev/zero; : endless")) as stream:
        assert stream.read(5) == bytes(5)
    assert not carriers("endless")
    with (
        pytest.raises(ToolFailedError, match="broken"),
        stream_tool(shell("echo x; echo broken >&2; exit 1")) as s,
    ):
        assert s.read() == b"x\n"
    with pytest.raises(ToolFailedError, match="broken"), stream_tool(shell("echo broken >&2; exit 1")) as s:
        raise EOFError(s.read())  # as a reader of archives does
    with (
        pytest.raises(ToolFailedError, match="did not end"),
        stream_tool(shell("sleep 60", deadline_s=0.3)) as s,
    ):
        s.read()


def test_what_a_tool_left_is_opened_as_what_it_is_called(scratch: Scratch) -> None:
    run_tool(
        shell("ln -s /etc/shadow a; mkfifo b; mkdir c; echo x >d; ln d e; echo y >f", scratch=scratch.folder)
    )
    for name in "abc":
        with pytest.raises(InvalidError):
            open_result(scratch.folder / name)
    for name in "abcdez":
        with pytest.raises(InvalidError):
            scratch.take(name)
    with open_result(scratch.folder / "f") as file:
        assert file.read() == b"y\n"
    taken = scratch.take("f")
    assert taken.read_text() == "y\n" and taken.stat().st_uid == os.geteuid()


def test_a_network_only_where_it_is_asked_for() -> None:
    names = "ls /sys/class/net /proc/net/dev >/dev/null; tail -n +3 /proc/net/dev | wc -l"
    assert int(run_tool(shell(names))) == 1
    there = run_tool(
        shell("ls /etc; cat /etc/resolv.conf | wc -c", has_network=True, env={"A": "b"})
    ).decode()
    assert "hosts" in there and "shadow" not in there
