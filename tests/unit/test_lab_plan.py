"""Names, addresses and configuration of a lab: all of it follows from its name and number of hosts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hostagent.config import MAX_UNIX_PATH, AgentConfig
from vdc.lab import plan as lab
from vdc.lab.config import agent_config
from vdc.lab.impairment import parse_rate
from vdc.lab.models import LabRecord, LabState, LabStatus
from vdc.lab.plan import Underlay, lab_of_namespace, make_plan, namespace_name
from vdc.lab.settings import Settings, memory_per_host
from vdc.model.errors import InvalidError, NotFoundError, RefusedError

ROOT = Path("/var/lib/vdc")

GOLDEN = """\
host: h2
state_dir: /var/lib/vdc/lab/default/h2
management:
  address: 10.70.0.2
  interface: mgmt0
replication:
  address: 10.71.0.2
  interface: repl0
overlay_address: 10.77.0.2
network:
  name: default
  cidr: 10.77.0.0/24
  vni: 100
  guest_first: 10.77.0.10
  guest_last: 10.77.0.199
  domain: vdc.internal
  mtu: 1400
  external_vteps:
  - 10.70.0.200
etcd:
  embedded:
    members:
      h1: 10.70.0.1
      h2: 10.70.0.2
      h3: 10.70.0.3
runtime: /var/cache/vdc/runtime/abc
cache_dir: /cache
memory: 1073741824
guest_uids:
  first: 1900008192
  count: 4096
labels:
  lab: default
