"""The documentation says what the program does: generated parts, commands, files and links that it shows."""

from __future__ import annotations

import ast
import configparser
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))

from hostagent.config import AgentConfig
from hostagent.main import main as hostagent_cli
from hostagent.supervisor import supervisor
from tests.docs.generate import MEANINGS, PARTS, ROOT, meaning_of, options, updated
from vdc.api.context import load_contexts
from vdc.api.endpoints import parse_endpoint
from vdc.cli.main import cli as vdc_cli
from vdc.model.explanations import EXPLANATIONS
from vdc.model.manifest import EndophyteManifest

PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
OURS = ("README.md", "docs/architecture.md", "docs/failover.md", "docs/operations.md", "docs/development.md")
OPERATIONS = ROOT / "docs/operations.md"
SERVICE = ROOT / "hostagent/systemd/vdc-hostagent.service"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PROGRAMS: dict[str, click.Command] = {"vdc": vdc_cli, "hostagent": hostagent_cli}
_TOP = ("vdc/", "hostagent/", "tests/", "docs/", "images/", "requirements/", "playbooks/", ".ci/")


def test_every_page_is_there() -> None:
    assert set(OURS) <= set(PAGES)


# ---- generated parts


@pytest.mark.parametrize("page", sorted({part.page for part in PARTS}))
def test_generated_parts_are_current(page: str) -> None:
    text = (ROOT / page).read_text()
    assert updated(page, text) == text, "run: .venv/bin/python -m tests.docs"


def test_a_stale_page_is_noticed() -> None:
    page = PARTS[0].page
    text = (ROOT / page).read_text()
    stale = text.replace("qemu_gone", "qemu_lost", 1)
    assert stale != text
    assert updated(page, stale) == text


def test_every_option_has_a_meaning_and_every_meaning_an_option() -> None:
    paths = [path for path, _, _ in options()]
    assert all(meaning_of(path) for path in paths)
    assert {key for key in MEANINGS if not key.startswith("*.")} <= set(paths)


# ---- commands


def blocks(page: str, *languages: str) -> Iterator[str]:
    for language, body in _FENCE.findall((ROOT / page).read_text()):
        if not languages or language in languages:
            yield body


def shown_commands(page: str) -> Iterator[tuple[str, bool]]:
    """(command line, whether it is complete); one that is mentioned in a sentence may lack its arguments."""
    for body in blocks(page, "", "sh", "console", "text"):
        for shown in body.splitlines():
            line = shown.strip().removeprefix("$ ").removeprefix("sudo ").removeprefix(".venv/bin/")
            is_drawing = re.search(r"[│─]", line)
            if line.split(" ", 1)[0] in _PROGRAMS and not is_drawing:
                yield line, True
    prose = _FENCE.sub("", (ROOT / page).read_text())
    for span in _SPAN.findall(prose):
        text = span.removeprefix("sudo ").removeprefix(".venv/bin/")
        if text.split(" ", 1)[0] in _PROGRAMS and " " in text:
            yield text, False


def parse(line: str, *, complete: bool) -> None:
    """Raises click.UsageError where the program would refuse the words; runs nothing."""
    words = shlex.split(re.split(r"\s[|<>&;]", line)[0], comments=True)
    command: click.Command = _PROGRAMS[words[0]]
    context = click.Context(command, info_name=words[0])
    words = words[1:]
    while isinstance(command, click.Group):
        _, words, _ = command.make_parser(context).parse_args(words)
        if not words:
            assert not complete, f"{line}: which command?"
            return
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"{line}: there is no command {words[0]}")
        command, context, words = found, click.Context(found, info_name=words[0], parent=context), words[1:]
    try:
        command.make_context(command.name, words, parent=context.parent)
    except click.MissingParameter:
        if complete:
            raise


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse(page: str) -> None:
    for line, complete in shown_commands(page):
        try:
            parse(line, complete=complete)
        except click.UsageError as error:
            pytest.fail(f"{page}: {line}: {error.format_message()}")


