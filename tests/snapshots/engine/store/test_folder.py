"""What only the folder store promises: crashes leave nothing, bodies are streamed, refusals are HTTP answers."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from snapshots.engine.store import open_store
from snapshots.engine.store.base import ObjectMissing, StoreBusy, StoreRefused
from snapshots.engine.store.folder import ABANDONED_AFTER_S, PIECE_BYTES, BodyRefused, FolderStore
from snapshots.engine.store.folder_http import respond
from snapshots.engine.store.folder_signing import Grant, SignatureRefused

NOW = 1_700_000_000.0
KEY = "o/u_alice/p/" + "a" * 32


@pytest.fixture
def signed(tmp_path: Path) -> FolderStore:
    return FolderStore(
        tmp_path / "objects", base_url="https://host/store", signing_key=b"k" * 32, clock=lambda: NOW
    )


class Body:
    """A request's body that notes how it is read."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.largest = 0

    def read(self, size: int, /) -> bytes:
        self.largest = max(self.largest, size)
        piece = bytes(min(size, self.left))
        self.left -= len(piece)
        return piece


def sha256_of_zeros(size: int) -> str:
    return hashlib.sha256(bytes(size)).hexdigest()


def files_below(root: Path) -> list[str]:
    return [os.path.relpath(os.path.join(at, name), root) for at, _, names in os.walk(root) for name in names]


def test_a_body_is_received_in_pieces_and_only_as_long_as_it_was_announced(signed: FolderStore) -> None:
    size = 20_000_000
    body = Body(size + 500)
    signed.receive(Grant("PUT", KEY, size, sha256_of_zeros(size)), body)
    assert body.largest <= PIECE_BYTES
    assert body.left == 500
    assert signed.head(KEY).length == size


def test_a_short_body_leaves_nothing(signed: FolderStore) -> None:
    with pytest.raises(BodyRefused, match="5 bytes short of 105"):
        signed.receive(Grant("PUT", KEY, 105, sha256_of_zeros(105)), Body(100))
    assert files_below(signed.root) == []


def test_a_body_that_breaks_off_leaves_nothing(signed: FolderStore) -> None:
    class Broken(Body):
        def read(self, size: int, /) -> bytes:
            raise ConnectionResetError("gone")

    with pytest.raises(StoreRefused):
        signed.receive(Grant("PUT", KEY, 100, sha256_of_zeros(100)), Broken(100))
    assert files_below(signed.root) == []


