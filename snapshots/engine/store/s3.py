"""An S3 bucket as an object store: AWS, R2, and what speaks their language. Only the control plane has its keys.

R2 refuses the chunked checksum trailers that boto3 sends by default, so checksums are sent only where they are asked for
(and here every PUT names its SHA-256). ETags are opaque: they are MD5 in some stores and for some objects only.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import boto3
import botocore.exceptions
from botocore.config import Config

from snapshots.engine.store.base import (
    ListedObject,
    ObjectExists,
    ObjectFacts,
    ObjectMissing,
    SignedRequest,
    Store,
    StoreBusy,
    StoreRefused,
    check_key,
)

_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_EXISTS = frozenset({"412", "PreconditionFailed"})
_BUSY = frozenset(
    {
        "SlowDown",
        "RequestTimeout",
        "ConditionalRequestConflict",
        "OperationAborted",
        "InternalError",
        "ServiceUnavailable",
    }
)
_UNREACHABLE = (
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.ConnectionError,
    botocore.exceptions.IncompleteReadError,
)


class S3Store(Store):
    """One bucket, below one prefix. region "auto" is right for R2; path_style for servers without bucket host names."""

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint_url: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        region: str = "auto",
        path_style: bool = False,
        connections: int = 32,
    ) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint_url,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name=region,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path" if path_style else "auto"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"mode": "standard", "total_max_attempts": 3},
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=connections,
            ),
        )

    # -- signed requests --------------------------------------------------------------------------

    def put_request(self, key: str, *, length: int, sha256: str, ttl_s: float) -> SignedRequest:
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        url = self._client.generate_presigned_url(
            "put_object",
            Params={**self._at(key), "ContentLength": length, "ChecksumSHA256": checksum, "IfNoneMatch": "*"},
            ExpiresIn=max(1, int(ttl_s)),
        )
        headers = {"Content-Length": str(length), "x-amz-checksum-sha256": checksum, "If-None-Match": "*"}
        return SignedRequest("PUT", url, headers)

    def get_request(self, key: str, *, ttl_s: float) -> SignedRequest:
        url = self._client.generate_presigned_url(
            "get_object", Params=self._at(key), ExpiresIn=max(1, int(ttl_s))
        )
        return SignedRequest("GET", url)

    # -- direct use -------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectFacts:
        with _typed(key):
            answer = self._client.head_object(**self._at(key), ChecksumMode="ENABLED")
        checksum = answer.get("ChecksumSHA256", "")
        # A checksum with a dash is one of parts, not of the object.
        digest = base64.b64decode(checksum).hex() if checksum and "-" not in checksum else None
        return ObjectFacts(int(answer["ContentLength"]), digest)

    def read(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            self.head(key)
            return b""
        wanted: dict[str, str] = {}
        if offset or length is not None:
            wanted["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        with _typed(key):
            try:
                answer = self._client.get_object(**self._at(key), **wanted)
            except botocore.exceptions.ClientError as error:
                if _status(error) == 416:
                    return b""
                raise
            with contextlib.closing(answer["Body"]) as body:
                data: bytes = body.read()
        if length is not None and len(data) > length:
            raise StoreRefused("the store ignores Range headers: it is of no use here")
        return data

    def write(self, key: str, data: bytes, *, sha256: str | None = None) -> None:
        digest = hashlib.sha256(data).digest() if sha256 is None else bytes.fromhex(sha256)
        checksum = base64.b64encode(digest).decode()
        with _typed(key):
            self._client.put_object(
                **self._at(key), Body=data, ContentLength=len(data), ChecksumSHA256=checksum, IfNoneMatch="*"
            )

    def delete(self, key: str) -> None:
        with _typed(key), contextlib.suppress(ObjectMissing):
            self._client.delete_object(**self._at(key))

    def list(self, prefix: str) -> Sequence[ListedObject]:
        rows: list[ListedObject]
        with _typed(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            rows = [
                ListedObject(
                    row["Key"].removeprefix(self.prefix), int(row["Size"]), row["LastModified"].timestamp()
                )
                for page in pages
                for row in page.get("Contents", ())
            ]
        return sorted(rows, key=lambda row: row.key)

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + check_key(key)}


def _status(error: botocore.exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextlib.contextmanager
def _typed(key: str) -> Iterator[None]:
    """botocore's errors to the port's. Messages hold S3's error code, never a URL."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        code, status = str(error.response.get("Error", {}).get("Code", "")), _status(error)
        if code == "NoSuchBucket":
            raise StoreRefused("the bucket does not exist: create it, or correct SNAPSHOT_STORE") from None
        if code in _MISSING or status == 404:
            raise ObjectMissing(f"there is no object {key}") from None
        if code in _EXISTS or status == 412:
            raise ObjectExists(f"{key} exists already; it was not touched") from None
        if code in _BUSY or status in (409, 429) or status >= 500:
            raise StoreBusy(f"the store is busy ({code or status}) with {key}") from None
        raise StoreRefused(f"the store refused {key or 'the listing'}: {code or status}") from None
    except _UNREACHABLE as error:
        raise StoreBusy(f"the store cannot be reached for {key}: {type(error).__name__}") from None
    except botocore.exceptions.BotoCoreError as error:
        raise StoreRefused(f"the store's client refused {key}: {type(error).__name__}: {error}") from None
