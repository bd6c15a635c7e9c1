# SPDX-License-Identifier: Apache-2.0
"""The requests to an object store that CLF makes, with their conditions, and what the store's answers mean.

botocore signs, retries and keeps connections; nothing of it is seen outside of here, above all not its exceptions,
whose texts are whatever the store wrote.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any, Final

import urllib3

from clf import limits
from clf.errors import ConfigError, StorageError
from clf.server.config_s3 import Bucket
from clf.server.keys import read_private_file
from clf.wire.encoding import shown

_ABSENT: Final = ("NoSuchKey", "NoSuchUpload", "NoSuchVersion", "NotFound", "404")
_UNMET: Final = ("PreconditionFailed", "ConditionalRequestConflict", "412")
_FULL: Final = ("QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "InsufficientCapacity")
_REFUSED: Final = (401, 403)


class AbsentError(StorageError):
    """There is no such object, version or upload."""


class UnmetError(StorageError):
    """The condition of a request does not hold: the object is another one, or is there already."""

    default_code = "source_changed"


@dataclass(frozen=True)
class Found:
    """What the store says of an object. Times in seconds since the epoch, `age` by the store's own clock."""

    key: str
    size: int
    etag: str
    modified: int
    version: str | None = None
    transfer: str | None = None
    age: float = 0.0


