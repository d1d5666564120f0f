"""A repository in a bucket: a server process that speaks S3 (moto's), asked over HTTP by the client library."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from vdc.backup import locks
from vdc.backup.record import CHUNK_BYTES
from vdc.backup.repository import Repository, chunk_key
from vdc.backup.s3 import Bucket, open_bucket
from vdc.model.errors import ConflictError, InvalidError, NotFoundError, RefusedError, UnavailableError

CONTENT = bytes(range(256)) * (CHUNK_BYTES // 256)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            end = time.monotonic() + 60
            while not answers(port):
                assert server.poll() is None and time.monotonic() < end, "the server does not come up"
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(10)


@pytest.fixture(autouse=True)
def account(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> Repository:
    place = f"s3://backups/{request.node.name}"
    client = open_bucket(place)._client
    if not client.bucket_exists("backups"):
        client.make_bucket("backups")
    return Repository.init(place)[0]


def test_objects_are_written_read_listed_and_deleted(repository: Repository) -> None:
    assert isinstance(repository.storage, Bucket)
    assert Repository.open(repository.storage.name).storage.name == repository.storage.name
    digest, written = repository.put(CONTENT)
    assert written and repository.put(CONTENT) == (digest, 0)
    assert repository.get(digest, CHUNK_BYTES) == CONTENT
    assert [one.key for one in repository.storage.list("chunks/")] == [chunk_key(digest)]
    repository.storage.write(chunk_key(digest), b"\x00damaged")
    with pytest.raises(InvalidError):
        repository.get(digest, CHUNK_BYTES)
    assert repository.put(CONTENT, again=True)[1]
    repository.storage.delete(chunk_key(digest))
    repository.storage.delete(chunk_key(digest))
    with pytest.raises(NotFoundError):
        repository.get(digest, CHUNK_BYTES)


def test_a_large_object_is_written_in_one_piece(repository: Repository) -> None:
    """A description of a large disk; the tag of one that was put together of parts has a dash."""
    storage = repository.storage
    assert isinstance(storage, Bucket)
    content = CONTENT * 3
    storage.write("backups/large", content)
    assert storage.read("backups/large") == content
    tag = storage._client.stat_object("backups", storage._path("backups/large")).etag
    assert tag and "-" not in tag


def test_more_objects_than_one_answer_lists_are_all_found(repository: Repository) -> None:
    for number in range(1_001):
        repository.storage.write(f"chunks/{number}", b"x")
    assert len(list(repository.storage.list("chunks/"))) == 1_001


def test_locks_exclude_each_other(repository: Repository) -> None:
    storage = repository.storage
    with (
        locks.alone(storage, "one"),
        pytest.raises(ConflictError) as caught,
        locks.shared(storage, "other"),
    ):
        pass
    assert caught.value.code == "repository-busy"
    assert not list(repository.storage.list("locks/"))


def test_what_is_wrong_is_said(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError) as missing:
        Repository.init("s3://no-such-bucket/x")
    assert missing.value.code == "no-bucket"
    with pytest.raises(NotFoundError) as nothing:
        Repository.open("s3://backups/elsewhere")
    assert nothing.value.code == "not-a-repository"
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UnavailableError) as silent:
        Repository.open("s3://backups/x")
    assert silent.value.code == "repository-unreachable"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(RefusedError) as nobody:
        Repository.open("s3://backups/x")
    assert nobody.value.code == "repository-credentials"
