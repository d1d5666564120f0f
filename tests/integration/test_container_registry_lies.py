"""Registries that are down, slow or lying."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from container_import import CONFIG, LAYER, NEEDS, error_of, fetched
from registry_support import Liar, send

from tests.oci_layout import build_oci_image
from vdc.images.oci import fetch
from vdc.images.oci.importing import ContainerFiles

pytestmark = [*NEEDS, pytest.mark.usefixtures("temporary")]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_oci_image(LAYER, tmp_path_factory.mktemp("image") / "app", config=CONFIG)


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