class Store:
    """One place in a bucket, for any number of threads; keys are given without its prefix."""

    def __init__(self, bucket: Bucket, field: str, *, tries: int = limits.S3_TRIES_COUNT) -> None:
        self.place = bucket
        self._client = _client(bucket, field, tries)

    def _ask(self, operation: str, **how: Any) -> Any:
        return getattr(self._client, operation)(Bucket=self.place.name, **how)

    def key(self, name: str) -> str:
        """The whole key. Raises StorageError for one that no store takes."""
        key = self.place.prefix + name
        if len(key.encode("utf-8", "surrogatepass")) > limits.S3_KEY_BYTES:
            raise AbsentError(f"no such file: {shown(name)}", reason=f"a key is at most {limits.S3_KEY_BYTES} bytes")
        return key

    def head(self, name: str) -> Found:
        """What is there under a name. Raises AbsentError."""
        with errors(name):
            return _found(name, self._ask("head_object", Key=self.key(name)))

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name."""
        try:
            self.head(name)
        except AbsentError:
            return False
        return True

    def stream(self, found: Found, first: int, count: int) -> Any:
        """An open body with `count` bytes from `first`, of this very version. Raises UnmetError or AbsentError."""
        version = {"VersionId": found.version} if found.version else {}
        with errors(found.key):
            answer = self._ask(
                "get_object",
                Key=self.key(found.key),
                IfMatch=found.etag,
                Range=f"bytes={first}-{first + count - 1}",
                **version,
            )
            if answer["ETag"] != found.etag or answer["ContentLength"] != count:
                answer["Body"].close()
                raise UnmetError(f"{shown(found.key)} changed", reason="the store sent another version or range")
            return answer["Body"]

    def read(self, name: str, most: int) -> tuple[bytes, Found]:
        """A small object as it is now. Raises AbsentError."""
        with errors(name):
            answer = self._ask("get_object", Key=self.key(name))
            found = _found(name, answer)
            with answer["Body"] as body:
                if found.size > most:
                    raise StorageError(f"{shown(name)} has more than {most} bytes", code="internal")
                return bytes(body.read()), found

    def below(self, prefix: str, *, most: int | None = None) -> Iterator[Found]:
        """All objects whose names begin so, in the order of their keys' bytes; names come without the place's."""
        cut = len(self.place.prefix)
        where: dict[str, Any] = {"Prefix": self.key(prefix)}
        if most is not None:
            where["MaxKeys"] = most
        while True:
            with errors(prefix or "/"):
                answer = self._ask("list_objects_v2", **where)
                now = _date(answer)
                page = [
                    Found(
                        key=item["Key"][cut:],
                        size=item["Size"],
                        etag=item["ETag"],
                        modified=int(item["LastModified"].timestamp()),
                        age=max(0.0, now - item["LastModified"].timestamp()),
                    )
                    for item in answer.get("Contents", ())
                ]
                is_last = most is not None or not answer.get("IsTruncated")
                if not is_last:
                    where["ContinuationToken"] = answer["NextContinuationToken"]
            yield from page
            if is_last:
                return

    def put(self, name: str, data: bytes | bytearray | memoryview, *, only: str) -> str:
        """Write an object if there is none (`only` is "*") or if it is the one of this ETag. Raises UnmetError."""
        condition = {"IfNoneMatch": "*"} if only == "*" else {"IfMatch": only}
        content = bytes(data)
        with errors(name, writing=True):
            answer = self._ask(
                "put_object",
                Key=self.key(name),
                Body=content,
                ChecksumCRC32=_crc32(content),
                **condition,
            )
            return str(answer["ETag"])

    def delete(self, name: str, *, only: str | None = None) -> None:
        """Remove an object, which may be gone already; `only` one of this ETag, where the store knows that."""
        condition = {"IfMatch": only} if only else {}
        with errors(name, writing=True):
            self._ask("delete_object", Key=self.key(name), **condition)

    # --- multipart uploads ---

    def begin_upload(self, name: str, transfer: str) -> str:
        """Begin an upload, which is visible to nobody until it is completed."""
        with errors(name, writing=True):
            answer = self._ask(
                "create_multipart_upload",
                Key=self.key(name),
                Metadata={TRANSFER_KEY: transfer},
                ContentType="application/octet-stream",
            )
            return str(answer["UploadId"])

    def upload_part(self, name: str, upload: str, number: int, content: bytes) -> str:
        """One part from memory; returns its ETag."""
        with errors(name, writing=True):
            answer = self._ask("upload_part", Key=self.key(name), UploadId=upload, PartNumber=number, Body=content)
            return str(answer["ETag"])

    def copy_part(self, name: str, upload: str, number: int, source: str, count: int) -> str:
        """One part from the first `count` bytes of another object, which the store copies itself; its ETag."""
        with errors(name, writing=True):
            answer = self._ask(
                "upload_part_copy",
                Key=self.key(name),
                UploadId=upload,
                PartNumber=number,
                CopySource={"Bucket": self.place.name, "Key": self.key(source)},
                CopySourceRange=f"bytes=0-{count - 1}",
            )
            return str(answer["CopyPartResult"]["ETag"])

    def complete(self, name: str, upload: str, parts: list[str]) -> None:
        """Make an upload visible, whole, if there is no object of this name. Raises UnmetError or AbsentError."""
        listed = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(parts, 1)]
        with errors(name, writing=True):
            self._ask(
                "complete_multipart_upload",
                Key=self.key(name),
                UploadId=upload,
                MultipartUpload={"Parts": listed},
                IfNoneMatch="*",
            )

    def abort_uploads(self, name: str) -> int:
        """Abort every unfinished upload of exactly this name; how many there were."""
        count, key = 0, self.key(name)
        where: dict[str, Any] = {"Prefix": key}
        while True:
            with errors(name, writing=True):
                answer = self._ask("list_multipart_uploads", **where)
                for item in answer.get("Uploads", ()):
                    if item["Key"] == key:
                        self.abort(name, item["UploadId"])
                        count += 1
                if not answer.get("IsTruncated"):
                    return count
                where["KeyMarker"], where["UploadIdMarker"] = answer["NextKeyMarker"], answer["NextUploadIdMarker"]

    def abort(self, name: str, upload: str) -> None:
        """Abort one upload, which may be gone already."""
        try:
            with errors(name, writing=True):
                self._ask("abort_multipart_upload", Key=self.key(name), UploadId=upload)
        except AbsentError:
            pass


TRANSFER_KEY: Final = "clf-transfer"
"""The metadata by which a result is known to be the one of a transfer."""


@contextmanager
def errors(name: str, *, writing: bool = False) -> Iterator[None]:
    """Turn what botocore raises about `name` into a StorageError that names the request and the answer."""
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    text = shown(name)
    try:
        yield
    except boto.ClientError as error:
        raise _answered(error, text, writing=writing) from None
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError) as error:
        raise StorageError(
            "the owner's object store has no credentials to work with",
            reason=f"{text}: {type(error).__name__}",
            code="internal",
            remedy="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or credentials = FILE",
        ) from None
    except boto.SSLError:
        raise StorageError(
            "the owner's object store cannot be trusted",
            reason=f"{text}: TLS failed",
            code="internal",
            remedy="name the CA of its certificate: ca = FILE",
        ) from None
    except (KeyError, TypeError, AttributeError, ValueError, ResponseParserError) as error:
        raise StorageError(
            "what answers is no object store",
            reason=f"{text}: an answer that S3 does not give: {type(error).__name__}",
            code="internal",
            remedy="is the endpoint right, and nothing in between?",
        ) from None
    except (boto.BotoCoreError, urllib3.exceptions.HTTPError, HTTPException, OSError) as error:
        raise StorageError(
            "the owner's object store does not answer",
            reason=f"{text}: {type(error).__name__}",
            code="busy",
            remedy="is it running, and the endpoint right?",
        ) from None


def _answered(error: Any, text: str, *, writing: bool) -> StorageError:
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(error.response.get("Error", {}).get("Code", ""))
    reason = f"{text}: {error.operation_name} was answered with {shown(code)} ({status})"
    if code in _ABSENT:
        return AbsentError(f"no such file: {text}", reason=reason)
    if code in _UNMET or status == 412:
        return UnmetError(f"{text} changed", reason=reason)
    if code in _FULL or status == 507:
        return StorageError(
            "the owner's object store is full", reason=reason, code="storage_full", remedy="make room, then go on"
        )
    if status in _REFUSED:
        remedy = "are the credentials right, and do they allow it? docs/object-stores.md has the list"
        return StorageError("the owner's object store refuses", reason=reason, code="internal", remedy=remedy)
    if status >= 500 or status == 429 or code in ("SlowDown", "RequestTimeout"):
        return StorageError("the owner's object store cannot do it now", reason=reason, code="busy")
    remedy = "does the bucket exist, and the region fit?"
    kind = "storage_unwritable" if writing else "internal"
    return StorageError("the owner's object store refuses", reason=reason, code=kind, remedy=remedy)


def _found(name: str, answer: dict[str, Any]) -> Found:
    modified = answer["LastModified"].timestamp()
    return Found(
        key=name,
        size=answer["ContentLength"],
        etag=answer["ETag"],
        modified=int(modified),
        version=answer.get("VersionId"),
        transfer=answer.get("Metadata", {}).get(TRANSFER_KEY),
        age=max(0.0, _date(answer) - modified),
    )


def _date(answer: dict[str, Any]) -> float:
    """The store's own clock; 0 where it does not tell, so that nothing ever looks old."""
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        found = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _crc32(content: bytes) -> str:
    return base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode("ascii")


