"""Messages about objects in the store, and about the files of jobs that consist of them. Part of agent.wire."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.wire_fields import WireError, items, text, whole
from agent.wire_paths import check_path


@dataclass(frozen=True, kw_only=True)
class PutWish:
    """An object that the agent wants to upload: the presigned request will be bound to exactly this."""

    key: str
    length: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Presigned:
    """An HTTP request that may be made as it stands until it expires; a GET also with a Range header. Never logged.

    url: absolute, or a path of the control plane.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, body: object) -> Presigned:
        if not isinstance(body, dict):
            raise WireError("a presigned request is a JSON object")
        headers = body.get("headers") or {}
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            raise WireError("headers of a presigned request are an object of texts")
        return cls(
            method=text(body, "method", required=True) or "",
            url=text(body, "url", required=True, at_most=8192) or "",
            headers={str(key): value for key, value in headers.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which files of a job are kept, and the bounds. key_prefix: a piece's key is this and its SHA-256 in hex."""

    globs: tuple[str, ...]
    key_prefix: str
    files_at_most: int
    file_bytes: int
    total_bytes: int

    @classmethod
    def from_json(cls, body: object) -> Keep:
        if not isinstance(body, dict):
            raise WireError("artifacts is a JSON object")
        return cls(
            globs=tuple(check_path(str(item)) for item in items(body, "globs")),
            key_prefix=text(body, "key_prefix", required=True) or "",
            files_at_most=whole(body, "files_at_most", required=True) or 0,
            file_bytes=whole(body, "file_bytes", required=True) or 0,
            total_bytes=whole(body, "total_bytes", required=True) or 0,
        )


@dataclass(frozen=True, kw_only=True)
class GivenFile:
    """A file that a job is given: its bytes as base64 in `data`, or the objects that it consists of, in order."""

    path: str
    mode: int
    length: int
    data: str | None = None
    sha256: str | None = None
    pieces: tuple[PutWish, ...] = ()

    @classmethod
    def from_json(cls, body: object) -> GivenFile:
        if not isinstance(body, dict):
            raise WireError("a file is a JSON object")
        data, mode = body.get("data"), whole(body, "mode")
        if data is not None and not isinstance(data, str):
            raise WireError("data is text")
        return cls(
            path=check_path(text(body, "path", required=True) or ""),
            mode=0o644 if mode is None else mode & 0o777,
            length=whole(body, "length") or 0,
            data=data,
            sha256=text(body, "sha256"),
            pieces=tuple(_piece(item) for item in items(body, "pieces", at_most=1 << 20)),
        )

    def content(self) -> bytes:
        """What came with it."""
        try:
            return base64.b64decode(self.data or "", validate=True)
        except ValueError as error:  # binascii.Error is one; letters beyond ASCII are another
            raise WireError(f"data of file {self.path} is base64") from error


@dataclass(frozen=True, kw_only=True)
class ObjectsAnswer:
    """Answer to a PlanPost for a job's objects: as many requests as were asked for, in the same order."""

    put: tuple[Presigned, ...] = ()
    get: tuple[Presigned, ...] = ()

    @classmethod
    def from_json(cls, body: object) -> ObjectsAnswer:
        if not isinstance(body, dict):
            raise WireError("signed requests are a JSON object")
        return cls(
            put=tuple(Presigned.from_json(item) for item in items(body, "put")),
            get=tuple(Presigned.from_json(item) for item in items(body, "get")),
        )


@dataclass(frozen=True, kw_only=True)
class KeptFile:
    """A file whose pieces the store has acknowledged. sha256: of the whole file."""

    path: str
    mode: int
    length: int
    sha256: str
    pieces: tuple[PutWish, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ArtifactsPost:
    """At most ARTIFACTS_PER_POST of them. The same again changes nothing."""

    fence: int
    artifacts: tuple[KeptFile, ...]


def _piece(item: object) -> PutWish:
    if not isinstance(item, dict):
        raise WireError("a piece is a JSON object")
    return PutWish(
        key=text(item, "key", required=True) or "",
        length=whole(item, "length", required=True) or 0,
        sha256=text(item, "sha256", required=True) or "",
    )
