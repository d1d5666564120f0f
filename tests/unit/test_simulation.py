"""Every run of a pair on three hosts with so many surprises keeps I1 to I8, the promise to clients, and ends well.

`VDC_SIMULATION=deep` searches further (docs/development.md).
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.simulation import searches
from tests.simulation.explore import replay
from tests.simulation.facts import violations
from tests.simulation.liveness import Peace
from tests.simulation.mutants import MUTANTS
from tests.simulation.regressions import REGRESSIONS
from tests.simulation.runs import race, random_run
from tests.simulation.steps import COMMAND, FAULT, NORMAL, RECOVERY, steps
from tests.simulation.world import first_world

deep = pytest.mark.skipif(not searches.IS_DEEP, reason="only with VDC_SIMULATION=deep (make test)")
RACES = 1_000
RUNS = 600 if searches.IS_DEEP else 30


@pytest.mark.parametrize("search", searches.CHECK, ids=lambda one: one.name)
def test_every_run_with_so_many_surprises_is_safe_and_ends_well(search):
    found = searches.run(search)
    assert found.counter_example is None, str(found.counter_example)
    assert found.is_complete
    assert found.worlds > 5_000  # else it looked at nothing


@deep
@pytest.mark.parametrize("search", searches.DEEP, ids=lambda one: one.name)
def test_the_same_deeper(search):
    found = searches.run(search)
    assert found.counter_example is None, str(found.counter_example)
    assert found.is_complete


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_noticed(name):
    search, broken = MUTANTS[name]
    if search == searches.BY_REGRESSION or (search in searches.LONG and not searches.IS_DEEP):
        pytest.skip("a long search; make test does it")
    with broken():
        found = searches.run(next(one for one in (*searches.CHECK, *searches.DEEP) if one.name == search))
    assert found.counter_example is not None, f"nobody noticed that {name}"


@pytest.mark.parametrize("seeds", [range(n, RUNS, 2) for n in (0, 1)], ids=["even", "odd"])
def test_long_random_runs_are_safe_and_end_well(seeds):
    for seed in seeds:
        trouble = random_run(seed)
        assert trouble is None, f"seed {seed}: {trouble}"


def test_a_race_for_the_epoch_has_one_winner_each_time():
    """Row 10 of the fault matrix."""
    wins = {0: 0, 1: 0}
    for seed in range(RACES):
        outcome = race(seed)
        assert outcome.run is None, f"seed {seed}: {outcome.run}"
        assert outcome.winner in wins, f"seed {seed}: nobody, or more than one, speaks"
        wins[outcome.winner] += 1
    assert min(wins.values()) > RACES / 20, f"this was no race: {wins}"


@pytest.mark.parametrize("one", REGRESSIONS, ids=lambda one: one.name)
def test_what_was_found_once_stays_right(one):
    world, broken = replay(one.start(), one.sentences)
    assert broken == ()
    trouble = Peace().trouble(world)
    assert trouble is None, str(trouble)


@pytest.mark.parametrize("one", REGRESSIONS, ids=lambda one: one.name)
def test_what_was_found_once_is_found_again_without_its_remedy(one):
    with MUTANTS[one.broken][1]():
        world, broken = replay(one.start(), one.sentences)
        assert broken or Peace().trouble(world) is not None


class Pair(RuleBasedStateMachine):
    """The same world under hypothesis, which makes a failing run shorter."""

    def __init__(self):
        super().__init__()
        self.world, self.before, self.only_agents = first_world(), None, False

    def _take(self, kind, number):
        options = [step for step in steps(self.world) if step.kind == kind]
        if options:
            step = options[number % len(options)]
            self.before, self.world, self.only_agents = self.world, step.after, step.only_agents

    @rule(number=st.sampled_from([0, 0, 0, 0, 1, 2, 3]))
    def goes_on(self, number):
        self._take(NORMAL, number)

    @rule(number=st.sampled_from([0, 0, 0, 0, 1, 2, 3]))
    def goes_on_again(self, number):
        self._take(NORMAL, number)

    @rule(number=st.integers(0, 60))
    def breaks(self, number):
        self._take(FAULT, number)

    @precondition(lambda self: self.before is not None)
    @rule(number=st.integers(0, 8))
    def is_well_again(self, number):
        self._take(RECOVERY, number)

    @rule(number=st.integers(0, 8))
    def operator_asks(self, number):
        self._take(COMMAND, number)

    @invariant()
    def holds(self):
        assert violations(self.world, self.before, only_agents=self.only_agents) == ()

    def teardown(self):
        trouble = Peace().trouble(self.world)
        assert trouble is None, str(trouble)


TestPair = Pair.TestCase
TestPair.settings = settings(
    max_examples=400 if searches.IS_DEEP else 25, stateful_step_count=120 if searches.IS_DEEP else 50,
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck),
)  # fmt: skip
