"""A repository in a bucket of anything that speaks S3, by MinIO's client library.

Credentials, region and endpoint are found as other programs find them: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, and ~/.aws/credentials. SSL_CERT_FILE names
another authority. Needs a storage that shows at once what was written (as AWS, MinIO and Ceph do).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from vdc.backup.storage import MOST_BYTES, S3_SCHEME, Stored, bounded, checked_key, no_object
from vdc.model.errors import InvalidError, RefusedError, UnavailableError, VdcError
from vdc.model.units import MIB

if TYPE_CHECKING:
    from minio import Minio

_PLACE = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([A-Za-z0-9._/-]*))?")
_AWS: Final = "https://s3.amazonaws.com"
_ABSENT: Final = ("NoSuchKey", "NoSuchObject")
_LEAST_PIECE_BYTES: Final = 5 * MIB  # the library's; MOST_BYTES is a tenth of what S3 takes in one
_FORBIDDEN: Final = ("AccessDenied", "MethodNotAllowed", "AllAccessDisabled")
_FULL: Final = ("QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity", "EntityTooLarge")


class Bucket:
    """Objects below one prefix of a bucket."""

    def __init__(self, client: Minio, bucket: str, prefix: str) -> None:
        self.name = f"{S3_SCHEME}{bucket}/{prefix}".rstrip("/")
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    def read(self, key: str, most_bytes: int = MOST_BYTES) -> bytes:
        """See `Storage`."""
        with self._refusing(key):
            response = self._client.get_object(self._bucket, self._path(key))
            try:
                return bounded(key, bytes(response.read(most_bytes + 1)), most_bytes)
            finally:
                response.close()
                response.release_conn()

    def write(self, key: str, content: bytes) -> None:
        """See `Storage`. In one piece: parts that a killed program leaves are in no list, and cost money."""
        piece_bytes = max(_LEAST_PIECE_BYTES, len(content))
        with self._refusing(key):
            self._client.put_object(
                self._bucket, self._path(key), BytesIO(content), len(content), part_size=piece_bytes
            )

    def has(self, key: str) -> bool:
        """See `Storage`."""
        try:
            with self._refusing(key):
                self._client.stat_object(self._bucket, self._path(key))
        except VdcError as error:
            if error.code != "object-not-found":
                raise
            return False
        return True

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `Storage`."""
        with self._refusing(prefix):
            found = self._client.list_objects(self._bucket, prefix=self._prefix + prefix, recursive=True)
            for one in found:
                name = (one.object_name or "").removeprefix(self._prefix)
                at_s = one.last_modified.timestamp() if one.last_modified else 0.0
                yield Stored(name, one.size or 0, at_s)

    def delete(self, key: str) -> None:
        """See `Storage`."""
        with self._refusing(key):
            self._client.remove_object(self._bucket, self._path(key))

    def _path(self, key: str) -> str:
        return self._prefix + checked_key(key)

    @contextmanager
    def _refusing(self, key: str) -> Iterator[None]:
        from minio.error import MinioException, S3Error
        from urllib3.exceptions import HTTPError

        try:
            yield
        except S3Error as error:
            code = error.code or ""
            if code in _ABSENT:
                raise no_object(key) from error
            raise self._refused(code, error.message or code) from error
        except (MinioException, HTTPError, OSError) as error:
            raise UnavailableError(
                f"{self.name} does not answer: {_innermost(error)}", code="repository-unreachable",
                hint="AWS_ENDPOINT_URL says where it is; see vdc backup --help",
            ) from error  # fmt: skip
        except ValueError as error:  # the library's own check of names and sizes
            raise InvalidError(f"{self.name}: {error}", code="repository-invalid") from error

    def _refused(self, code: str, message: str) -> VdcError:
        if code == "NoSuchBucket":
            return RefusedError(f"there is no bucket {self._bucket}", code="no-bucket", hint="make it first")
        if code in _FULL:
            return RefusedError(
                f"{self.name} is full: {message}", code="repository-full", hint="vdc backup prune"
            )
        if code in _FORBIDDEN:
            return RefusedError(f"{self.name}: {message}", code="repository-denied")
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
            return RefusedError(f"{self.name}: {message}", code="repository-credentials", hint=_CREDENTIALS)
        return UnavailableError(f"{self.name}: {message} ({code})", code="repository-unreachable")


_CREDENTIALS: Final = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials"


def open_bucket(place: str) -> Bucket:
    """Of `s3://BUCKET/PREFIX`.

    Raises InvalidError (`repository-invalid`), RefusedError (`s3-missing`, `repository-credentials`).
    """
    found = _PLACE.fullmatch(place)
    if found is None:
        raise InvalidError(
            f"{place[:80]!r} names no bucket", code="repository-invalid", hint="write s3://BUCKET/PREFIX"
        )
    try:
        from minio import Minio
        from minio.credentials.providers import AWSConfigProvider, ChainedProvider, EnvAWSProvider
    except ImportError as error:
        raise RefusedError(
            "the library for S3 is not installed", code="s3-missing", hint="pip install 'vdc[s3]'"
        ) from error
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or _AWS
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
        raise InvalidError(
            f"AWS_ENDPOINT_URL: {endpoint[:80]!r} is no endpoint", code="repository-invalid",
            hint="https://HOST or http://HOST:PORT",
        )  # fmt: skip
    credentials = ChainedProvider([EnvAWSProvider(), AWSConfigProvider()])
    try:
        credentials.retrieve()
    except (ValueError, OSError) as error:
        raise RefusedError(
            "there are no credentials for S3", code="repository-credentials", hint=_CREDENTIALS
        ) from error
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    client = Minio(parts.netloc, secure=parts.scheme == "https", region=region, credentials=credentials)
    return Bucket(client, found[1], found[2] or "")


def _innermost(error: BaseException) -> str:
    """The words of the cause, without the names of the library's objects."""
    reason = getattr(error, "reason", None)
    text = str(reason if reason is not None else error)
    return text.rpartition(">: ")[2][:200]
