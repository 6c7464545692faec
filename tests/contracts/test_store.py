"""One suite for every object store: what the engine may rely on, whatever holds the bytes."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from snapshots.engine.store import open_store
from snapshots.engine.store.base import (
    ObjectExists,
    ObjectFacts,
    ObjectMissing,
    SignedRequest,
    Store,
    StoreBusy,
    StoreRefused,
)
from tests.servers.folder_store import serve_folder
from tests.servers.seaweedfs import SeaweedFS

pytest_plugins = ["tests.servers.seaweedfs"]

BODY = b"forty-two bytes of something worth keeping"
TTL_S = 300.0


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "folder":
        with serve_folder(tmp_path / "objects") as served:
            yield served
        return
    server: SeaweedFS = request.getfixturevalue("seaweedfs")
    yield open_store(f"s3://{server.bucket}/{secrets.token_hex(6)}", **server.options)


@pytest.fixture
def key() -> str:
    return f"o/alice/p/{secrets.token_hex(16)}"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def signed_put(store: Store, key: str, body: bytes = BODY, ttl_s: float = TTL_S) -> SignedRequest:
    return store.put_request(key, length=len(body), sha256=sha256(body), ttl_s=ttl_s)


def send(request: SignedRequest, body: bytes | None = None, **headers: str) -> requests.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.request(
        request.method, request.url, data=body, headers={**request.headers, **named}, timeout=30
    )


# -- direct use -----------------------------------------------------------------------------------


def test_what_was_written_is_read_back_and_its_digest_is_known_or_not_claimed(store: Store, key: str) -> None:
    store.write(key, BODY)
    assert store.read(key) == BODY
    assert store.head(key) in (ObjectFacts(len(BODY), sha256(BODY)), ObjectFacts(len(BODY), None))


def test_a_second_write_is_refused_and_changes_nothing(store: Store, key: str) -> None:
    store.write(key, BODY)
    with pytest.raises(ObjectExists, match=key):
        store.write(key, b"something else")
    assert store.read(key) == BODY


def test_of_many_writers_of_one_key_exactly_one_wins(store: Store, key: str) -> None:
    bodies = [b"writer %d" % n for n in range(8)]
    won: list[bytes] = []
    together = threading.Barrier(len(bodies))

    def write(body: bytes) -> None:
        together.wait()
        try:
            store.write(key, body)
        except (ObjectExists, StoreBusy):  # busy: S3 may say "conflict, ask again" to a loser of the race
            return
        won.append(body)

    threads = [threading.Thread(target=write, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read(key) == won[0]


def test_ranges_are_exact_and_end_where_the_object_ends(store: Store, key: str) -> None:
    store.write(key, BODY)
    assert store.read(key, offset=6, length=3) == BODY[6:9]
    assert store.read(key, offset=6) == BODY[6:]
    assert store.read(key, offset=40, length=100) == BODY[40:]
    assert store.read(key, length=0) == b""
    assert store.read(key, offset=len(BODY), length=5) == b""
    assert store.read(key, offset=1_000, length=5) == b""


def test_a_missing_object_is_missing_for_head_and_read(store: Store, key: str) -> None:
    with pytest.raises(ObjectMissing, match=key):
        store.head(key)
    with pytest.raises(ObjectMissing, match=key):
        store.read(key)
    with pytest.raises(ObjectMissing, match=key):
        store.read(key, offset=3, length=3)


def test_deleting_twice_is_no_error_and_frees_the_key(store: Store, key: str) -> None:
    store.write(key, BODY)
    store.delete(key)
    store.delete(key)
    with pytest.raises(ObjectMissing):
        store.head(key)
    store.write(key, b"new")
    assert store.read(key) == b"new"


def test_a_listing_is_complete_sorted_and_holds_nothing_else(store: Store) -> None:
    keys = sorted([f"o/alice/p/{n:04d}" for n in range(25)] + ["o/alice/m/one", "o/alice-2/m/two"])
    for name in keys:
        store.write(name, BODY)
    assert [row.key for row in store.list("")] == keys
    assert [row.key for row in store.list("o/alice/p/")] == [
        name for name in keys if name.startswith("o/alice/p/")
    ]
    assert [row.key for row in store.list("o/alice/p/000")] == [f"o/alice/p/{n:04d}" for n in range(10)]
    assert [row.key for row in store.list("o/al")] == keys
    assert [row.key for row in store.list("nobody/")] == []
    assert {row.length for row in store.list("")} == {len(BODY)}
    assert all(row.modified_at > 1_600_000_000 for row in store.list(""))


@pytest.mark.slow
def test_a_listing_goes_beyond_one_page(store: Store) -> None:
    keys = [f"o/alice/p/{n:05d}" for n in range(1_050)]
    for name in keys:
        store.write(name, b"x")
    assert [row.key for row in store.list("o/alice/")] == keys


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "/o/a",
        "o/../secret",
        "..",
        "o//a",
        "o/a/",
        "o/./a",
        "o/a\0b",
        "o/a b",
        ".incoming/x",
        "o/ä",
        "o/a?b",
        "a/" * 500 + "a",
        "a" * 300,
    ],
)
def test_a_key_that_could_leave_the_store_is_refused_everywhere(store: Store, bad: str) -> None:
    for act in (
        lambda: store.write(bad, BODY),
        lambda: store.read(bad),
        lambda: store.head(bad),
        lambda: store.delete(bad),
        lambda: store.get_request(bad, ttl_s=TTL_S),
        lambda: signed_put(store, bad),
    ):
        with pytest.raises(StoreRefused):
            act()


# -- signed requests ------------------------------------------------------------------------------


def test_a_signed_put_stores_and_a_signed_get_reads(store: Store, key: str) -> None:
    assert send(signed_put(store, key), BODY).status_code in (200, 201, 204)
    assert store.read(key) == BODY
    answer = send(store.get_request(key, ttl_s=TTL_S))
    assert (answer.status_code, answer.content) == (200, BODY)


def test_a_signed_get_serves_ranges(store: Store, key: str) -> None:
    store.write(key, BODY)
    request = store.get_request(key, ttl_s=TTL_S)
    for header, wanted in [
        ("bytes=6-8", BODY[6:9]),
        ("bytes=6-", BODY[6:]),
        ("bytes=30-999", BODY[30:]),
        ("bytes=-4", BODY[-4:]),
    ]:
        answer = send(request, Range=header)
        assert (answer.status_code, answer.content) == (206, wanted), header
        assert answer.headers["Content-Range"].endswith(f"/{len(BODY)}")
    assert send(request, Range="bytes=1000-1001").status_code == 416


def test_a_signed_get_of_nothing_is_404(store: Store, key: str) -> None:
    assert send(store.get_request(key, ttl_s=TTL_S)).status_code == 404


def test_a_second_signed_put_is_412_and_changes_nothing(store: Store, key: str) -> None:
    assert send(signed_put(store, key), BODY).ok
    other = b"x" * len(BODY)
    assert send(signed_put(store, key, other), other).status_code == 412
    assert send(signed_put(store, key), BODY).status_code == 412
    assert store.read(key) == BODY


def test_a_body_with_another_digest_is_refused_and_leaves_nothing(store: Store, key: str) -> None:
    assert send(signed_put(store, key), b"x" * len(BODY)).status_code == 400
    with pytest.raises(ObjectMissing):
        store.head(key)
    assert store.list("") == []


@pytest.mark.parametrize("body", [BODY[:-1], BODY + b"!", b""])
def test_a_body_of_another_length_is_refused_and_leaves_nothing(store: Store, key: str, body: bytes) -> None:
    request = signed_put(store, key)
    headers = {name: value for name, value in request.headers.items() if name.lower() != "content-length"}
    answer = requests.put(request.url, data=body, headers=headers, timeout=30)
    assert answer.status_code in (400, 403, 411)
    with pytest.raises(ObjectMissing):
        store.head(key)


def test_a_put_that_leaves_out_the_signed_digest_is_refused(store: Store, key: str) -> None:
    request = signed_put(store, key)
    bare = replace(
        request,
        headers={"Content-Length": str(len(BODY))},
        url=request.url.replace(sha256(BODY), sha256(b"")),
    )
    assert send(bare, BODY).status_code in (400, 403)
    with pytest.raises(ObjectMissing):
        store.head(key)


def test_a_tampered_signature_is_refused(store: Store, key: str) -> None:
    store.write(key, BODY)
    request = store.get_request(key, ttl_s=TTL_S)
    head, _, signature = request.url.rpartition("ignature=")
    flipped = ("0" if signature[0] != "0" else "1") + signature[1:]
    assert send(replace(request, url=f"{head}ignature={flipped}")).status_code == 403
    assert send(replace(request, url=f"{head}ignature=")).status_code in (400, 403)
    assert send(replace(request, url=request.url.partition("?")[0])).status_code == 403


def test_a_signature_is_good_for_its_own_key_only(store: Store, key: str) -> None:
    other = f"o/bob/p/{secrets.token_hex(16)}"
    store.write(other, BODY)
    request = store.get_request(key, ttl_s=TTL_S)
    assert send(replace(request, url=request.url.replace(key, other))).status_code == 403
    wish = signed_put(store, key)
    third = f"o/bob/p/{secrets.token_hex(16)}"
    assert send(replace(wish, url=wish.url.replace(key, third)), BODY).status_code == 403
    with pytest.raises(ObjectMissing):
        store.head(third)


def test_a_signature_is_good_for_its_own_method_only(store: Store, key: str) -> None:
    store.write(key, BODY)
    reading = store.get_request(key, ttl_s=TTL_S)
    for method in ("PUT", "DELETE", "POST"):
        assert not send(replace(reading, method=method), BODY).ok
    writing = signed_put(store, key)
    assert send(replace(writing, method="GET"), BODY).status_code in (400, 403)
    assert send(replace(writing, method="DELETE"), BODY).status_code in (400, 403, 405)
    assert store.read(key) == BODY


@pytest.mark.slow
def test_an_expired_request_is_refused(store: Store, key: str) -> None:
    store.write(key, BODY)
    request = store.get_request(key, ttl_s=1)
    late = threading.Event()
    late.wait(2.1)
    assert send(request).status_code == 403


def test_a_longer_life_cannot_be_written_into_a_request(store: Store, key: str) -> None:
    store.write(key, BODY)
    request = store.get_request(key, ttl_s=77)
    longer = request.url.replace("Expires=77", "Expires=604800")
    if longer == request.url:
        head, _, rest = request.url.partition("expires=")
        longer = f"{head}expires=9{rest}"
    assert longer != request.url
    assert send(replace(request, url=longer)).status_code == 403


def test_a_signed_request_does_not_show_its_url_when_printed(store: Store, key: str) -> None:
    assert "http" not in repr(store.get_request(key, ttl_s=TTL_S))
