"""Container images from a real registry, and from registries that are down, slow or lying."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from filesystem_support import can_mount
from registry_support import AUTH, PASSWORD, Liar, Registry, needs_registry, running_registry, send

from tests.oci_layout import build_oci_image, docker_archive, entry, folder, make_index, oci_archive, tar_of
from vdc.confinement.roots import runtime_root
from vdc.images.oci import fetch
from vdc.images.oci.importing import CarriedDisk, ContainerFiles, import_container
from vdc.images.oci.registries import RegistryOptions
from vdc.images.oci.source import parse_source
from vdc.images.sources import ImportOptions, plan_import
from vdc.model.errors import VdcError
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.units import MIB

ROOT = runtime_root()
pytestmark = [
    pytest.mark.skipif(
        ROOT is None or not (ROOT / "usr/bin/skopeo").exists(), reason="no runtime root: make runtime"
    ),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bwrap: make packages"),
]
LAYER = tar_of(folder("app"), entry("app/run", b"#!" + os.urandom(200_000), mode=0o755))
CONFIG = {"Entrypoint": ["/app/run"], "ExposedPorts": {"80/tcp": {}}}
KERNEL = Image(
    kind=ImageKind.KERNEL,
    kernel=Blob(digest="sha256:" + "1" * 64, size_bytes=1),
    initrd=Blob(digest="sha256:" + "2" * 64, size_bytes=1),
    cmdline="quiet",
)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where imports work; nothing may stay in it. No credentials of the machine's user count."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    yield place
    assert not list(place.iterdir())


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_oci_image(LAYER, tmp_path_factory.mktemp("image") / "app", config=CONFIG)


def certificates(folder_: Path) -> tuple[Path, Path, Path]:
    """A certificate for localhost, its key, and the authority's certificate."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
        for text in ("tests' authority", "registry")
    ]
    paths = [folder_ / name for name in ("server.crt", "server.key", "ca.crt")]
    for index, path in ((0, paths[2]), (1, paths[0])):
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[index])
            .issuer_name(names[0])
            .public_key(keys[index].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=index == 0, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
                ),
                critical=False,
            )
        )
        certificate = builder.sign(keys[0], hashes.SHA256())
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        keys[1].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths[0], paths[1], paths[2]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """With TLS of the tests' own authority, and one user."""
    place = tmp_path_factory.mktemp("registry")
    with running_registry(place, tls=certificates(place), has_users=True) as registry:
        yield registry


def fetched(
    source: str,
    *,
    is_disk: bool = False,
    ca: Path | None = None,
    is_insecure: bool = False,
    auth_file: Path | None = None,
) -> ContainerFiles | CarriedDisk:
    with ExitStack() as owned:
        options = RegistryOptions(ca, is_insecure, auth_file)
        return import_container(parse_source(source), options, owned, lambda *_: None, is_disk=is_disk)


