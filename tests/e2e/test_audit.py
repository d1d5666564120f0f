"""The audit log: what people did is in it, across the death of an agent and without a majority, and tampering shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labstore import put_audit, tamper
from testlab import VM, Lab, wait_for


def entries(lab: Lab, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(lab.ok("audit", "list", "-o", "json", *arguments))["items"]
    return found


def acts(lab: Lab, *arguments: str) -> list[tuple[str, str]]:
    return [(entry["what"], entry["result"]) for entry in entries(lab, *arguments)]


def until_written(lab: Lab, name: str, *wanted: tuple[str, str]) -> None:
    """Entries come into the log behind the answer."""

    def are_there() -> bool:
        return set(wanted) <= set(acts(lab, "--object", name))

    wait_for(are_there, 20, f"{wanted} in the audit log")


def test_who_did_what_is_in_it_and_tampering_shows(
    lab: Lab, protected_vm: Callable[..., VM], tmp_path: Path
) -> None:
    vm = protected_vm("audited")
    lab.ok("promote", "replica", "audited")
    epoch = vm.wait_lockstep().status.epoch
    assert lab.cli("promote", "replica", "audited", "--force", "--confirm", "audited").code == 1
    lab.ok("delete", "endophyte", "audited", "--wait")
    until_written(
        lab, "audited", ("create_endophyte", "ok"), ("promote_endophyte", "ok"),
        ("promote_endophyte", "primary-alive"), ("delete_endophyte", "ok"),
    )  # fmt: skip
    found = entries(lab, "--object", "audited")
    promoted = [entry for entry in found if entry["what"] == "promote_endophyte" and entry["result"] == "ok"]
    assert all(1 < entry["epoch"] <= epoch for entry in promoted)
    assert len({entry["id"] for entry in promoted}) == 1, "handed on under another id"
    assert all(entry["address"] and entry["host"] for entry in found)

    assert lab.ok("audit", "verify").startswith("intact: entries 1 to ")
    file = tmp_path / "audit.jsonl"
    file.write_text(lab.ok("audit", "export"))
    assert lab.ok("audit", "verify", str(file)).startswith("intact: entries 1 to ")

    seq = promoted[0]["seq"]
    before = tamper(lab, seq)
    try:
        refused = lab.cli("audit", "verify")
        assert refused.code == 1 and refused.stdout.startswith("TAMPERED: "), refused
        assert f"  entry {seq} was changed: its content does not match its hash\n" in refused.stdout
        file.write_text(lab.ok("audit", "export"))
        assert lab.cli("audit", "verify", str(file)).code == 1
    finally:
        put_audit(lab, seq, before)
    assert lab.ok("audit", "verify").startswith("intact: ")


def test_an_agent_that_is_killed_while_it_acts_leaves_unknown(
    lab: Lab, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("audited")
    first = vm.primary
    spool = lab.plan.host(first).state_dir / "audit" / "spool.jsonl"
    size, agent = spool.stat().st_size, lab.agent(first)  # known before: the comparison takes a second or so
    client = [sys.executable, "-m", "vdc.cli.main", "verify", "audited"]
    with subprocess.Popen(
        client, env=lab.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as asked:
        try:
            what = "the comparison is written down"
            wait_for(lambda: '"verify_endophyte"' in _since(spool, size), 30, what, every_s=0.01)
            os.kill(agent.pid, signal.SIGKILL)
        finally:
            asked.kill()
    lab.heal(first)
    until_written(lab, "audited", ("verify_endophyte", "unknown"))
    assert lab.ok("audit", "verify").startswith("intact: ")
    vm.wait_lockstep()


def _since(path: Path, size: int) -> str:
    with path.open("rb") as file:
        file.seek(size)
        return file.read().decode(errors="replace")


def test_a_forced_promotion_is_in_it_when_the_store_is_back(own_lab: Callable[..., Lab]) -> None:
    lab = own_lab("a", hosts=2)
    vm = lab.create("web")
    first, second = vm.primary, vm.secondary
    lab.fault("power-off", first)
    wait_for(lambda: not lab.ask(lambda api: api.cluster(), of=second).majority, 30, "the majority is lost")
    lab.ok("promote", "replica", "web", "--force", "--confirm", "web", timeout_s=120)
    until_written(lab, "web", ("promote_endophyte", "ok"))
    forced = [entry for entry in entries(lab, "--object", "web") if entry["what"] == "promote_endophyte"]
    assert forced[-1]["lineage"] == 1 and forced[-1]["epoch"] == vm.view(second).status.epoch
    verdict = lab.cli("audit", "verify")
    assert verdict.code == 0, verdict
