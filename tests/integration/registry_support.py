"""Registries for the tests: Debian's own one as a process on loopback, and one that misbehaves as it is told."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import http.client
import ipaddress
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USER, PASSWORD = "vdc", "wisteria"
_HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuufZGO6TzftV2LpGsQI9WOmmVjXgXzyUG\n"  # bcrypt of it
AUTH = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

needs_registry = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="no docker-registry: make packages"
)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Registry:
    """`place` is host and port; `ca` the certificate that its own one is signed by, None without TLS."""

    place: str
    ca: Path | None = None
    has_users: bool = False

    def push(self, layout: Path, repository: str, *, tag: str | None = None) -> str:
        """Send the image (or index) of a layout's tag; returns its digest there."""
        index = json.loads((layout / "index.json").read_text())
        ref = "org.opencontainers.image.ref.name"
        wanted = next(one for one in index["manifests"] if tag is None or one["annotations"][ref] == tag)
        name = wanted["annotations"][ref]
        with contextlib.closing(self._connection()) as connection:
            self._send_manifest(connection, layout, repository, wanted, name)
        return str(wanted["digest"])

    def _connection(self) -> http.client.HTTPConnection:
        host, _, port = self.place.partition(":")
        if self.ca is None:
            return http.client.HTTPConnection(host, int(port), timeout=30)
        context = ssl.create_default_context(cafile=str(self.ca))
        return http.client.HTTPSConnection(host, int(port), timeout=30, context=context)

    def _send_manifest(
        self,
        connection: http.client.HTTPConnection,
        layout: Path,
        repository: str,
        wanted: dict[str, Any],
        name: str,
    ) -> None:
        content = _blob(layout, wanted["digest"])
        manifest = json.loads(content)
        for inner in manifest.get("manifests", []):
            self._send_manifest(connection, layout, repository, inner, inner["digest"])
        for blob in [*manifest.get("layers", []), *([manifest["config"]] if "config" in manifest else [])]:
            self._send_blob(connection, layout, repository, blob["digest"])
        self._ask(connection, "PUT", f"/v2/{repository}/manifests/{name}", content, wanted["mediaType"])

    def _send_blob(
        self, connection: http.client.HTTPConnection, layout: Path, repository: str, digest: str
    ) -> None:
        where = self._ask(connection, "POST", f"/v2/{repository}/blobs/uploads/", b"")["Location"]
        path = where.partition("/v2/")[2]
        mark = "&" if "?" in path else "?"
        self._ask(
            connection,
            "PUT",
            f"/v2/{path}{mark}digest={digest}",
            _blob(layout, digest),
            "application/octet-stream",
        )

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes,
        kind: str = "text/plain",
    ) -> http.client.HTTPMessage:
        headers = {"Content-Type": kind, "Content-Length": str(len(body))}
        if self.has_users:
            headers["Authorization"] = f"Basic {AUTH}"
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status in (201, 202), (method, path, answer.status, said)
        return answer.headers


def _blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """A certificate for localhost, its key, and the authority's certificate."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
        for text in ("tests' authority", "registry")
    ]
    paths = [folder / name for name in ("server.crt", "server.key", "ca.crt")]
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


@contextlib.contextmanager
def running_registry(
    folder: Path, *, tls: tuple[Path, Path, Path] | None = None, has_users: bool = False
) -> Iterator[Registry]:
    """Debian's registry with an empty store. `tls`: its certificate, its key, the authority's certificate."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    config = [
        "version: 0.1",
        "log: {level: error}",
        f"storage: {{filesystem: {{rootdirectory: {folder}/store}}}}",
    ]
    config.append(f"http:\n  addr: 127.0.0.1:{port}")
    if tls:
        config.append(f"  tls: {{certificate: {tls[0]}, key: {tls[1]}}}")
    if has_users:
        (folder / "users").write_text(_HTPASSWD)
        config.append(f"auth: {{htpasswd: {{realm: tests, path: {folder}/users}}}}")
    (folder / "config.yml").write_text("\n".join(config) + "\n")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log
        )
    try:
        _wait_for(port, process, folder / "log")
        yield Registry(f"localhost:{port}", tls[2] if tls else None, has_users)
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError("the registry does not listen")


@dataclass
class Liar:
    """A registry over plain HTTP that serves one image of a layout, and does what `on_blob` and `on_manifest` say.

    Each gets the handler and the honest answer, and returns what is sent, or None where it has answered itself.
    """

    layout: Path
    on_blob: Callable[[BaseHTTPRequestHandler, bytes], bytes | None] = lambda handler, content: content
    on_manifest: Callable[[BaseHTTPRequestHandler, bytes], bytes | None] = lambda handler, content: content
    asked: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        liar = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                liar.asked.append(f"{self.command} {self.path}")
                liar.answer(self)

            do_HEAD = do_GET  # noqa: N815 - http.server's name

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle()

            def log_message(self, *_: object) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def place(self) -> str:
        return f"localhost:{self._server.server_address[1]}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        kind, _, name = handler.path.rpartition("/")
        (wanted,) = json.loads((self.layout / "index.json").read_text())["manifests"]
        if handler.path == "/v2/":
            send(handler, b"{}")
        elif kind.endswith("/manifests"):
            content = self.on_manifest(handler, _blob(self.layout, wanted["digest"]))
            if content is not None:
                digest = "sha256:" + hashlib.sha256(content).hexdigest()
                send(handler, content, kind=wanted["mediaType"], digest=digest)
        else:
            content = self.on_blob(handler, _blob(self.layout, name))
            if content is not None:
                send(handler, content)


def send(
    handler: BaseHTTPRequestHandler, content: bytes, *, status: int = 200, kind: str = "application/json",
    digest: str = "", length: int | None = None,
) -> None:  # fmt: skip
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    if digest:
        handler.send_header("Docker-Content-Digest", digest)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(content)