def error_of(source: str, **options: object) -> VdcError:
    with pytest.raises(VdcError) as caught:
        fetched(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and caught.value.problem.hint
    return caught.value


def login(home: Path, place: str, auth: str = AUTH) -> None:
    path = home / ".docker/config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {place: {"auth": auth}}}))


# ---- a real registry


@needs_registry
def test_with_tls_and_a_password(secured: Registry, layout: Path, tmp_path: Path) -> None:
    digest = secured.push(layout, "team/app")
    name = f"docker://{secured.place}/team/app"
    assert error_of(name).code == "registry-untrusted"
    assert "--ca" in error_of(name).problem.hint
    assert error_of(name, ca=secured.ca).code == "registry-unauthorised"
    login(tmp_path / "home", secured.place, "bm9ib2R5Ondyb25n")
    wrong = error_of(name, ca=secured.ca)
    assert (
        wrong.code == "registry-unauthorised" and "bm9ib2R5" not in str(wrong) and "wrong" not in str(wrong)
    )
    login(tmp_path / "home", secured.place)
    made = fetched(name, ca=secured.ca)
    assert isinstance(made, ContainerFiles) and made.process.entrypoint == ("/app/run",)
    assert isinstance(fetched(f"{name}@{digest}", ca=secured.ca), ContainerFiles)
    assert isinstance(fetched(f"{secured.place}/team/app:latest", ca=secured.ca), ContainerFiles)
    missing = error_of(f"{name}:2", ca=secured.ca)
    assert missing.code == "image-not-in-source" and f"{secured.place}/team/app:2" in str(missing)
    assert error_of(f"docker://{secured.place}/team/other", ca=secured.ca).code == "image-not-in-source"
    unknown = error_of(f"{name}@sha256:{'0' * 64}", ca=secured.ca)
    assert unknown.code == "image-not-in-source"


@needs_registry
def test_nobody_sees_the_password(secured: Registry, layout: Path, tmp_path: Path) -> None:
    """Not in the arguments of any process, and in no file that stays."""
    secured.push(layout, "secret/app")
    login(tmp_path / "home", secured.place)
    seen: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    text = path.read_bytes()
                except OSError:
                    continue
                if b"skopeo" in text:
                    seen.add(text.decode(errors="replace"))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        fetched(f"docker://{secured.place}/secret/app", ca=secured.ca)
    finally:
        done.set()
        watcher.join()
    assert seen
    assert not any(AUTH in one or PASSWORD in one for one in seen)


@needs_registry
def test_without_tls_only_if_that_is_wanted(layout: Path, tmp_path: Path) -> None:
    with running_registry(tmp_path / "registry") as registry:
        registry.push(layout, "app")
        assert error_of(f"docker://{registry.place}/app").code == "registry-insecure"
        assert isinstance(fetched(f"docker://{registry.place}/app", is_insecure=True), ContainerFiles)


@needs_registry
def test_a_mirror_is_asked_first(layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_registry(tmp_path / "registry") as registry:
        registry.push(layout, "hub/library/app")
        conf = tmp_path / "registries.conf"
        conf.write_text(
            '[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n'
            f'[[registry.mirror]]\nlocation = "{registry.place}/hub"\ninsecure = true\n'
        )
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
        assert isinstance(fetched("docker://app"), ContainerFiles)


@needs_registry
def test_the_platform_is_chosen(tmp_path: Path) -> None:
    layout = build_oci_image(LAYER, tmp_path / "image", config=CONFIG, tag="amd")
    build_oci_image(tar_of(entry("other")), layout, tag="arm", arch="arm64")
    make_index(layout, ["arm", "amd"], "both")
    make_index(layout, ["arm"], "none")
    with running_registry(tmp_path / "registry") as registry:
        for tag in ("amd", "arm", "both", "none"):
            registry.push(layout, "app", tag=tag)
        name = f"docker://{registry.place}/app"
        made = fetched(f"{name}:both", is_insecure=True)
        assert isinstance(made, ContainerFiles) and made.process.entrypoint == ("/app/run",)
        for tag in ("arm", "none"):
            assert error_of(f"{name}:{tag}", is_insecure=True).code == "image-arch-unsupported"


@needs_registry
def test_two_imports_of_the_same_image_at_once(secured: Registry, layout: Path, tmp_path: Path) -> None:
    secured.push(layout, "twice/app")
    login(tmp_path / "home", secured.place)
    digests: list[str] = []

    def work() -> None:
        options = ImportOptions(registry=RegistryOptions(secured.ca), find_image=lambda _: KERNEL)
        with plan_import(f"docker://{secured.place}/twice/app", options) as plan:
            digests.append(plan.digest)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 2 and len(set(digests)) == 1


# ---- what is planned


def test_the_plan_of_an_import(layout: Path) -> None:
    options = ImportOptions(find_image=lambda name: KERNEL if name == "mycelium/container:latest" else None)
    with plan_import(f"oci:{layout}", options) as plan:
        assert plan.name == "app:latest"
        image = plan.image
        assert (image.kind, image.disk_format, image.disk_virtual_bytes) == (
            ImageKind.CONTAINER,
            "qcow2",
            10 << 30,
        )
        assert (image.kernel, image.initrd, image.cmdline) == (KERNEL.kernel, KERNEL.initrd, "quiet")
        assert image.process is not None and image.process.exposed_ports == ("80/tcp",)
        ((blob, path),) = plan.files
        assert image.disk == blob and path.stat().st_size == blob.size_bytes


def test_a_cluster_without_the_kernel(layout: Path) -> None:
    with pytest.raises(VdcError) as caught, plan_import(f"oci:{layout}"):
        pass
    assert caught.value.code == "container-kernel-missing" and "vdc image import" in caught.value.problem.hint


def test_archives(layout: Path, tmp_path: Path) -> None:
    archive = oci_archive(layout, tmp_path / "app.tar")
    assert isinstance(fetched(f"oci-archive:{archive}"), ContainerFiles)
    saved = docker_archive([LAYER], tmp_path / "saved.tar", tag="team/app:1", config=CONFIG)
    assert isinstance(fetched(f"docker-archive:{saved}"), ContainerFiles)
    subprocess.run(["gzip", "-1", "-k", saved], check=True, timeout=60)
    assert isinstance(fetched(f"docker-archive:{saved}.gz"), ContainerFiles)
    assert error_of(f"docker-archive:{saved}:team/app:2").code == "image-not-in-source"
    for path in (archive, saved):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert error_of(f"oci-archive:{archive}").code in (
        "image-damaged",
        "registry-unreachable",
        "image-not-in-source",
    )
    assert error_of(f"docker-archive:{saved}").code in (
        "image-damaged",
        "registry-unreachable",
        "image-not-in-source",
    )


def test_a_disk_in_a_container_image(tmp_path: Path) -> None:
    raw = os.urandom(510) + b"\x55\xaa" + bytes(MIB - 512)
    layer = tar_of(folder("disk"), entry("disk/vm.img", raw, uid=107, gid=107))
    layout = build_oci_image(layer, tmp_path / "carrier")
    with plan_import(f"oci:{layout}", ImportOptions(find_image=lambda _: KERNEL)) as plan:
        assert plan.image.kind is ImageKind.DISK and plan.image.disk_virtual_bytes == MIB
        assert plan.image.process is None and any("vm.img" in note for note in plan.notes)
    program = build_oci_image([layer, LAYER], tmp_path / "program", config=CONFIG)
    with plan_import(f"oci:{program}", ImportOptions(find_image=lambda _: KERNEL)) as plan:
        assert plan.image.kind is ImageKind.CONTAINER
    with plan_import(f"oci:{program}", ImportOptions(is_container_disk=True)) as plan:
        assert plan.image.kind is ImageKind.DISK
    assert (
        error_of(f"oci:{build_oci_image(LAYER, tmp_path / 'none')}", is_disk=True).code
        == "container-disk-missing"
    )


def test_a_layout_whose_files_are_not_what_they_are_called(tmp_path: Path) -> None:
    for number, part in enumerate(("layers", "config")):
        layout = build_oci_image(LAYER, tmp_path / part, config=CONFIG)
        (wanted,) = json.loads((layout / "index.json").read_text())["manifests"]
        manifest = json.loads((layout / "blobs/sha256" / wanted["digest"][7:]).read_text())
        descriptor = manifest["layers"][0] if part == "layers" else manifest["config"]
        path = layout / "blobs/sha256" / descriptor["digest"][7:]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        assert error_of(f"oci:{layout}").code in ("image-digest-mismatch", "image-damaged"), number


@pytest.mark.parametrize("is_compressed", [True, False])
def test_layers_that_the_configuration_does_not_know(tmp_path: Path, is_compressed: bool) -> None:
    rootfs = {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "c" * 64]}}
    layout = build_oci_image(LAYER, tmp_path / "image", described=rootfs, is_compressed=is_compressed)
    assert error_of(f"oci:{layout}").code == "image-digest-mismatch"


