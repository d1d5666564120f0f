"""`vdc doctor --canary`: every host is proven as a primary and as a secondary, and nothing is left of the canary."""

from __future__ import annotations

import json

from testlab import Lab


def test_every_host_is_proven_in_both_roles(lab: Lab) -> None:
    done = lab.cli("doctor", "--canary", "-o", "json", timeout_s=300)
    checks = [check for report in json.loads(done.stdout)["items"] for check in report["checks"]]
    found = [check for check in checks if check["name"] == "canary"]
    assert {check["level"] for check in found} == {"ok"}, found
    proven = {(words[0], words[2]) for words in (check["sentence"].split() for check in found)}
    assert {primary for primary, _ in proven} == set(lab.hosts)
    assert {secondary for _, secondary in proven} == set(lab.hosts)
    assert all(" 0 of " in check["sentence"] for check in found)
    assert not lab.vm_names()


def test_a_canary_that_cannot_be_made_is_a_finding(lab: Lab) -> None:
    done = lab.cli("doctor", "--canary", "--image", "nobody/nothing", "-o", "json")
    assert done.code == 1
    checks = [check for report in json.loads(done.stdout)["items"] for check in report["checks"]]
    (finding,) = (check for check in checks if check["name"] == "canary")
    assert finding["level"] == "error" and "does not exist" in finding["sentence"]
    assert finding["hint"]
    assert not lab.vm_names()
