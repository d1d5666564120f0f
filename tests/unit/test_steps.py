"""Named steps: each is reached once in the code, journalled, and a failpoint in tests."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hostagent.supervisor.failpoints import VARIABLE, Failpoints
from hostagent.supervisor.journal import JOURNAL_FILE, LIMIT_BYTES, Journal
from vdc.model.step import Step

REPOSITORY = Path(__file__).parents[2]
SOURCES = [path for part in ("hostagent", "vdc") for path in (REPOSITORY / part).rglob("*.py")]
AT = "2026-01-01T00:00:00.000000Z"


def test_every_step_is_reached_in_exactly_one_place() -> None:
    code = "\n".join(path.read_text() for path in SOURCES)
    reached = re.findall(r"reach\(Step\.(\w+)\)", code)
    assert sorted(reached) == sorted(step.name for step in Step)


def test_names_say_operation_and_step() -> None:
    for step in Step:
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", step)
        assert step.name == step.value.replace(".", "_").upper()
        assert step.sentence


def test_only_the_last_step_of_an_operation_ends_it() -> None:
    operations = list(dict.fromkeys(step.operation for step in Step))
    for operation in operations:
        steps = [step for step in Step if step.operation == operation]
        assert [step for step in steps if step.ends_operation] in ([], steps[-1:])


def test_steps_of_one_operation_stand_together() -> None:
    operations = [step.operation for step in Step]
    runs = [name for index, name in enumerate(operations) if index == 0 or operations[index - 1] != name]
    assert len(runs) == len(set(runs))


def test_the_journal_tells_the_last_step(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.last() is None
    journal.note(Step.PROMOTE_BEGUN, epoch=4, at=AT)
    journal.note(Step.PROMOTE_COMMITTED, epoch=5, at=AT)
    last = Journal(tmp_path).last()
    assert last is not None
    assert (last.operation, last.step, last.epoch, last.is_open) == ("promote", "promote.committed", 5, True)
    journal.note(Step.PROMOTE_DONE, epoch=5, at=AT)
    assert not (journal.last() or last).is_open


def test_the_journal_tells_what_came_later(tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    def has_begun() -> bool:
        return journal.has_reached(Step.START_BEGUN, since=Step.ENTER_BEGUN)

    assert not has_begun()
    for step, expected in [
        (Step.START_BEGUN, True), (Step.ENTER_BEGUN, False), (Step.MARK_DONE, False), (Step.START_BEGUN, True),
    ]:  # fmt: skip
        journal.note(step, epoch=1, at=AT)
        assert has_begun() is expected


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.note(Step.MARK_COMMITTED, epoch=2, at=AT)
    with (tmp_path / JOURNAL_FILE).open("a") as file:
        file.write('{"at":"2026-01-0')
    last = journal.last()
    assert last is not None and last.step == "mark.committed"


def test_a_step_of_another_version_is_readable(tmp_path: Path) -> None:
    line = '{"at":"x","epoch":9,"step":"tomorrow.half","why":"new"}\n'
    (tmp_path / JOURNAL_FILE).write_text(line)
    last = Journal(tmp_path).last()
    assert last is not None and last.step == "tomorrow.half"


def test_the_journal_stays_bounded_and_keeps_the_last_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for epoch in range(4000):
        journal.note(Step.ENTER_BEGUN, epoch=epoch, at=AT)
        last = journal.last()
        assert last is not None and last.epoch == epoch
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) < LIMIT_BYTES + 200


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    Journal(tmp_path / "absent").note(Step.DISCARD_DONE, epoch=1, at=AT)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_costs_the_line_alone() -> None:
    Journal(Path("/dev/full")).note(Step.DISCARD_DONE, epoch=1, at=AT)


def arm(state_dir: Path, step: Step, action: str) -> Path:
    path = state_dir / "failpoints" / step.value
    path.parent.mkdir(exist_ok=True)
    path.write_text(action)
    return path


async def test_failpoints_are_off_unless_the_environment_says_so(tmp_path: Path) -> None:
    path = arm(tmp_path, Step.MARK_DONE, "kill")
    for environment in ({}, {VARIABLE: "0"}, {VARIABLE: "yes"}):
        points = Failpoints.of(tmp_path, environment)
        assert not points.are_on
        await points.reach(Step.MARK_DONE)
    assert path.exists()


async def test_an_armed_step_waits_until_it_is_released(tmp_path: Path) -> None:
    arm(tmp_path, Step.MARK_DONE, "wait")
    points = Failpoints.of(tmp_path, {VARIABLE: "1"})
    await points.reach(Step.MARK_COMMITTED)
    reaching = asyncio.create_task(points.reach(Step.MARK_DONE))
    waiting = tmp_path / "failpoints" / "mark.done.waiting"
    async with asyncio.timeout(30):
        while not waiting.exists():
            await asyncio.sleep(0.001)
        assert not reaching.done()
        waiting.unlink()
        await reaching


@pytest.mark.parametrize("armed", [True, False])
def test_an_armed_step_kills_once(tmp_path: Path, armed: bool) -> None:
    path = arm(tmp_path, Step.MARK_DONE if armed else Step.MARK_COMMITTED, "kill")
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from hostagent.supervisor.failpoints import Failpoints; from vdc.model.step import Step\n"
        "asyncio.run(Failpoints(Path(sys.argv[1]) / 'failpoints').reach(Step.MARK_DONE))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=REPOSITORY, check=False)
    assert done.returncode == (-signal.SIGKILL if armed else 0)
    assert path.exists() is not armed
