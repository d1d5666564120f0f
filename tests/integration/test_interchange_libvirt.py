"""A real libvirt: domains of virt-install become manifests, these become domains, and nothing changes on the way."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from embedded_libvirt import EmbeddedLibvirt, embedded_libvirt, missing

from hostagent.drivers.libvirt import sandbox
from vdc.confinement.roots import runtime_root
from vdc.interchange.domain import read_domain
from vdc.interchange.incoming import Import, Wishes, plan_domain
from vdc.interchange.libvirt import read_libvirt
from vdc.interchange.outgoing import export_domain
from vdc.model.endophyte import Nic
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.manifest import Display, Firmware
from vdc.model.units import MIB


def why_not() -> str:
    if importlib.util.find_spec("libvirt") is None:
        return "needs the Python module libvirt (make setup)"
    if runtime_root() is None:
        return "needs the runtime root (make setup)"
    return missing({"bwrap": "bubblewrap", "virt-install": "virtinst"})


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

BLOB = Blob(digest="sha256:" + "a" * 64, size_bytes=1)
SECURE = ("firmware=efi,firmware.feature0.name=secure-boot,firmware.feature0.enabled=yes,"
          "firmware.feature1.name=enrolled-keys,firmware.feature1.enabled=yes")  # fmt: skip
COMMON = (
    "--check",
    "mac_in_use=off",
    "--virt-type",
    "qemu",
    "--osinfo",
    "detect=off,require=off",
    "--import",
    "--noautoconsole",
)


@pytest.fixture(scope="module")
def libvirt() -> Iterator[EmbeddedLibvirt]:
    """One for all tests: it remembers what QEMU can do."""
    runtime = runtime_root()
    assert runtime is not None
    with embedded_libvirt(runtime.resolve(), sandbox.emulator(runtime.resolve())) as libvirt:
        yield libvirt


def installed(libvirt: EmbeddedLibvirt, name: str, *more: str) -> None:
    """A domain of virt-install with a disk file, defined. Without a word it would have a TPM beside UEFI."""
    disk = libvirt.root / f"{name}.img"
    disk.write_bytes(b"\0" * 510 + b"\x55\xaa" + b"x" * 512)
    xml = libvirt.virt_install(
        "--name", name, "--memory", "256", "--vcpus", "2", *COMMON,
        "--disk", f"source.file={disk},driver.name=qemu,driver.type=raw,target.bus=virtio,target.dev=vda",
        "--network", "bridge=br0,model=virtio,mac=52:54:00:11:22:33",
        *(() if "--tpm" in more else ("--tpm", "none")), *more,
    )  # fmt: skip
    libvirt.define(xml)


def plan_of(libvirt: EmbeddedLibvirt, name: str) -> Import:
    found = read_libvirt(libvirt.uri, name, python=(*libvirt.wrapper(), sys.executable))
    assert (found.name, found.state, found.has_saved_memory) == (name, "shutoff", False)
    return plan_domain(
        read_domain(found.xml.encode()), Wishes(networks={"br0": "default", "default": "default"})
    )


def exported(plan: Import, name: str) -> str:
    """What `vdc export` would write of the Endophyte that the plan makes."""
    spec = plan.manifest.spec
    return export_domain(
        plan.manifest.with_(metadata=plan.manifest.metadata.with_(name=name)),
        uid=str(uuid4()),
        nics=[Nic(network=port.network, mac=port.mac or "", address="") for port in spec.networks],
        firmware=spec.firmware or Firmware.BIOS,
        image=Image(kind=ImageKind.DISK, disk=BLOB),
        folder="/var/lib/libvirt/images",
        domain_type="qemu",
    ).xml


KINDS: dict[str, tuple[tuple[str, ...], Firmware, Display, bool]] = {
    "bios": (("--graphics", "none"), Firmware.BIOS, Display.NONE, False),
    "pc": (("--graphics", "vnc", "--machine", "pc"), Firmware.BIOS, Display.VNC, False),
    "uefi": (("--graphics", "none", "--boot", "uefi"), Firmware.UEFI, Display.NONE, False),
    "secure": (("--graphics", "vnc", "--boot", SECURE, "--machine", "q35"), Firmware.UEFI_SECURE, Display.VNC, False),
    "tpm": (
        ("--graphics", "none", "--tpm", "backend.type=emulator,backend.version=2.0,model=tpm-crb"),
        Firmware.BIOS, Display.NONE, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_virt_install_makes_comes_here_and_back(libvirt: EmbeddedLibvirt, kind: str) -> None:
    options, firmware, display, tpm = KINDS[kind]
    installed(libvirt, kind, *options)
    plan = plan_of(libvirt, kind)
    spec = plan.manifest.spec
    assert (spec.resources.cpus, spec.resources.memory) == (2, 256 * MIB)
    assert (spec.firmware, spec.display, spec.tpm) == (firmware, display, tpm)
    assert [nic.mac for nic in spec.networks] == ["52:54:00:11:22:33"]
    assert [(disk.file.path, disk.file.format) for disk in plan.disks] == [
        (f"{libvirt.root}/{kind}.img", "raw")
    ]
    assert [str(loss) for loss in plan.losses if "not known here" in loss.text] == []
    libvirt.define(exported(plan, f"{kind}-back"))  # validated against libvirt's schema
    again = plan_of(libvirt, f"{kind}-back").manifest.spec
    assert again.with_(image=spec.image) == spec


def test_the_command_asks_a_real_libvirt_and_changes_nothing(libvirt: EmbeddedLibvirt) -> None:
    installed(libvirt, "sounding", "--graphics", "none", "--sound", "ich9")
    files = {path: path.read_bytes() for path in (libvirt.root / "etc").rglob("*.xml")}
    command = [
        str(Path(sys.executable).parent / "vdc"),
        "import",
        "libvirt",
        "sounding",
        "--uri",
        libvirt.uri,
        "--dry-run",
        "-o",
        "json",
    ]
    done = subprocess.run(
        [*libvirt.wrapper(), *command], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metadata"]["name"] == "sounding"
    assert "not kept: devices/sound" in done.stderr
    assert {path: path.read_bytes() for path in (libvirt.root / "etc").rglob("*.xml")} == files


def test_a_domain_that_is_not_there(libvirt: EmbeddedLibvirt) -> None:
    installed(libvirt, "known", "--graphics", "none")
    from vdc.model.errors import NotFoundError

    with pytest.raises(NotFoundError) as caught:
        plan_of(libvirt, "nobody")
    assert caught.value.problem.hint.startswith("it has: ") and "known" in caught.value.problem.hint


def test_libvirt_itself_refuses_changes_by_the_helpers_connection() -> None:
    """Its test driver has a running domain without any machine."""
    program = (
        "import json, libvirt\n"
        "from vdc.interchange.libvirt_worker import answer\n"
        "found = answer({'uri': 'test:///default', 'name': 'test'})\n"
        "domain = libvirt.openReadOnly('test:///default').lookupByName('test')\n"
        "refused = 0\n"
        "for change in (domain.destroy, domain.undefine, domain.shutdown):\n"
        "    try: change()\n"
        "    except libvirt.libvirtError: refused += 1\n"
        "print(json.dumps([found['state'], found['name'], refused]), flush=True)\n"
        "import os; os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == ["running", "test", 3]


@pytest.mark.skipif(
    shutil.which("virt-xml-validate") is None, reason="needs virt-xml-validate (libvirt-clients)"
)
@pytest.mark.skipif(shutil.which("xmllint") is None, reason="needs xmllint (libxml2-utils)")
def test_the_golden_export_is_valid(tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "unit/golden/interchange/exported.domain"
    path = tmp_path / "domain.xml"
    path.write_text(golden.read_text().partition("</domain>")[0] + "</domain>\n")
    done = subprocess.run(
        ["virt-xml-validate", str(path), "domain"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