def test_a_writer_that_is_killed_leaves_no_object_and_its_rest_is_removed_after_a_day(tmp_path: Path) -> None:
    script = """
import os, sys
from snapshots.engine.store.folder import FolderStore, Grant
class Killer:
    def read(self, size):
        os.kill(os.getpid(), 9) if self.__dict__.setdefault("n", 0) else None
        self.n += 1
        return bytes(size)
FolderStore(sys.argv[1]).receive(Grant("PUT", sys.argv[2], 5_000_000, "0" * 64), Killer())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), KEY], cwd=Path(__file__).parents[4], check=False
    )
    assert done.returncode == -9
    store = FolderStore(tmp_path)
    with pytest.raises(ObjectMissing):
        store.head(KEY)
    assert store.list("") == []
    (rest,) = files_below(tmp_path)
    made_at = os.stat(tmp_path / rest).st_mtime
    FolderStore(tmp_path, clock=lambda: made_at + ABANDONED_AFTER_S - 5)
    assert files_below(tmp_path) == [rest]
    FolderStore(tmp_path, clock=lambda: made_at + ABANDONED_AFTER_S + 5)
    assert files_below(tmp_path) == []


def test_a_folder_store_without_a_signing_key_signs_nothing_and_lets_nobody_in(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    with pytest.raises(StoreRefused, match="base_url and signing_key"):
        store.get_request(KEY, ttl_s=5)
    keyless = FolderStore(tmp_path, base_url="http://x", signing_key=b"").check
    with pytest.raises(SignatureRefused):
        keyless("GET", KEY, {"expires": "9999999999", "signature": ""}, {}, now=NOW)


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"signature": "é", "expires": "1"},
        {"expires": "9" * 5_000, "signature": "x"},
        {"expires": "never", "signature": "x", "length": "٣", "sha256": "x\ny"},
        {"expires": "", "signature": ""},
    ],
)
def test_nonsense_in_a_query_is_a_refused_signature(signed: FolderStore, query: dict[str, str]) -> None:
    for method in ("GET", "PUT", "DELETE", "get", ""):
        with pytest.raises(SignatureRefused):
            signed.check(method, KEY, query, {}, now=NOW)


def test_a_grant_for_reading_does_not_store_and_the_other_way_round(signed: FolderStore) -> None:
    with pytest.raises(SignatureRefused):
        signed.receive(Grant("GET", KEY), io.BytesIO(b"x"))
    with pytest.raises(SignatureRefused):
        signed.open_range(Grant("PUT", KEY, 1, "0" * 64), None)


def ask(
    store: FolderStore, method: str, url: str, body: bytes = b"", now: float = NOW, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(url)
    reply = respond(
        store,
        method=method,
        key=parts.path.removeprefix("/store/"),
        query=dict(parse_qsl(parts.query)),
        headers={"Content-Length": str(len(body)), **headers},
        body=io.BytesIO(body),
        now=now,
    )
    return reply.status, dict(reply.headers), b"".join(reply.body)


def test_every_outcome_has_its_http_status(signed: FolderStore) -> None:
    put = signed.put_request(KEY, length=5, sha256=hashlib.sha256(b"hello").hexdigest(), ttl_s=60)
    get = signed.get_request(KEY, ttl_s=60)
    assert put.url.startswith(f"https://host/store/{KEY}?")
    assert ask(signed, "GET", get.url)[0] == 404
    assert ask(signed, "PUT", put.url, b"jello")[0] == 400
    assert ask(signed, "PUT", put.url, b"hell")[0] == 403
    assert ask(signed, "PUT", put.url, b"hello", now=NOW + 61)[0] == 403
    assert ask(signed, "PUT", put.url, b"hello") == (200, {"Content-Length": "0"}, b"")
    status, headers, text = ask(signed, "PUT", put.url, b"hello")
    assert (status, headers["Content-Length"]) == (412, str(len(text)))
    assert ask(signed, "GET", get.url)[2] == b"hello"
    assert ask(signed, "GET", get.url, Range="bytes=1-2")[::2] == (206, b"el")
    assert ask(signed, "GET", get.url, Range="bytes=9-")[1]["Content-Range"] == "bytes */5"
    assert ask(signed, "DELETE", get.url)[0] == 403
    assert ask(signed, "GET", get.url.replace(KEY, "o/../x"))[0] == 400


@pytest.mark.parametrize(
    "header",
    [
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "lines=1-2",
        "bytes=1-2,4-5",
        "bytes=3-1",
        "bytes=" + "9" * 5_000 + "-",
    ],
)
def test_a_range_that_makes_no_sense_is_answered_with_the_whole_object(
    signed: FolderStore, header: str
) -> None:
    signed.write(KEY, b"hello")
    assert ask(signed, "GET", signed.get_request(KEY, ttl_s=9).url, Range=header)[::2] == (200, b"hello")


def test_a_full_disk_is_busy_and_an_unwritable_folder_is_refused(
    signed: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreBusy, match="free some space"):
        signed.write(KEY, b"x")
    monkeypatch.undo()
    assert files_below(signed.root) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreRefused):
        FolderStore(tmp_path / "file/store")


def test_addresses_that_are_no_store_are_refused(tmp_path: Path) -> None:
    assert isinstance(open_store(str(tmp_path / "new")), FolderStore)
    for address in ("gs://bucket", "s3://", "s3:///prefix", "https://host/bucket"):
        with pytest.raises(StoreRefused, match="a store is a folder or s3"):
            open_store(address)
