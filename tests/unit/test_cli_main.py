"""The entry point: start-up cost, help, exit codes, no tracebacks."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from vdc.api.context import put_context
from vdc.cli import main as entry
from vdc.cli.base import VdcCommand, VdcGroup
from vdc.cli.main import COMMANDS, cli, run
from vdc.model.errors import RefusedError

HEAVY = {"pydantic", "aiohttp", "rich", "yaml", "asyncio", "qemu", "pyroute2", "vdc.model.errors"}


@pytest.fixture(autouse=True)
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDC_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.delenv("VDC_CONTEXT", raising=False)


def vdc(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vdc.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload,no-any-return]


def all_commands() -> Iterator[tuple[str, click.Command]]:
    def walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield path, command
        if isinstance(command, click.Group):
            ctx = click.Context(command)
            for name in command.list_commands(ctx):
                found = command.get_command(ctx, name)
                assert found is not None
                yield from walk(f"{path} {name}", found)

    return walk("vdc", cli)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom vdc.cli.main import run\nassert run(['--help']) == 0\n"
        f"print(sorted(set(sys.modules) & {HEAVY!r}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "create" in done.stdout


def test_help_costs_little_cpu_time() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert vdc("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 0.3  # 0.15 is the budget on an idle machine; here only a heavy import must show


def test_the_overview_says_what_each_command_says_of_itself() -> None:
    for name, entry_ in COMMANDS.items():
        command = getattr(importlib.import_module(entry_.module), entry_.attribute)
        assert command.name == name
        assert command.get_short_help_str(200).split(";")[0].split(",")[0].rstrip(".")
        assert entry_.help.endswith(".")


@pytest.mark.parametrize(("path", "command"), list(all_commands()), ids=str)
def test_every_command_has_help_with_an_example(path: str, command: click.Command) -> None:
    assert isinstance(command, VdcCommand | VdcGroup)
    assert command.example, path
    assert all("vdc" in line for line in command.example.splitlines()), path
    text = command.get_help(click.Context(command, info_name=path))
    assert "Example:" in text and command.help


def test_examples_are_commands_that_exist() -> None:
    known = {path for path, _ in all_commands()}
    for path, command in all_commands():
        example = command.example.splitlines()[0]  # type: ignore[attr-defined]
        words = [word for word in example.split() if word.isalnum() or "-" in word]
        assert any(example.startswith(name) or name in example for name in known), (path, words)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["get"],
        ["get", "spaceships"],
        ["get", "nodes", "-o", "xml"],
        ["create", "UPPER"],
        ["create", "a", "--memory", "much"],
        ["create", "a", "--memory", "1MiB"],
        ["create", "a", "--cpus", "0"],
        ["create", "a", "--address", "10.0.0.256"],
        ["create", "a", "--image", "A B"],
        ["create", "a", "--template", "no"],
        ["apply"],
        ["apply", "-f", "/does/not/exist"],
        ["delete"],
        ["delete", "endophyte"],
        ["delete", "node", "h1"],
        ["promote", "replica", "--force"],
        ["lab", "fault", "slow", "h1"],
        ["lab", "up", "--hosts", "0"],
        ["image", "import", "docker-daemon:nginx"],
        ["image", "import", "/does/not/exist"],
        ["completion", "tcsh"],
        [],
    ],
)
def test_a_wrong_command_line_is_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") or not arguments
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "arguments",
    [["get", "nodes"], ["--context", "x", "get", "nodes"], ["get", "ep", "--context", "x"], ["create", "a"]],
)
def test_no_cluster_is_one_line_and_a_hint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: ") and lines[0].endswith(("(context-missing)", "(context-not-found)"))
    assert lines[1].startswith("hint: ") and "vdc lab up" in lines[1]


def test_an_unknown_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["creat"]) == 2
    assert "did you mean create?" in capsys.readouterr().err


def raising(error: BaseException) -> object:
    def command(*_: object, **__: object) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RefusedError("no\nroom", hint="grow", code="no-room"), 1, "error: no room (no-room)\nhint: grow\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: /x: Permission denied (os)\n"),
        (ZeroDivisionError("oops"), 1, "error: ZeroDivisionError: oops (internal)"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_whatever_a_command_raises_has_a_line_and_a_code(
    error: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(entry.cli, "main", raising(error))
    assert run(["get", "nodes"]) == code
    err = capsys.readouterr().err
    assert err.startswith(text) and "Traceback" not in err


def test_the_debug_switch_shows_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VDC_DEBUG", "1")
    monkeypatch.setattr(entry.cli, "main", raising(ZeroDivisionError()))
    assert run([]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "vdc.cli.main", "get", "templates"]
    with os.fdopen(write, "w") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_ends_a_command_that_waits_for_an_agent(tmp_path: Path) -> None:
    put_context("silent", [f"unix://{tmp_path}/api.sock"])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "api.sock"))
        listener.listen()
        command = [sys.executable, "-m", "vdc.cli.main", "get", "nodes"]
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A job in the background ignores SIGINT, and so would its children; Ctrl-C is for the foreground.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        ) as process:
            try:
                listener.settimeout(30)
                connection, _ = (
                    listener.accept()
                )  # the request is on its way: the command waits for the answer
                with connection:
                    process.send_signal(signal.SIGINT)
                    out, err = process.communicate(timeout=30)
            finally:
                process.kill()
    assert (process.returncode, out, err.strip()) == (130, "", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert f"_VDC_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_completion_knows_the_commands() -> None:
    environment = {**os.environ, "_VDC_COMPLETE": "bash_complete", "COMP_WORDS": "vdc cre", "COMP_CWORD": "1"}
    assert vdc(env=environment).stdout.strip().endswith("create")


def test_version_without_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version", "--client"]) == 0
    assert capsys.readouterr().out.startswith("vdc ")
    assert run(["version", "-o", "json"]) == 0
    assert '"agent": null' in capsys.readouterr().out