@pytest.mark.parametrize(
    "line",
    [
        "vdc frobnicate",
        "vdc get",
        "vdc lab up --host 3",
        "vdc create Web_1",
        "hostagent run --conf x",
        "vdc lab",
    ],
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        parse(line, complete=True)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = (ROOT / page).read_text()
        shown = set(re.findall(r"`make ([a-z-]+)`", text))
        shown |= {found for body in blocks(page) for found in re.findall(r"^\$? ?make ([a-z-]+)", body, re.M)}
        assert shown <= targets, page


# ---- files and links


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    for target in _LINK.findall(_FENCE.sub("", (ROOT / page).read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{page}: {target}"


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    for span in _SPAN.findall(_FENCE.sub("", (ROOT / page).read_text())):
        if span.startswith(_TOP) and re.fullmatch(r"[\w./*-]+", span):
            assert any(ROOT.glob(span.rstrip("/"))), f"{page}: {span}"


@pytest.mark.parametrize("page", PAGES)
def test_nothing_of_the_machine_that_it_was_written_on(page: str) -> None:
    assert str(ROOT) not in (ROOT / page).read_text()


# ---- examples


def yaml_examples() -> list[dict[str, Any]]:
    return [yaml.safe_load(body) for body in blocks("docs/operations.md", "yaml")]


def test_the_example_configurations_are_valid_together() -> None:
    examples = [example for example in yaml_examples() if "host" in example]
    (witness,) = [example for example in examples if example.get("witness")]
    assert not AgentConfig.model_validate(witness).has_replication
    first, *others = [example for example in examples if not example.get("witness")]
    configs = [AgentConfig.model_validate({**first, **other}) for other in ({}, *others)]
    assert len(configs) == 3
    members = {config.host: config.management.address for config in configs}
    for config in configs:
        assert config.etcd.embedded is not None
        assert config.etcd.embedded.members == members
    for field in ("host", "management", "replication", "overlay_address"):
        assert len({str(getattr(config, field)) for config in configs}) == 3, field


def test_the_example_context_is_what_the_command_line_reads(tmp_path: Path) -> None:
    (example,) = [found for found in yaml_examples() if "contexts" in found]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(example))
    file.chmod(0o600)
    contexts = load_contexts(file)
    assert contexts.current in contexts.contexts
    for endpoint in contexts.contexts[contexts.current or ""].endpoints:
        assert parse_endpoint(endpoint).base_url.endswith(":7400")


@pytest.mark.parametrize("page", PAGES)
def test_manifests_are_valid(page: str) -> None:
    for body in blocks(page, "yaml"):
        if "kind: Endophyte" in body:
            EndophyteManifest.model_validate(yaml.safe_load(body))


def test_the_service_leaves_guests_alone_and_starts_what_exists() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(SERVICE)
    service = unit["Service"]
    assert (service["Type"], service["KillMode"], service["Restart"]) == ("notify", "process", "always")
    assert unit["Unit"]["After"] == "network-online.target"
    program, _, rest = service["ExecStart"].partition(" ")
    assert Path(program).name == "hostagent"
    parse(f"hostagent {rest}", complete=True)
    assert "--config /etc/vdc/agent.yaml" in rest


# ---- events


def event_codes() -> set[str]:
    """Codes of every event that the agent and the controller write, read from their calls."""
    found = set()
    for path in (*(ROOT / "hostagent").rglob("*.py"), *(ROOT / "vdc/control").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                is_event = node.func.attr in ("tell", "_log", "make") and len(node.args) >= 2
                is_of_node = node.func.attr == "tell_of_node"
                code = node.args[1] if is_event else node.args[0] if is_of_node else None
                if isinstance(code, ast.Constant) and isinstance(code.value, str):
                    found.add(code.value)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "News":
                assert isinstance(node.args[0], ast.Constant)
                found.add(str(node.args[0].value))
    return found


def test_every_event_code_is_explained() -> None:
    held = set(supervisor._TOLD.values())  # told by the table's events
    assert event_codes() | held | {"no-host", "resync-queued"} == set(EXPLANATIONS)


def test_every_warning_says_what_to_do() -> None:
    silent = [code for code, told in EXPLANATIONS.items() if told.severity == "Warning" and not told.advice]
    assert not silent