def check_bucket(bucket: Bucket, field: str) -> None:
    """Whether everything on this machine is there that the place needs. Asks nobody. Raises ConfigError."""
    _client(bucket, field, tries=1)


def _client(bucket: Bucket, field: str, tries: int) -> Any:
    try:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except ImportError:
        raise ConfigError(
            f"{field}: object stores need botocore, which is not installed",
            field=field,
            remedy="pip install 'cross-language-framework[s3]'",
        ) from None
    if bucket.ca is not None and not bucket.ca.is_file():
        raise ConfigError(f"{field}.ca: {bucket.ca} is not there", field=f"{field}.ca", remedy="name the CA's PEM file")
    style: dict[str, Any] = {"addressing_style": "path" if bucket.path_style else "virtual"}
    if bucket.endpoint is None or bucket.endpoint.startswith("https:"):
        style["payload_signing_enabled"] = False  # TLS covers the body, a CRC-32 what the store keeps of it
    config = Config(
        region_name=bucket.region,
        signature_version="s3v4",
        s3=style,
        # An endpoint in the environment must not send data elsewhere than this file says.
        ignore_configured_endpoint_urls=True,
        retries={"mode": "standard", "total_max_attempts": tries},
        connect_timeout=limits.S3_CONNECT_SECONDS,
        read_timeout=limits.S3_READ_SECONDS,
        max_pool_connections=limits.S3_CONNECTIONS_COUNT,
        # Newer checksums are sent where they are given here; stores other than Amazon's do not know all of them.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        session = Session()
        keys = _keys_of(bucket, field)
        client = session.create_client(
            "s3",
            endpoint_url=bucket.endpoint,
            config=config,
            verify=str(bucket.ca) if bucket.ca is not None else True,
            **keys,
        )
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(
            f"{field}: the object store cannot be used: {type(error).__name__}",
            field=field,
            remedy="are AWS_PROFILE and the AWS configuration file of this user right?",
        ) from None
    client.meta.events.register("before-call.s3", _follow_no_redirect)
    return client


def _follow_no_redirect(params: dict[str, Any], **_: Any) -> None:
    """Where data goes stands in clf_server.toml; and two regions that point at each other would never end."""
    params.setdefault("context", {}).setdefault("s3_redirect", {})["redirected"] = True


def _keys_of(bucket: Bucket, field: str) -> dict[str, str]:
    """The credentials of the file that is named; nothing where none is, and botocore looks for them."""
    if bucket.credentials is None:
        return {}
    from botocore.configloader import raw_config_parse
    from botocore.exceptions import BotoCoreError

    name = f"{field}.credentials"
    read_private_file(bucket.credentials, name, limits.KEYRING_BYTES)
    try:
        found = raw_config_parse(str(bucket.credentials)).get("default", {})
    except BotoCoreError:
        found = {}
    wanted = ("aws_access_key_id", "aws_secret_access_key")
    if not all(isinstance(found.get(key), str) and found[key] for key in wanted):
        raise ConfigError(
            f"{name}: {bucket.credentials} has no section [default] with aws_access_key_id and aws_secret_access_key",
            field=name,
            remedy="write it as the AWS tools do",
        )
    keys = {key: found[key] for key in wanted}
    if found.get("aws_session_token"):
        keys["aws_session_token"] = found["aws_session_token"]
    return keys
