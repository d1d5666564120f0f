"""`vdc import libvirt` and `vdc export` against the real API, with disks that are files."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_support import Capture, Cluster, cluster, manifest_of, vdc
from test_images_inspect import boot_sector

from vdc.api.models import ImageView
from vdc.interchange import libvirt
from vdc.interchange.domain import read_domain
from vdc.model.errors import RefusedError
from vdc.model.image import Blob, Image, ImageKind

__all__ = ["cluster"]

DOMAIN = """<domain type='kvm'><name>web</name><memory unit='MiB'>512</memory><vcpu>2</vcpu>
<os><type>hvm</type>{os}</os><features><acpi/></features><devices>
<disk type='file' device='disk'><driver type='{form}'/><source file='{folder}/root.img'/>
<target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver type='raw'/><source file='{folder}/data.img'/>
<target dev='vdb' bus='virtio'/></disk>
<interface type='bridge'><mac address='52:54:00:aa:bb:cc'/><source bridge='br0'/><model type='virtio'/></interface>
<sound model='ich9'/></devices></domain>"""
KERNEL = "<kernel>{folder}/vmlinuz</kernel><initrd>{folder}/initrd</initrd><cmdline>console=ttyS0</cmdline>"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "root.img").write_bytes(boot_sector() * 4)
    (folder / "data.img").write_bytes(b"payload!" * 128)
    (folder / "vmlinuz").write_bytes(b"kernel")
    (folder / "initrd").write_bytes(b"initrd")
    return folder


def write(home: Path, *, form: str = "raw", os: str = "") -> str:
    path = home / "web.xml"
    path.write_text(DOMAIN.format(folder=home, form=form, os=os.format(folder=home)))
    return str(path)


def test_a_domain_becomes_an_endophyte_with_its_disks(cluster: Cluster, capsys: Capture, home: Path) -> None:
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in home.iterdir()}
    code, out, err = vdc(
        capsys, "import", "libvirt", "--xml", write(home), "--image-name", "me/web:1", "--wait"
    )
    assert code == 0, err
    assert out.splitlines()[:2] == [
        "image/me/web:1 imported (1 of 1 files sent)", "image/me/web-vdb:1 imported (1 of 1 files sent)",
    ]  # fmt: skip
    assert "endophyte/web created" in out
    assert "not kept: devices/sound: there is no sound device" in err
    assert "changed: devices/interface/source: br0 becomes overlay default" in err
    ((what, manifest),) = cluster.asked
    assert what == "create"
    assert [(disk.name, disk.image) for disk in manifest.spec.disks] == [
        ("vda", None),
        ("vdb", "me/web-vdb:1"),
    ]
    assert manifest.spec.networks[0].mac == "52:54:00:aa:bb:cc"
    assert manifest.spec.wants_protection
    digest = cluster.images["me/web-vdb:1"].image.disk.digest  # type: ignore[union-attr]
    assert cluster.blobs[digest] == b"payload!" * 128
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in home.iterdir()}
    assert {name: after[name] for name in before} == before


def test_its_kernel_comes_with_the_first_disk(cluster: Cluster, capsys: Capture, home: Path) -> None:
    code, _, err = vdc(capsys, "import", "libvirt", "--xml", write(home, os=KERNEL))
    assert code == 0, err
    image = cluster.images["imported/web:latest"].image
    assert (image.kind, image.cmdline) == (ImageKind.KERNEL, "console=ttyS0")
    assert [cluster.blobs[blob.digest][:6] for blob in image.blobs] == [
        boot_sector()[:6],
        b"kernel",
        b"initrd",
    ]


def test_a_dry_run_prints_what_can_be_applied_and_does_nothing(
    cluster: Cluster, capsys: Capture, home: Path
) -> None:
    code, out, err = vdc(
        capsys,
        "import",
        "libvirt",
        "--xml",
        write(home),
        "--dry-run",
        "--no-protect",
        "--name",
        "other",
        "-o",
        "yaml",
    )
    assert code == 0
    assert f"image imported/other:latest: made of {home}/root.img (raw)" in err
    assert "not kept: devices/sound" in err and "devices/sound" not in out
    path = home / "manifest.yaml"
    path.write_text(out)
    assert (cluster.asked, cluster.images, cluster.blobs) == ([], {}, {})
    code, out, err = vdc(capsys, "apply", "-f", str(path), "--dry-run")
    assert (code, out) == (0, "endophyte/other created (dry run)\n"), err


def test_output_for_scripts_is_one_object(cluster: Cluster, capsys: Capture, home: Path) -> None:
    code, out, _ = vdc(capsys, "import", "libvirt", "--xml", write(home), "-o", "json")
    assert (code, json.loads(out)["metadata"]["name"]) == (0, "web")


MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "neither name nor file": ([], 2, "usage"),
    "both": (["web", "--xml", "{xml}"], 2, "usage"),
    "a file and a libvirt": (["--xml", "{xml}", "--uri", "qemu:///system"], 2, "usage"),
    "no such file": (["--xml", "{home}/none.xml"], 1, "xml-not-found"),
    "no XML": (["--xml", "{home}/data.img"], 1, "xml-invalid"),
    "a strange mapping": (["--xml", "{xml}", "--network", "br0"], 2, "usage"),
    "a strange name": (["--xml", "{xml}", "--name", "No Name"], 2, "usage"),
    "an unknown overlay": (["--xml", "{xml}", "--network", "br0=office"], 1, "network-not-found"),
    "another machine": (["web", "--uri", "qemu+ssh://root@h/system"], 1, "uri-unsupported"),
    "another hypervisor": (["web", "--uri", "xen:///system"], 1, "uri-unsupported"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_line(cluster: Cluster, capsys: Capture, home: Path, what: str) -> None:
    words, expected, text = MISTAKES[what]
    given = [word.format(xml=write(home), home=home) for word in words]
    code, out, err = vdc(capsys, "import", "libvirt", *given)
    assert (code, out) == (expected, "")
    assert f"({text})" in err
    assert (cluster.asked, cluster.images) == ([], {})


def test_a_name_that_is_taken_is_found_before_anything_is_copied(
    cluster: Cluster, capsys: Capture, home: Path
) -> None:
    cluster.add("web")
    code, out, err = vdc(capsys, "import", "libvirt", "--xml", write(home))
    assert (code, out, cluster.images) == (1, "", {})
    assert "(name-taken)" in err


def test_the_xml_decides_the_format_and_the_header_has_to_agree(
    cluster: Cluster, capsys: Capture, home: Path
) -> None:
    code, _, err = vdc(capsys, "import", "libvirt", "--xml", write(home, form="qcow2"))
    assert (code, cluster.images) == (1, {})
    assert "(image-format-mismatch)" in err


def test_a_disk_that_is_written_to_while_it_is_read_makes_no_vm(
    cluster: Cluster, capsys: Capture, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vdc.cli.commands import importing

    send = importing._send

    def disturbed(*arguments: Any, **options: Any) -> None:
        send(*arguments, **options)
        (home / "root.img").write_bytes(boot_sector() * 5)

    monkeypatch.setattr(importing, "_send", disturbed)
    code, _, err = vdc(capsys, "import", "libvirt", "--xml", write(home))
    assert code == 1 and "(disk-changed)" in err
    assert cluster.asked == []


# ---- libvirt's helper


def helper(tmp_path: Path, text: str) -> list[str]:
    """A program in place of the helper's interpreter."""
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\nimport json, sys, time\nrequest = json.load(sys.stdin)\n{text}\n")
    path.chmod(0o755)
    return [str(path)]


