"""Durations that contradict each other are refused, each with its reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner

from hostagent.heartbeat import heartbeats, link
from hostagent.main import main
from hostagent.supervisor import arbiter, copy, supervisor
from vdc.control import controller
from vdc.model.manifest import ProtectionTuning
from vdc.protection.snapshot import Limits
from vdc.protection.timing import MAX_WIDENING, RULES, Durations, consequences, contradictions

AGENT_YAML = """
host: h1
state_dir: /var/lib/vdc
management: {address: 10.70.0.1, interface: mgmt0}
replication: {address: 10.71.0.1, interface: repl0}
overlay_address: 10.77.0.1
etcd: {embedded: {members: {h1: 10.70.0.1}}}
"""
# A change that breaks a rule, by a word of the rule.
BREAKING = {
    "three times heartbeat_ms": {"heartbeat_ms": 100},
    "half of suspect_ms": {"suspect_ms": 100, "heartbeat_ms": 20},
    "secondary_delay_ms": {"suspect_ms": 20, "secondary_delay_ms": 30},
    "checkpoint budget": {"suspect_ms": 1_960},
    "stalled checkpoint": {"stall_head_start_ms": 400},
    "counts as silent, and an arbitration": {"isolated_pause_ms": 5_000},
    "isolated_pause_ms must exceed three times": {"suspect_ms": 2_800},
    "five times": {"etcd_election_ms": 90},
    "fit into an arbitration": {"etcd_election_ms": 1_100},
    "two elections of etcd must fit": {"etcd_election_ms": 900},
    "liveness_ttl_s": {"liveness_ttl_ms": 500},
    "leader_ttl_s": {"leader_ttl_ms": 250},
    "reprotect_backoff_s": {"reprotect_backoff_ms": 700_000},
    "first retry": {"first_retry_ms": 70_000},
}


def test_the_defaults_agree():
    assert contradictions(Durations()) == ()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.says)
def test_each_rule_can_be_broken_and_says_why(rule):
    (change,) = [change for word, change in BREAKING.items() if word in rule.says]
    said = contradictions(replace(Durations(), **change))
    assert any(rule.says in sentence and rule.why in sentence for sentence in said)


def test_another_clusters_etcd_is_not_judged():
    assert contradictions(Durations(etcd_heartbeat_ms=None, etcd_election_ms=None)) == ()


def test_the_constants_are_those_of_the_code():
    durations, limits = Durations(), Limits()
    assert durations.stall_head_start_ms == limits.stall_head_start_ms
    assert durations.checkpoint_budget_ms == ProtectionTuning().checkpoint_budget_ms
    assert durations.look_ms == supervisor.QUICK_TICK_S * 1000
    assert durations.probe_ms == copy.PROBE_DEADLINE_S * 1000
    assert durations.arbitration_ms == arbiter.DEADLINE_S * 1000
    assert durations.first_retry_ms == supervisor.FIRST_RETRY_S * 1000
    assert durations.longest_retry_ms == supervisor.MAX_RETRY_S * 1000
    assert durations.longest_backoff_ms == controller.MAX_BACKOFF_S * 1000
    assert durations.echo_every_ms == heartbeats._ASK_EVERY_S * 1000
    assert durations.echo_answer_ms == heartbeats._ANSWER_S * 1000
    assert link._MAX_WIDENING == MAX_WIDENING


def test_an_agent_with_contradictory_timings_does_not_start(tmp_path):
    file = tmp_path / "agent.yaml"
    file.write_text(AGENT_YAML + "timings: {isolated_pause_ms: 4000}\n")
    result = CliRunner().invoke(main, ["check", "--config", str(file)])
    assert result.exit_code == 1
    assert "isolated_pause_ms must exceed" in result.output
    assert "may still win the right to go on" in result.output


def test_check_shows_what_follows(tmp_path):
    file = tmp_path / "agent.yaml"
    file.write_text(AGENT_YAML)
    result = CliRunner().invoke(main, ["check", "--config", str(file)])
    assert result.exit_code == 0
    for name, _ in consequences(Durations()):
        assert name in result.output
