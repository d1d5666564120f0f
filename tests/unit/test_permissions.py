"""What root's agent reads and runs may be written by nobody else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from hostagent import main as main_module
from hostagent.agent.doctor import program_check
from hostagent.drivers.host.permissions import exposed, programs, require_unexposed
from vdc.model.errors import RefusedError

CONFIG = """host: h1
state_dir: {state}
management: {{address: 10.0.0.1, interface: eth0}}
replication: {{address: 10.1.0.1, interface: eth1}}
overlay_address: 10.77.0.1
etcd: {{endpoints: ["https://127.0.0.1:1"]}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file in a folder of its own."""
    (tmp_path / "vdc").mkdir(mode=0o755)
    made = tmp_path / "vdc" / "agent.yaml"
    made.write_text("host: h1\n")
    made.chmod(0o644)
    return made


def refusal(path: Path) -> str:
    with pytest.raises(RefusedError) as caught:
        require_unexposed(path)
    assert caught.value.code == "path-exposed" and "\n" not in str(caught.value)
    assert caught.value.problem.hint
    return str(caught.value)


def test_what_only_its_owner_writes_passes_and_so_does_what_is_not_there(file: Path) -> None:
    require_unexposed(file)
    require_unexposed(file.parent / "absent" / "file")


def test_a_file_that_everybody_writes_is_refused(file: Path) -> None:
    file.chmod(0o666)
    assert refusal(file).startswith(f"{file} can be written by everybody")


def test_a_folder_on_the_way_counts(file: Path) -> None:
    file.parent.chmod(0o777)
    assert str(file.parent) in refusal(file)
    file.parent.chmod(0o1777)  # sticky: only owners replace what is theirs
    require_unexposed(file)


def test_the_target_of_a_link_counts(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    require_unexposed(link)
    file.chmod(0o666)
    assert str(file) in refusal(link)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root (chown)")
def test_another_owner_or_group_is_refused(file: Path) -> None:
    os.chown(file, 65534, 0)
    assert "belongs to the user 65534" in refusal(file)
    os.chown(file, 0, 65534)
    require_unexposed(file)
    file.chmod(0o664)
    assert "can be written by the group 65534" in refusal(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("what", ["config", "state"])
def test_the_agent_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(main_module.asyncio, "run", lambda _: pytest.fail("it started"))
    state = Path("/run") / f"t{os.getpid()}"
    config = tmp_path / "agent.yaml"
    config.write_text(CONFIG.format(state=state))
    state.mkdir(mode=0o700)
    try:
        (config if what == "config" else state).chmod(0o777)
        done = CliRunner().invoke(main_module.main, ["run", "--config", str(config)])
    finally:
        state.rmdir()
    assert done.exit_code == 1
    assert done.output.splitlines()[0].startswith("error: /") and "(path-exposed)" in done.output
    assert done.output.splitlines()[1].startswith("hint: chown root:")


def test_the_doctor_names_what_others_could_change(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/program").write_text("")
    (tmp_path / "a/link").symlink_to("/nowhere")
    assert exposed([tmp_path / "a"]) == ""
    assert program_check("").level == "ok"
    (tmp_path / "a/b/program").chmod(0o777)
    found = exposed([tmp_path / "a"])
    assert found == f"{tmp_path}/a/b/program can be written by everybody"
    assert program_check(found).level == "warning"


def test_own_code_and_libraries_are_looked_at(tmp_path: Path) -> None:
    names = [path.name for path in programs(tmp_path)]
    assert names == ["vdc", "hostagent", "site-packages", tmp_path.name]