@pytest.mark.parametrize("program", ["gzip", "zstd"])
def test_a_layer_that_cannot_be_unpacked(program: str, tmp_path: Path) -> None:
    whole = subprocess.run([program, "-c"], input=LAYER, capture_output=True, check=True, timeout=60).stdout
    for number, content in enumerate((whole, whole[: len(whole) // 2])):
        diff_ids = {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(LAYER).hexdigest()]}}
        layout = build_oci_image(content, tmp_path / str(number), described=diff_ids, is_compressed=False)
        if number == 0:
            assert isinstance(fetched(f"oci:{layout}"), ContainerFiles)
        else:
            assert error_of(f"oci:{layout}").code in ("image-unsafe", "image-digest-mismatch")


# ---- registries that misbehave


def test_a_registry_that_is_down() -> None:
    error = error_of("docker://localhost:1/app")
    assert error.code == "registry-unreachable" and "localhost:1" in str(error)


def half(handler: BaseHTTPRequestHandler, content: bytes) -> bytes | None:
    """A connection that breaks."""
    send(handler, content[: len(content) // 2], length=len(content))
    handler.close_connection = True
    return None


def failing(handler: BaseHTTPRequestHandler, content: bytes) -> bytes | None:
    send(handler, b"{}", status=503)
    return None


@pytest.mark.parametrize(
    ("how", "codes"),
    [
        (lambda handler, content: bytes(len(content)), {"image-digest-mismatch", "image-damaged"}),
        (lambda handler, content: content + b"more", {"image-digest-mismatch"}),
        (
            lambda handler, content: content[:-1],
            {"image-digest-mismatch", "image-damaged", "registry-unreachable"},
        ),
        (half, {"registry-unreachable", "image-digest-mismatch"}),
        (failing, {"registry-unreachable"}),
    ],
)
def test_blobs_that_are_not_what_was_asked_for(layout: Path, how: object, codes: set[str]) -> None:
    with Liar(layout, on_blob=how) as liar:  # type: ignore[arg-type]
        assert error_of(f"docker://{liar.place}/app", is_insecure=True).code in codes


def test_a_manifest_that_is_not_what_was_asked_for(layout: Path) -> None:
    with Liar(layout, on_manifest=lambda handler, content: content + b" ") as liar:
        name = f"docker://{liar.place}/app@sha256:{'0' * 64}"
        assert error_of(name, is_insecure=True).code == "image-digest-mismatch"
    with Liar(layout, on_manifest=lambda handler, content: b"[1]") as liar:
        assert error_of(f"docker://{liar.place}/app", is_insecure=True).code == "image-damaged"


def test_a_registry_that_stops_talking(layout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_STALLED_S", 2.0)

    def stall(handler: BaseHTTPRequestHandler, content: bytes) -> bytes | None:
        if len(content) < 100_000:
            return content  # the configuration
        send(handler, content[:50_000], length=len(content))
        handler.wfile.flush()
        liar.closing.wait(60)
        handler.close_connection = True
        return None

    with Liar(layout, on_blob=stall) as liar:
        error = error_of(f"docker://{liar.place}/app", is_insecure=True)
        liar.closing.set()
    assert error.code == "registry-slow"


def test_a_broken_download_is_taken_up_again(layout: Path) -> None:
    broken: list[str] = []

    def once(handler: BaseHTTPRequestHandler, content: bytes) -> bytes | None:
        if handler.path in broken or len(content) < 100_000:
            return content
        broken.append(handler.path)
        return half(handler, content)

    with Liar(layout, on_blob=once) as liar:
        assert isinstance(fetched(f"docker://{liar.place}/app", is_insecure=True), ContainerFiles)
    assert len(broken) == 1


@pytest.mark.skipif(not can_mount(), reason="needs root (mount)")
def test_a_disk_that_fills_up_half_way(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=90m", "tmpfs", str(small)], check=True, timeout=10)
    monkeypatch.setenv("TMPDIR", str(small))
    try:
        layout = build_oci_image(tar_of(entry("zeros", bytes(60 * MIB))), tmp_path / "image")
        error = error_of(f"oci:{layout}")
        assert error.code == "no-space" and not list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True, timeout=10)


def test_ctrl_c_leaves_nothing(layout: Path, temporary: Path) -> None:
    def stall(handler: BaseHTTPRequestHandler, content: bytes) -> bytes | None:
        if len(content) < 100_000:
            return content
        send(handler, content[:50_000], length=len(content))
        handler.wfile.flush()
        began.set()
        liar.closing.wait(60)
        return None

    code = (
        "import sys; from contextlib import ExitStack; from vdc.images.oci.importing import import_container\n"
        "from vdc.images.oci.source import parse_source; from vdc.images.oci.registries import RegistryOptions\n"
        "with ExitStack() as owned:\n"
        "    import_container(parse_source(sys.argv[1]), RegistryOptions(is_insecure=True), owned, lambda *_: None)\n"
    )
    began = threading.Event()
    with Liar(layout, on_blob=stall) as liar:
        name = f"docker://{liar.place}/app"
        process = subprocess.Popen([sys.executable, "-c", code, name], stderr=subprocess.PIPE)
        try:
            assert began.wait(60)
            process.send_signal(signal.SIGINT)
            _, complaint = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
            liar.closing.set()
    assert b"KeyboardInterrupt" in complaint
    end = time.monotonic() + 10
    while time.monotonic() < end and any(
        name.encode() in _read(path) for path in Path("/proc").glob("[0-9]*/cmdline")
    ):
        time.sleep(0.05)
    assert not any(name.encode() in _read(path) for path in Path("/proc").glob("[0-9]*/cmdline"))
    assert not list(temporary.iterdir())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