def answering(**more: Any) -> str:
    answer = {
        "uri": "qemu:///system", "name": "web", "xml": "<domain/>", "state": "shutoff", "autostart": False,
        "has_saved_memory": False, **more,
    }  # fmt: skip
    return f"print(json.dumps({answer!r}))"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (answering(state="running"), "domain-running"),
        (answering(state="paused"), "domain-running"),
        (answering(state="pmsuspended"), "domain-running"),
        (answering(has_saved_memory=True), "domain-saved"),
        ("time.sleep(60)", "libvirt-unavailable"),
        ("sys.exit('no libvirt today')", "libvirt-unavailable"),
        ("print('not json')", "libvirt-unavailable"),
        ("print('[1]')", "libvirt-unavailable"),
        ("print('{}')", "libvirt-unavailable"),
        ("print(json.dumps({'error': 'missing', 'reason': 'no module'}))", "libvirt-missing"),
        (
            "print(json.dumps({'error': 'domain-missing', 'reason': 'web', 'names': ['a']}))",
            "domain-not-found",
        ),
        ("print(json.dumps({'error': 'unavailable', 'reason': 'x'}))", "libvirt-unavailable"),
    ],
)
def test_what_libvirt_says_or_does_not_say(tmp_path: Path, text: str, code: str) -> None:
    from vdc.model.errors import VdcError

    deadline_s = 0.3 if "sleep" in text else 30.0
    with pytest.raises(VdcError) as caught:
        libvirt.read_libvirt("qemu:///system", "web", deadline_s=deadline_s, python=helper(tmp_path, text))
    assert caught.value.code == code
    assert caught.value.problem.hint


def test_an_embedded_libvirt_that_would_start_domains_is_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "etc" / "qemu" / "autostart"
    folder.mkdir(parents=True)
    (folder / "web.xml").touch()
    with pytest.raises(RefusedError) as caught:
        libvirt.read_libvirt(
            f"qemu:///embed?root={tmp_path}", "web", python=helper(tmp_path, "raise SystemExit(1)")
        )
    assert caught.value.code == "domain-autostart"


# ---- export


def test_an_endophyte_is_written_as_a_domain(cluster: Cluster, capsys: Capture, tmp_path: Path) -> None:
    blob = Blob(digest="sha256:" + hashlib.sha256(b"").hexdigest(), size_bytes=0)
    cluster.images["x:latest"] = ImageView(
        size_bytes=0,
        digest="sha256:" + "d" * 64,
        image=Image(kind=ImageKind.DISK, disk=blob),
        names=("x:latest",),
    )
    cluster.add("web", manifest_of("web", resources={"cpus": 2, "memory": "1GiB"}))
    code, out, err = vdc(capsys, "export", "web", "--domain-type", "qemu")
    assert code == 0
    assert "to do: disk vda: bring its content to /var/lib/libvirt/images/web-vda.qcow2" in err
    domain = read_domain(out.encode())
    assert (domain.computer.name, domain.computer.cpus, domain.nics[0].mac) == ("web", 2, "52:54:00:00:00:01")
    cluster.add("pinned", manifest_of("pinned", image="sha256:" + "d" * 64))
    assert vdc(capsys, "export", "pinned")[0] == 0
    target = tmp_path / "web.xml"
    code, printed, _ = vdc(capsys, "export", "web", "-o", str(target), "--disk-folder", "/srv/")
    assert (code, printed) == (0, f"{target} written\n")
    assert "/srv/web-vda.qcow2" in target.read_text()


def test_an_export_that_cannot_be_made(cluster: Cluster, capsys: Capture) -> None:
    assert vdc(capsys, "export", "nobody")[0] == 1
    assert vdc(capsys, "export", "nobody", "--disk-folder", "images")[0] == 2
    cluster.add("web")
    code, out, err = vdc(capsys, "export", "web")
    assert (code, out) == (1, "") and "(image-not-found)" in err
