"""What a container's guest runs: as Kubernetes merges and expands it, the same text on both hosts."""

from __future__ import annotations

import json

import pytest
from protection_world import DIGEST, UID, endophyte

from hostagent.supervisor.machine import disk_sources, guest_config, machine_spec
from vdc.model.endophyte import MachineFacts
from vdc.model.errors import InvalidError
from vdc.model.guest import GuestConfig, GuestNic, GuestProcess, GuestVolume
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.network import Network
from vdc.model.process import EnvField, ImageProcess, Process
from vdc.model.program import DEFAULT_PATH, guest_process, signal_name, volumes_on_root

REDIS = ImageProcess(
    entrypoint=("docker-entrypoint.sh",), cmd=("redis-server",), env=("PATH=/usr/local/bin:/bin", "REDIS_VERSION=7"),
    working_dir="/data", user="", stop_signal="", volumes=("/data",),
)  # fmt: skip
BLOB = Blob(digest=DIGEST, size_bytes=1)
IMAGE = Image(
    kind=ImageKind.CONTAINER, process=REDIS,
    disk=BLOB, kernel=BLOB, initrd=BLOB, cmdline="console=ttyS0",
)  # fmt: skip
CONTAINER = {"type": "container", "dedicatedNodes": 2, "memorySync": "continuous"}
NETWORKS = {"default": Network()}
FACTS = MachineFacts(
    accelerator="tcg", cpu_model="m", qemu_version="11", disk_sizes_bytes=(1,),
    nameservers=("10.77.0.1", "10.77.0.2", "10.77.0.3", "10.77.0.4"),
)  # fmt: skip


def process(**given: object) -> Process:
    return Process.model_validate(given)


def merged(given: Process, image: ImageProcess, hostname: str = "web") -> GuestProcess:
    return guest_process(given, image, hostname, {EnvField.POD_IP: "10.77.0.10", EnvField.UID: UID})


def container(**spec: object):
    return endophyte(virtualComputer=CONTAINER, **spec)


ARGV = [
    ({}, ("docker-entrypoint.sh", "redis-server")),
    ({"args": ["redis-server", "--save", ""]}, ("docker-entrypoint.sh", "redis-server", "--save", "")),
    ({"command": ["sh"]}, ("sh",)),
    ({"command": ["sh"], "args": ["-c", "true"]}, ("sh", "-c", "true")),
    ({"args": []}, ("docker-entrypoint.sh",)),
]


@pytest.mark.parametrize(("given", "argv"), ARGV)
def test_command_replaces_both_and_args_the_second(given: dict[str, object], argv: tuple[str, ...]) -> None:
    assert merged(process(**given), REDIS).argv == argv


def test_what_the_image_says_is_not_expanded() -> None:
    image = ImageProcess(entrypoint=("$(HOME)",), env=("HOME=/root",))
    given = process(env=[{"name": "HOME", "value": "/home"}])
    assert merged(given, image).argv == ("$(HOME)",)


def test_variables_refer_to_those_before_them_and_override_the_images() -> None:
    given = process(
        command=["run", "$(URL)", "$(PATH)"],
        env=[{"name": "HOST", "value": "db"}, {"name": "URL", "value": "http://$(HOST):$(PORT)"},
             {"name": "PORT", "value": "1"}, {"name": "REDIS_VERSION", "value": "8"}],
    )  # fmt: skip
    made = merged(given, REDIS)
    assert made.argv == ("run", "http://db:$(PORT)", "$(PATH)")
    assert made.env == (
        "PATH=/usr/local/bin:/bin", "HOSTNAME=web", "REDIS_VERSION=8", "HOST=db", "URL=http://db:$(PORT)", "PORT=1",
    )  # fmt: skip
    assert f"PATH={DEFAULT_PATH}" in merged(process(command=["x"]), ImageProcess()).env


def test_probes_commands_are_expanded_too() -> None:
    given = process(
        command=["x"], env=[{"name": "PORT", "value": "80"}],
        livenessProbe={"exec": {"command": ["curl", "localhost:$(PORT)"]}}, readinessProbe={"tcpSocket": {"port": 80}},
    )  # fmt: skip
    made = merged(given, REDIS)
    assert made.liveness_probe is not None and made.liveness_probe.exec is not None
    assert made.liveness_probe.exec.command == ("curl", "localhost:80")
    assert made.readiness_probe == given.readiness_probe


