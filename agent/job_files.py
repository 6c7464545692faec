"""Files that a job is given: laid out in its folder before it starts, each whole and checked, or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from agent import wire
from agent.client import Client, Refused
from agent.hold import Hold
from agent.job_objects import JobLine
from agent.runner import WorkRefused
from snapshots.engine.beneath import Beneath
from snapshots.engine.errors import Cancelled
from snapshots.engine.remote import PresignedRemote
from snapshots.engine.store.base import ObjectMissing, StoreRefused

RANGE_BYTES = 8 << 20
_LED_OUT = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


def lay_out(
    client: Client, hold: Hold, folder: Path, *, stopped: Callable[[], bool], backoff_cap_s: float
) -> bool:
    """Fetch what the job is given into `folder`. False where it was stopped meanwhile.

    Raises WorkRefused for what cannot be had or has no place there, StoreBusy and OSError where another worker, or
    another moment, may do better.
    """
    line = JobLine(client, hold, stopped=stopped, backoff_cap_s=backoff_cap_s)
    try:
        answer = line.post("files", wire.to_json(wire.FencePost(fence=hold.claim.fence)))
        files = [wire.GivenFile.from_json(item) for item in wire.items(answer, "files")]
        folder.mkdir(parents=True, exist_ok=True)
        _write_all(files, folder, line.remote(phase="files"), stopped=stopped)
    except Cancelled:
        return False
    except (Refused, wire.WireError) as error:
        raise WorkRefused(f"its files cannot be had: {error}") from error
    return True


def _write_all(
    files: list[wire.GivenFile], folder: Path, remote: PresignedRemote, *, stopped: Callable[[], bool]
) -> None:
    root_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with Beneath(root_fd) as beneath:
            for file in files:
                try:
                    _write(file, beneath, remote, stopped=stopped)
                except (StoreRefused, ObjectMissing) as error:
                    raise WorkRefused(f"file {file.path!r} cannot be fetched: {error}") from error
                except OSError as error:
                    if error.errno in _LED_OUT:
                        raise WorkRefused(
                            f"file {file.path!r} has no place: a link, or something else, is in its way"
                        ) from error
                    raise
    finally:
        os.close(root_fd)


def _write(
    file: wire.GivenFile, beneath: Beneath, remote: PresignedRemote, *, stopped: Callable[[], bool]
) -> None:
    """Written aside and renamed: under its name it is whole. What is there already is replaced."""
    parent = _folders(beneath, file.path.encode())
    name = file.path.rpartition("/")[2].encode()
    aside = f".dormouse-{secrets.token_hex(8)}".encode()
    fd = os.open(
        aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent
    )
    try:
        with os.fdopen(fd, "wb") as out:
            for data in _content(file, remote, stopped=stopped):
                out.write(data)
            out.flush()
            os.fchmod(out.fileno(), file.mode)
        os.replace(aside, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside, dir_fd=parent)
        raise


def _folders(beneath: Beneath, path: bytes) -> int:
    """A descriptor of the folder for that path, made where it is not there, through no link."""
    at = b""
    for name in path.split(b"/")[:-1]:
        parent = beneath.folder(at)
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o777, dir_fd=parent)
        at = at + b"/" + name if at else name
    return beneath.folder(at)


def _content(
    file: wire.GivenFile, remote: PresignedRemote, *, stopped: Callable[[], bool]
) -> Iterator[bytes]:
    if file.data is not None:
        yield file.content()
        return
    whole, length = hashlib.sha256(), 0
    for piece in file.pieces:
        digest = hashlib.sha256()
        for offset in range(0, piece.length, RANGE_BYTES):
            if stopped():
                raise Cancelled("stopped while its files were fetched")
            wanted = min(RANGE_BYTES, piece.length - offset)
            data = remote.get(piece.key, offset=offset, length=wanted)
            if len(data) != wanted:
                raise StoreRefused(f"the store holds only {offset + len(data)} of {piece.length} bytes")
            digest.update(data)
            whole.update(data)
            length += wanted
            yield data
        if digest.hexdigest() != piece.sha256:
            raise StoreRefused("what the store gave is not what was stored: its SHA-256 is another one")
    if length != file.length or whole.hexdigest() != file.sha256:
        raise StoreRefused("the pieces do not make the file: its SHA-256 is another one")
