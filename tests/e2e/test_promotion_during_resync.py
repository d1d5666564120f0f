"""A replica that is being filled is neither promoted nor forced: there is nothing to start from. And once it is in
sync, force is refused for as long as the primary's host answers."""

from __future__ import annotations

import json

from testlab import VM, Lab


def test_it_is_refused_with_the_reason(lab: Lab) -> None:
    lab.ok("create", "web")
    vm = VM(lab, "web")
    vm.wait("being filled", lambda view: view.status.protection.value == "syncing", 60)
    primary = vm.primary
    refused = lab.cli("promote", "replica", "web")
    assert refused.code == 1 and "(not-in-sync)" in refused.stderr, refused
    forced = lab.cli("promote", "replica", "web", "--force", "--confirm", "web")
    assert forced.code == 1 and "(no-complete-copy)" in forced.stderr, forced

    view = vm.wait_lockstep(90)
    assert view.status.primary and view.status.primary.host == primary
    forced = lab.cli("promote", "replica", "web", "--force", "--confirm", "web")
    assert forced.code == 1 and "(primary-alive)" in forced.stderr, forced
    described = json.loads(lab.ok("describe", "endophyte", "web", "-o", "json"))
    assert described["pair"]["lineage"] == 0
    assert (vm.view().status.epoch, vm.primary) == (view.status.epoch, primary)
