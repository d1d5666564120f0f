"""Two hosts without a witness, and one is lost: nothing is promoted by itself, a human may decide, and who comes
back after that stands down. The other host is not even off here: it is cut off, which is the harder case."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from testlab import VM, Lab, kill_agent, wait_for

from vdc.model.endophyte import Phase


def test_a_human_decides_and_the_other_host_stands_down(own_lab: Callable[..., Lab]) -> None:
    lab = own_lab("2", hosts=2)
    assert "add a witness" in lab.cli("get", "nodes").stderr
    vm = lab.create("web")
    lab.wait_answering(vm.address)
    assert "add a witness" in lab.ok("describe", "endophyte", "web")
    first, second, before = vm.primary, vm.secondary, vm.epoch
    survivor = vm.qemu(second).pid
    with lab.workload(vm, patience_s=60) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        lab.fault("partition", first)

        nobody_decides(lab, vm, first, second)
        without_the_name_nothing_is_done(lab, first)
        assert vm.view(second).status.epoch == before

        # a human decides: the guest goes on with its memory and its sessions
        forced = lab.ok("promote", "replica", "web", "--force", "--confirm", "web", "-o", "json")
        result = json.loads(forced)
        assert (result["primary"], result["previous"], result["lineage"]) == (second, first, 1)
        workload.wait_progress(more=100, deadline_s=60)
        assert vm.qemu(second).pid == survivor
        status = lab.ask(lambda api: api.cluster(), of=second)
        assert status.majority and status.lineage.number == 1 and status.lineage.left_out == (first,)

        # the other host comes back: its member may not vote, its copy ends, it serves as a host
        lab.heal(first)
        view = vm.wait_lockstep(120)
        assert view.status.primary and view.status.primary.host == second
        workload.wait_progress(more=30, deadline_s=20)
    assert not workload.report.errors
    workload.check_store()
    codes = vm.event_codes()
    assert "forced-promotion" in codes and "discarded" in codes, codes
    assert "Lineage:" in lab.ok("describe", "endophyte", "web")
    assert _etcd_pid(lab, first) is None
    assert "hostagent rejoin" in lab.cli("doctor").stderr

    join_again(lab, first)
    assert vm.wait_lockstep(60).status.primary
    lab.remove_all_vms()
    lab.assert_clean("after the majority came back")


def nobody_decides(lab: Lab, vm: VM, first: str, second: str) -> None:
    """The replica says what is missing, the old primary pauses itself."""

    def says(host: str, words: str) -> bool:
        return words in vm.view(host).status.sentence

    wait_for(lambda: says(second, "a majority of the cluster is needed"), 20, "the replica says why not")
    assert f"--force after you made sure that {first} is off" in vm.view(second).status.sentence
    wait_for(lambda: vm.view(first).status.phase is Phase.ISOLATED, 20, "the old primary has paused itself")
    assert vm.view(second).status.epoch == vm.view(first).status.epoch
    described = lab.ask(lambda api: api.describe_endophyte(vm.name), of=second)
    assert "undecided" in [event.code for event in described.events]


def without_the_name_nothing_is_done(lab: Lab, first: str) -> None:
    """It is asked for, with what the human asserts."""
    for arguments in ((), ("--confirm", "other")):
        refused = lab.cli("promote", "replica", "web", "--force", *arguments)
        assert refused.code == 2, refused
        assert f"{first} is OFF" in refused.stderr


def join_again(lab: Lab, first: str) -> None:
    """The host that was left out gets a member with empty data."""
    program = str(Path(sys.executable).parent / "hostagent")
    lab.ok("lab", "exec", "--name", lab.name, first, "--", program, "rejoin", "--config",
           str(lab.plan.host(first).config_file))  # fmt: skip
    kill_agent(lab, first)
    lab.heal(first)

    def is_whole() -> bool:
        status = lab.ask(lambda api: api.cluster(), of=first)
        return [one["healthy"] for one in status.members] == [True, True] and status.lineage.number == 1

    wait_for(is_whole, 30, "both members vote again")


def _etcd_pid(lab: Lab, host: str) -> int | None:
    return next(one.etcd_pid for one in lab.status().hosts if one.name == host)
