"""The manifest as people were promised that they can write it, and the JSON that scripts rely on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime

import pytest
from testlab import Lab

IMAGE = "mycelium/windows-11:latest"
MANIFEST = """
apiVersion: v1
kind: Endophyte
metadata:
  name: windows-desktop
  annotations:
    mycelium.network/service-type: "endophyte"
    mycelium.network/isolation-level: "dedicated"
spec:
  virtualComputer:
    type: "full-virtualization"
    dedicatedNodes: 3
    memorySync: "continuous"
  image: "mycelium/windows-11:latest"
"""


@pytest.fixture
def image(lab: Lab) -> Iterator[str]:
    """The demo image under the name that the manifest asks for."""
    lab.ok("image", "import", str(lab.settings.cache_root / "images" / "mini" / "current"), "--name", IMAGE)
    yield IMAGE
    lab.remove_all_vms()
    lab.ok("image", "rm", IMAGE)


def test_it_is_accepted_word_for_word(lab: Lab, image: str) -> None:
    printed = lab.ok("apply", "-f", "-", "--wait", "--timeout", "120", stdin=MANIFEST)
    assert printed.startswith("endophyte/windows-desktop created\n")
    shown = json.loads(lab.ok("get", "endophyte", "windows-desktop", "-o", "json"))

    assert (shown["apiVersion"], shown["kind"]) == ("mycelium.network/v1", "Endophyte")
    assert shown["metadata"]["name"] == "windows-desktop"
    assert shown["metadata"]["uid"]
    assert shown["metadata"]["annotations"]["mycelium.network/isolation-level"] == "dedicated"
    assert shown["spec"]["image"] == IMAGE
    assert shown["spec"]["virtualComputer"] == {
        "type": "full-virtualization",
        "dedicatedNodes": 3,
        "memorySync": "continuous",
    }
    status = shown["status"]
    assert set(status) == {
        "phase", "protection", "epoch", "primary", "secondary", "spares", "addresses", "mac", "checkpoints", "sentence",
        "unprotectedSince", "moving_to", "move_problem", "program", "agent", "firmware", "nics",
    }  # fmt: skip
    assert (status["phase"], status["protection"]) == ("Running", "lockstep")
    assert status["epoch"] >= 2
    for part in ("primary", "secondary"):
        assert status[part]["host"] in lab.hosts
        assert isinstance(status[part]["pid"], int)
        assert isinstance(status[part]["qemu"], str)
    assert {status["primary"]["host"], status["secondary"]["host"], *status["spares"]} == set(lab.hosts)
    assert len(status["addresses"]) == 1
    checkpoints = status["checkpoints"]
    assert checkpoints["count"] >= 3
    assert 0 < checkpoints["pause_ms_p50"] <= checkpoints["pause_ms_p99"]
    assert datetime.fromisoformat(checkpoints["last"]).tzinfo is not None
    primary, secondary = status["primary"]["host"], status["secondary"]["host"]
    assert (
        status["sentence"]
        == f"primary on {primary} in lockstep with {secondary}; spare {status['spares'][0]}"
    )

    assert lab.ok("apply", "-f", "-", stdin=MANIFEST) == "endophyte/windows-desktop unchanged\n"
    listed = json.loads(lab.ok("get", "endophytes", "-o", "json"))
    assert [item["metadata"]["name"] for item in listed["items"]] == ["windows-desktop"]


def test_hosts_of_a_dedicated_one_take_nothing_else(lab: Lab, image: str) -> None:
    lab.ok("apply", "-f", "-", "--wait", "--timeout", "120", stdin=MANIFEST)
    beside = lab.create("beside", "--no-protect")
    taken = lab.view("windows-desktop").status
    assert taken.primary and taken.secondary
    assert beside.primary not in (taken.primary.host, taken.secondary.host)