def test_the_image_decides_what_the_manifest_leaves_out() -> None:
    image = REDIS.with_(user="redis", stop_signal="3")
    made = merged(process(), image)
    assert (made.user, made.working_dir, made.stop_signal, made.stop_seconds) == (
        "redis",
        "/data",
        "SIGQUIT",
        30,
    )
    given = process(user="1000:1000", workingDir="/srv", stopSignal="INT", stopSeconds=5)
    made = merged(given, image)
    assert (made.user, made.working_dir, made.stop_signal, made.stop_seconds) == (
        "1000:1000",
        "/srv",
        "SIGINT",
        5,
    )
    bare = merged(process(command=["x"]), ImageProcess())
    assert (bare.user, bare.working_dir, bare.stop_signal) == ("0", "/", "SIGTERM")


@pytest.mark.parametrize(
    ("text", "name"), [("SIGRTMIN+3", "SIGRTMIN+3"), ("HUP", "SIGHUP"), ("9", "SIGKILL"), ("37", "37")]
)
def test_signals_have_one_name(text: str, name: str) -> None:
    assert signal_name(text) == name


@pytest.mark.parametrize("given", [{}, {"args": [""]}])
def test_no_command_at_all_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(InvalidError) as caught:
        merged(process(**given), ImageProcess())
    assert caught.value.code == "command-missing"


# ---- all that the guest is told


def test_the_guest_is_told_of_nics_names_and_volumes() -> None:
    disks = [{"name": "root", "size": "20GiB"}, {"name": "data", "size": "1GiB", "mountPath": "/data"},
             {"name": "conf", "size": "1GiB", "mountPath": "/etc/redis", "readOnly": True}]  # fmt: skip
    made = guest_config(container(disks=disks), IMAGE, NETWORKS, FACTS)
    assert made.hostname == "web" and made.domain == "vdc.internal"
    assert made.nameservers == ("10.77.0.1", "10.77.0.2", "10.77.0.3")
    assert made.nics == (GuestNic(mac="52:54:00:00:00:01", address="10.77.0.10", prefix=24, mtu=1400),)
    assert made.volumes == (
        GuestVolume(disk=1, path="/data"),
        GuestVolume(disk=2, path="/etc/redis", read_only=True),
    )


def test_a_volume_begins_with_a_file_system_of_its_own() -> None:
    disks = [{"name": "root"}, {"name": "data", "size": "1GiB", "mountPath": "/data"}]
    one = container(disks=disks)
    images = {one.image_digest: IMAGE}
    root, data = disk_sources(one, images)
    assert (root.size_bytes, root.file_system, data.size_bytes) == (None, "", 2**30)
    assert data.file_system == disk_sources(one, images)[1].file_system and len(data.file_system) == 36
    other = disk_sources(one.with_(uid=DIGEST[-32:]), images)[1]
    assert other.file_system != data.file_system
    assert volumes_on_root(one.manifest.spec, IMAGE) == ()
    assert volumes_on_root(container().manifest.spec, IMAGE) == ("/data",)


def test_the_guest_is_told_what_only_the_cluster_knows() -> None:
    ref = {"fieldRef": {"fieldPath": "status.podIP"}}
    given = {"hostname": "db-0", "env": [{"name": "IP", "valueFrom": ref}], "args": ["--bind", "$(IP)"]}
    told = guest_config(container(process=given), IMAGE, NETWORKS, FACTS)
    assert told.hostname == "db-0" and "HOSTNAME=db-0" in told.process.env
    assert told.process.argv[-2:] == ("--bind", "10.77.0.10")


def test_files_come_as_bytes() -> None:
    given = {
        "files": [{"path": "/etc/a", "content": "hä", "mode": 256}, {"path": "/b", "contentBase64": "AAE="}]
    }
    made = guest_config(container(process=given), IMAGE, NETWORKS, FACTS)
    assert [(file.path, file.content_base64, file.mode) for file in made.files] == [
        ("/etc/a", "aMOk", 0o400), ("/b", "AAE=", 0o644),
    ]  # fmt: skip


def test_both_hosts_write_the_same_bytes() -> None:
    given = {
        "env": [{"name": "B", "value": "1"}, {"name": "A", "value": "2"}],
        "readinessProbe": {"httpGet": {"port": 80}},
    }
    one, other = (guest_config(container(process=given), IMAGE, NETWORKS, FACTS).to_json() for _ in range(2))
    assert one == other
    assert GuestConfig.from_json(one).to_json() == one
    assert json.loads(one)["process"]["readiness_probe"]["httpGet"]["port"] == 80


def test_the_machine_has_the_two_ports_and_the_configuration() -> None:
    spec = machine_spec(container(), IMAGE, FACTS, ())
    assert [(port.name, port.file, port.is_log) for port in spec.guest_ports] == [
        ("mycelium.network.guest.0", "guest.sock", False), ("mycelium.network.output.0", "output.log", True),
    ]  # fmt: skip
    assert spec.config_name == "opt/mycelium.network/config" and spec.uid == UID
    assert machine_spec(endophyte(), IMAGE, FACTS, ()).guest_ports == ()
