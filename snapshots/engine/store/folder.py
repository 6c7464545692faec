"""A folder as an object store, with signed requests like S3's. The web process serves them (folder_http)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from snapshots.engine.limits import MIB
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
from snapshots.engine.store.folder_signing import Grant, SignatureRefused, Signer

PIECE_BYTES = 1 * MIB
ABANDONED_AFTER_S = 24 * 3600.0
"""A temporary file this old belongs to an upload that was killed: no signed request lives that long."""
_TEMPORARY = ".incoming"
_SHA256_ATTRIBUTE = "user.dormouse.sha256"
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_DISK_TROUBLE = (28, 122)  # ENOSPC, EDQUOT: may pass when something is removed


class BodyRefused(StoreRefused):
    """The body is not the one that was announced."""


class RangeRefused(StoreRefused):
    """The range begins behind the end of the object, which has `total` bytes."""

    def __init__(self, message: str, *, total: int) -> None:
        super().__init__(message)
        self.total = total


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class OpenedRange:
    """`length` bytes from `start` of an object of `total`. Iterate to read; reading to the end closes the file."""

    file: BinaryIO
    start: int
    length: int
    total: int

    def __iter__(self) -> Iterator[bytes]:
        left = self.length
        with self.file:
            while left > 0:
                piece = self.file.read(min(PIECE_BYTES, left))
                if not piece:
                    return
                left -= len(piece)
                yield piece

    def close(self) -> None:
        self.file.close()


class FolderStore(Store):
    """Objects are files under `root`; they appear by a hard link of a finished, synced file, so never half and never twice.

    base_url and signing_key are needed only to sign requests; `clock` gives the seconds from which a request's life counts.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        base_url: str = "",
        signing_key: bytes = b"",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root = Path(root)
        self._signer = Signer(base_url, signing_key)
        self._clock = clock
        with _typed("prepare the store's folder"):
            self._incoming = self.root / _TEMPORARY
            self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._remove_abandoned(clock() - ABANDONED_AFTER_S)

    # -- signed requests --------------------------------------------------------------------------

    def put_request(self, key: str, *, length: int, sha256: str, ttl_s: float) -> SignedRequest:
        return self._signer.sign(
            Grant("PUT", check_key(key), length, sha256), expires_at=self._clock() + ttl_s
        )

    def get_request(self, key: str, *, ttl_s: float) -> SignedRequest:
        return self._signer.sign(Grant("GET", check_key(key)), expires_at=self._clock() + ttl_s)

    def check(
        self, method: str, key: str, query: Mapping[str, str], headers: Mapping[str, str], *, now: float
    ) -> Grant:
        """What this request may do, or SignatureRefused. For a PUT, Content-Length must be the signed length."""
        return self._signer.check(method, key, query, headers, now=now)

    def receive(self, grant: Grant, body: Readable) -> None:
        """Store the body in constant memory. Raises ObjectExists, or BodyRefused: too short, or another SHA-256.

        The body is read to its announced end even where the answer is known, so that the client gets to see the answer.
        """
        if grant.method != "PUT" or grant.length is None or grant.sha256 is None:
            raise SignatureRefused(f"the request for {grant.key} does not allow storing")
        path = self._path(grant.key)
        if path.exists():
            for _ in _pieces(body, grant.length, grant.key):
                pass
            raise ObjectExists(f"{grant.key} exists already; it was not touched")
        self._store(grant.key, _pieces(body, grant.length, grant.key), grant.sha256)

    def open_range(self, grant: Grant, header: str | None) -> OpenedRange:
        """The object, or the part that a Range header asks for (one range; others are answered whole)."""
        if grant.method != "GET":
            raise SignatureRefused(f"the request for {grant.key} does not allow reading")
        with _existing(grant.key):
            file = self._path(grant.key).open("rb")
            try:
                total = os.fstat(file.fileno()).st_size
                start, length = _parse_range(header, total)
                file.seek(start)
            except (RangeRefused, OSError):
                file.close()
                raise
        return OpenedRange(file, start, length, total)

    # -- direct use -------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectFacts:
        path = self._path(key)
        with _existing(key):
            return ObjectFacts(path.stat().st_size, _read_digest(path))

    def read(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        path = self._path(key)
        with _existing(key), path.open("rb") as file:
            file.seek(offset)
            return file.read(-1 if length is None else length)

    def write(self, key: str, data: bytes, *, sha256: str | None = None) -> None:
        if self._path(key).exists():
            raise ObjectExists(f"{key} exists already; it was not touched")
        self._store(key, iter((data,)), sha256 or hashlib.sha256(data).hexdigest(), is_known=True)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _typed(f"delete {key}"), contextlib.suppress(FileNotFoundError):
            path.unlink()
            _sync_folder(path.parent)

    def list(self, prefix: str) -> Sequence[ListedObject]:
        found: deque[ListedObject] = deque()
        with _typed(f"list {prefix}"):
            _walk(self.root, "", prefix, found)
        return sorted(found, key=lambda row: row.key)

    # -- inside -----------------------------------------------------------------------------------

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _store(self, key: str, pieces: Iterator[bytes], sha256: str, *, is_known: bool = False) -> None:
        """sha256: announced, and compared with what comes; or known to be the pieces' own."""
        final = self._path(key)
        temporary = self._incoming / secrets.token_hex(16)
        digest = hashlib.sha256()
        with _typed(f"store {key}"):
            try:
                with temporary.open("xb") as file:
                    for piece in pieces:
                        if not is_known:
                            digest.update(piece)
                        file.write(piece)
                    if not is_known and sha256 != digest.hexdigest():
                        raise BodyRefused(
                            f"{key}: the body's SHA-256 is {digest.hexdigest()}, not the announced {sha256}"
                        )
                    file.flush()
                    _keep_digest(file.fileno(), sha256)
                    os.fsync(file.fileno())
                _make_folders(final.parent)
                try:
                    os.link(temporary, final)
                except FileExistsError:
                    raise ObjectExists(f"{key} exists already; it was not touched") from None
                _sync_folder(final.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def _remove_abandoned(self, before: float) -> None:
        with os.scandir(self._incoming) as rows:
            for row in rows:
                with contextlib.suppress(FileNotFoundError):
                    if row.stat().st_mtime < before:
                        os.unlink(row.path)


def _walk(folder: Path, at: str, prefix: str, found: deque[ListedObject]) -> None:
    with os.scandir(folder) as rows:
        for row in rows:
            key = f"{at}{row.name}"
            if row.is_dir(follow_symlinks=False):
                if key != _TEMPORARY and _may_hold(f"{key}/", prefix):
                    _walk(folder / row.name, f"{key}/", prefix, found)
            elif key.startswith(prefix):
                with contextlib.suppress(
                    FileNotFoundError
                ):  # deleted since: a listing without it is complete
                    facts = row.stat(follow_symlinks=False)
                    found.append(ListedObject(key, facts.st_size, facts.st_mtime))


def _pieces(body: Readable, length: int, key: str) -> Iterator[bytes]:
    left = length
    while left > 0:
        piece = body.read(min(PIECE_BYTES, left))
        if not piece:
            raise BodyRefused(f"{key}: the body ended {left} bytes short of {length}")
        left -= len(piece)
        yield piece


def _parse_range(header: str | None, total: int) -> tuple[int, int]:
    """(start, length). What is no single, sane byte range is answered with the whole object, as HTTP allows."""
    match = _RANGE.fullmatch(header or "")
    if match is None or not any(match.groups()):
        return 0, total
    first, last = match.groups()
    if not first:
        length = min(int(last), total)
        return total - length, length
    start = int(first)
    if start >= total:
        raise RangeRefused(f"the range begins at {start}, behind the end of the object", total=total)
    end = min(int(last), total - 1) if last else total - 1
    return (0, total) if end < start else (start, end - start + 1)


def _may_hold(folder: str, prefix: str) -> bool:
    return folder.startswith(prefix) or prefix.startswith(folder)


def _make_folders(folder: Path) -> None:
    """mkdir -p, durable: each new folder's parent is synced."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _keep_digest(fd: int, sha256: str) -> None:
    """Where the file system has no user attributes, head() says None, as the port allows."""
    if hasattr(os, "setxattr"):
        with contextlib.suppress(OSError):
            os.setxattr(fd, _SHA256_ATTRIBUTE, sha256.encode())


def _read_digest(path: Path) -> str | None:
    if hasattr(os, "getxattr"):
        with contextlib.suppress(OSError):
            return os.getxattr(path, _SHA256_ATTRIBUTE).decode()
    return None


@contextlib.contextmanager
def _existing(key: str) -> Iterator[None]:
    try:
        with _typed(f"read {key}"):
            yield
    except StoreRefused as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            raise ObjectMissing(f"there is no object {key}") from None
        raise


@contextlib.contextmanager
def _typed(doing: str) -> Iterator[None]:
    """OSError to the port's errors."""
    try:
        yield
    except OSError as error:
        reason = f"cannot {doing}: {error.strerror or error}"
        if error.errno in _DISK_TROUBLE:
            raise StoreBusy(f"{reason}; free some space on the store's disk", retry_after_s=60) from error
        raise StoreRefused(reason) from error