"""


def test_the_default_lab_has_the_names_that_the_manual_promises() -> None:
    plan = make_plan("default", 3, ROOT)
    assert [host.namespace for host in plan.hosts] == ["vdc-h1", "vdc-h2", "vdc-h3"]
    assert plan.client_namespace == "vdc-client"
    assert set(plan.namespaces) == {"vdc-mgmt", "vdc-repl", "vdc-client", "vdc-h1", "vdc-h2", "vdc-h3"}
    assert plan.context == "lab"


def test_another_lab_shares_no_name_with_the_default_one() -> None:
    default, other = make_plan("default", 8, ROOT), make_plan("h1", 8, ROOT)
    assert "vdc-h1-h1" in other.namespaces
    assert not set(default.namespaces) & set(other.namespaces)
    assert other.folder != default.folder
    assert other.context == "lab-h1"


@pytest.mark.parametrize("name", ["default", "x", "client", "h1", "abcd1234"])
@pytest.mark.parametrize("member", ["h1", "h8", "client", "mgmt", "repl"])
def test_a_namespace_tells_its_lab(name: str, member: str) -> None:
    assert lab_of_namespace(namespace_name(name, member)) == name


@pytest.mark.parametrize(
    "namespace",
    ["h1", "vdc-h9", "vdc-x-y-h1", "vdc-", "vdc-X-h1", "vdc-default-h1", "vdc-toolonglab-h1", "nfs-h1"],
)
def test_a_foreign_namespace_belongs_to_no_lab(namespace: str) -> None:
    assert lab_of_namespace(namespace) is None


def test_addresses_are_unique_and_inside_their_networks() -> None:
    plan = make_plan("default", lab.MAX_HOSTS, ROOT)
    for underlay in Underlay:
        addresses = {host.address(underlay) for host in plan.hosts} | {underlay.address(lab.CLIENT_OCTET)}
        assert len(addresses) == lab.MAX_HOSTS + 1
        macs = {underlay.mac(host.index) for host in plan.hosts} | {underlay.mac(lab.CLIENT_OCTET)}
        assert len(macs) == lab.MAX_HOSTS + 1
        assert all(int(mac[:2], 16) & 0b11 == 0b10 for mac in macs)  # unicast, locally administered
    overlay = [host.overlay for host in plan.hosts]
    assert all(address in plan.network.cidr and address < plan.network.guest_first for address in overlay)
    assert plan.client_overlay > plan.network.guest_last
    assert str(plan.client_overlay) == "10.77.0.200"
    assert plan.network.external_vteps == (str(plan.client_vtep),) == ("10.70.0.200",)


@pytest.mark.parametrize("name", ["", "Lab", "a-b", "a/b", "..", "ninechars", "a b", "é", "x\n"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidError) as caught:
        make_plan(name, 3, ROOT)
    assert caught.value.code == "lab-name-invalid"


@pytest.mark.parametrize("hosts", [0, 9, -1])
def test_a_bad_number_of_hosts_is_refused(hosts: int) -> None:
    with pytest.raises(InvalidError, match="1 to 8 hosts"):
        make_plan("default", hosts, ROOT)


def test_an_unknown_host_is_named_with_the_known_ones() -> None:
    with pytest.raises(NotFoundError) as caught:
        make_plan("default", 2, ROOT).host("h3")
    assert caught.value.problem.hint == "its hosts: h1, h2"


def test_the_agents_configuration_is_this_file() -> None:
    plan = make_plan("default", 3, ROOT)
    runtime, cache = Path("/var/cache/vdc/runtime/abc"), Path("/cache")
    made = agent_config(plan, plan.host("h2"), runtime=runtime, cache_dir=cache, memory_bytes=1024**3)
    assert made == GOLDEN


@pytest.mark.parametrize("hosts", [1, 3, 8])
def test_the_agent_accepts_its_configuration(hosts: int) -> None:
    plan = make_plan("default", hosts, ROOT)
    for host in plan.hosts:
        runtime, cache = Path("/runtime"), Path("/cache")
        text = agent_config(plan, host, runtime=runtime, cache_dir=cache, memory_bytes=1024**3)
        config = AgentConfig.model_validate(yaml.safe_load(text))
        assert config.host == host.name
        assert config.network == plan.network
        assert config.state_dir == host.state_dir


def test_a_state_folder_is_refused_exactly_where_the_agent_would_refuse_it() -> None:
    longest = MAX_UNIX_PATH - len("/vms/") - 63 - len("/qmp.sock")
    assert longest == lab.MAX_STATE_DIR
    root = Path("/" + "r" * (longest - len("//lab/default/h1")))
    assert len(str(make_plan("default", 1, root).hosts[0].state_dir)) == longest
    with pytest.raises(InvalidError) as caught:
        make_plan("default", 1, root.with_name(root.name + "r"))
    assert caught.value.code == "state-dir-too-long"
    assert "1 characters too long" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "bits"), [("1mbit", 10**6), ("500kbit", 500_000), ("1Gbit", 10**9), ("8000bit", 8000)]
)
def test_rates(text: str, bits: int) -> None:
    assert parse_rate(text) == bits


@pytest.mark.parametrize(
    "text", ["", "1", "1mb", "0mbit", "-1mbit", "1.5mbit", "31gbit", "1kbit", "1mbit; rm", "mbit"]
)
def test_what_is_not_a_rate_is_refused(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_rate(text)
    assert caught.value.code == "rate-invalid"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VDC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("VDC_CACHE_DIR", str(tmp_path / "cache"))
    settings = Settings.from_environment()
    assert settings.state_root == tmp_path / "state"
    assert settings.agent_command[1:] == ("run", "--config")
    with pytest.raises(RefusedError) as caught:
        settings.runtime()
    assert (caught.value.code, caught.value.problem.hint) == ("runtime-missing", "run: make setup")
    monkeypatch.setenv("VDC_STATE_DIR", "relative")
    with pytest.raises(InvalidError, match="VDC_STATE_DIR"):
        Settings.from_environment()


def test_the_runtime_is_resolved_and_a_missing_agent_refused(tmp_path: Path) -> None:
    (tmp_path / "runtime" / "v1").mkdir(parents=True)
    (tmp_path / "runtime" / "current").symlink_to("v1")
    settings = Settings(tmp_path, tmp_path, (str(tmp_path / "hostagent"),))
    assert settings.runtime() == tmp_path / "runtime" / "v1"
    with pytest.raises(RefusedError) as caught:
        settings.check_agent()
    assert caught.value.code == "agent-missing"
    replace(settings, agent_command=("/bin/sh",)).check_agent()


def test_memory_is_shared_out_evenly() -> None:
    one, four = memory_per_host(1), memory_per_host(4)
    assert one >= four >= 512 * 1024**2
    assert one % (64 * 1024**2) == four % (64 * 1024**2) == 0


def test_records_survive_the_way_to_disk() -> None:
    record = LabRecord(name="default", hosts=3, memory_bytes=1)
    assert LabRecord.from_json(record.to_json()) == record
    status = LabStatus(name="default", state=LabState.DOWN)
    assert LabStatus.from_json(status.to_json()) == status
