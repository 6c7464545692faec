"""Transfers over HTTP with presigned requests: bad networks, old URLs, objects that are already there."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from snapshots.engine.remote import ObjectPlan, PresignedRemote
from snapshots.engine.remote.asking import BATCH_MAX, Asker
from snapshots.engine.remote.retry import Backoff
from snapshots.engine.store.base import (
    ObjectExists,
    ObjectMissing,
    ObjectTooLong,
    SignedRequest,
    StoreBusy,
    StoreError,
    StoreRefused,
)
from snapshots.engine.store.folder import FolderStore
from snapshots.engine.store.folder_http import Reply
from tests.servers.folder_store import serve_folder
from tests.snapshots.engine.trees import noise

KEY = "o/u_alice/p/" + "0" * 32
DATA = noise(3_000_000)
Script = Callable[[str, str], Reply | None]


@dataclass
class Rig:
    """A store behind HTTP, a remote that uses it, and what both were asked."""

    store: FolderStore
    asked_put: list[list[ObjectPlan]] = field(default_factory=list)
    asked_get: list[list[str]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    script: list[Reply | None] = field(default_factory=list)
    ttl_s: float = 60

    @property
    def remote(self) -> PresignedRemote:
        return PresignedRemote(self.sign_put, self.sign_get, pause=self.pauses.append)

    def sign_put(self, plans: Sequence[ObjectPlan]) -> Sequence[SignedRequest]:
        self.asked_put.append(list(plans))
        return [
            self.store.put_request(p.key, length=p.length, sha256=p.sha256, ttl_s=self.ttl_s) for p in plans
        ]

    def sign_get(self, keys: Sequence[str]) -> Sequence[SignedRequest]:
        self.asked_get.append(list(keys))
        return [self.store.get_request(key, ttl_s=self.ttl_s) for key in keys]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with _rig(tmp_path) as found:
        yield found


@contextmanager
def _rig(tmp_path: Path) -> Iterator[Rig]:
    rigs: list[Rig] = []

    def before(method: str, key: str) -> Reply | None:
        rigs[0].requests.append(method)
        return rigs[0].script.pop(0) if rigs[0].script else None

    with serve_folder(tmp_path / "objects", before=before) as store:
        rigs.append(Rig(store))
        yield rigs[0]


def plan_of(data: bytes, key: str = KEY) -> ObjectPlan:
    return ObjectPlan(key, len(data), hashlib.sha256(data).hexdigest())


def answer(status: int, body: bytes = b"", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"Content-Length": str(len(body)), **named}, (body,))


def test_what_is_put_is_got_whole_and_in_ranges(rig: Rig) -> None:
    remote = rig.remote
    remote.put(plan_of(DATA), DATA)
    assert rig.store.read(KEY) == DATA
    assert remote.fetch(KEY, max_length=len(DATA)) == DATA
    assert remote.get(KEY, offset=1_000_000, length=70_000) == DATA[1_000_000:1_070_000]
    assert remote.get(KEY, offset=len(DATA) - 5, length=70_000) == DATA[-5:]
    assert remote.get(KEY, offset=len(DATA), length=5) == b""
    assert remote.get(KEY, offset=0, length=0) == b""
    with pytest.raises(ObjectTooLong):
        remote.fetch(KEY, max_length=len(DATA) - 1)


def test_one_url_serves_all_ranges_of_an_object(rig: Rig) -> None:
    rig.store.write(KEY, DATA)
    remote = rig.remote
    for offset in range(0, 1_000_000, 100_000):
        remote.get(KEY, offset=offset, length=10)
    assert rig.asked_get == [[KEY]]


def test_what_is_missing_is_missing(rig: Rig) -> None:
    with pytest.raises(ObjectMissing):
        rig.remote.get(KEY, offset=0, length=5)
    assert rig.pauses == []


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408, 409])
def test_a_busy_store_is_asked_again_with_growing_pauses(rig: Rig, status: int) -> None:
    rig.script += [answer(status)] * 4
    rig.remote.put(plan_of(DATA), DATA)
    assert rig.store.read(KEY) == DATA
    assert len(rig.pauses) == 4
    for pause, full in zip(rig.pauses, (0.25, 0.5, 1.0, 2.0), strict=True):
        assert full / 2 <= pause <= full


def test_retry_after_is_honoured_within_reason(rig: Rig) -> None:
    rig.script += [
        answer(503, Retry_After="7"),
        answer(503, Retry_After="86400"),
        answer(503, Retry_After="tomorrow"),
    ]
    rig.store.write(KEY, DATA)
    assert rig.remote.get(KEY, offset=0, length=5) == DATA[:5]
    assert rig.pauses[:2] == [7, 60]
    assert rig.pauses[2] <= 1.0


def test_a_store_that_stays_busy_is_given_up_in_the_end(rig: Rig) -> None:
    rig.script += [answer(503)] * 50
    with pytest.raises(StoreBusy, match="503"):
        rig.remote.put(plan_of(DATA), DATA)
    assert len(rig.pauses) == Backoff(print).attempts - 1


def test_s3s_request_timeout_is_busy_although_its_status_says_otherwise(rig: Rig) -> None:
    rig.script.append(answer(400, b"<Error><Code>RequestTimeout</Code><Message>x</Message></Error>"))
    rig.remote.put(plan_of(DATA), DATA)
    assert len(rig.pauses) == 1


@pytest.mark.parametrize("status", [400, 401, 411, 301, 307])
def test_a_refusal_is_not_repeated(rig: Rig, status: int) -> None:
    rig.script.append(answer(status, b"<Code>BadDigest</Code>", Location="http://127.0.0.1:1/"))
    with pytest.raises(StoreRefused, match=f"answered {status}"):
        rig.remote.put(plan_of(DATA), DATA)
    assert (len(rig.requests), rig.pauses) == (1, [])


def test_an_expired_url_is_replaced_by_a_new_one_without_waiting(rig: Rig) -> None:
    rig.store.write(KEY, DATA)
    remote = rig.remote
    rig.ttl_s = -5
    remote._get_request(KEY, fresh=True)  # a URL that was good once, and is kept
    rig.ttl_s = 60
    assert remote.get(KEY, offset=0, length=5) == DATA[:5]
    assert (len(rig.asked_get), rig.pauses) == (2, [])
    rig.script += [None, answer(403)]
    other = KEY[:-1] + "1"
    rig.script[:] = [answer(403)]
    remote.put(plan_of(DATA, other), DATA)
    assert len(rig.asked_put) == 2
    assert rig.store.read(other) == DATA


def test_urls_that_are_all_refused_are_reported_with_advice(rig: Rig) -> None:
    rig.ttl_s = -5
    with pytest.raises(StoreRefused, match=r"403 .*3 times: are the clocks right"):
        rig.remote.put(plan_of(DATA), DATA)
    assert len(rig.asked_put) == 3


def test_already_there_is_believed_only_if_it_is_the_very_object(rig: Rig) -> None:
    remote = rig.remote
    remote.put(plan_of(DATA), DATA)
    remote.put(plan_of(DATA), DATA)
    for other in (DATA[:-1], DATA[:-1] + b"x", DATA + b"x", b"x"):
        with pytest.raises(ObjectExists):
            remote.put(plan_of(other), other)
    assert rig.store.read(KEY) == DATA


def test_a_put_whose_answer_was_lost_is_found_done(rig: Rig) -> None:
    rig.store.write(KEY, DATA)  # the first attempt arrived
    rig.script.append(answer(502))
    rig.remote.put(plan_of(DATA), DATA)
    assert rig.requests == ["PUT", "PUT", "GET"]


def test_a_body_that_breaks_off_is_asked_for_again(rig: Rig) -> None:
    rig.store.write(KEY, DATA)
    rig.script.append(Reply(206, {"Content-Length": "1000", "Connection": "close"}, (DATA[:400],)))
    remote = rig.remote
    # The server must close the connection itself for the client to see that the body is short.
    rig.script[0] = Reply(206, {"Content-Length": "1000"}, _break_after(DATA[:400]))
    assert remote.get(KEY, offset=0, length=1_000) == DATA[:1_000]
    assert len(rig.pauses) == 1


def _break_after(data: bytes) -> Iterator[bytes]:
    yield data
    raise ConnectionAbortedError


def test_a_range_that_is_answered_with_the_whole_object_is_not_taken_for_the_range(rig: Rig) -> None:
    rig.script.append(answer(200, DATA))
    with pytest.raises(StoreRefused, match="status 200"):
        rig.remote.get(KEY, offset=10, length=5)
    rig.script.append(answer(200, DATA))
    assert rig.remote.get(KEY, offset=0, length=5) == DATA[:5]


def test_nobody_at_the_other_end_is_busy_and_the_message_holds_no_url(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    def sign(wishes: Sequence[ObjectPlan | str]) -> Sequence[SignedRequest]:
        good = rig.store.get_request(KEY, ttl_s=60)
        return [replace(good, url="http://127.0.0.1:1/secret?signature=abc")] * len(wishes)

    remote = PresignedRemote(sign, sign, pause=lambda seconds: None)
    with caplog.at_level(logging.DEBUG, logger="snapshots"), pytest.raises(StoreBusy) as caught:
        remote.get(KEY, offset=0, length=5)
    shown = str(caught.value) + repr(caught.value.__cause__) + caplog.text
    assert "signature" not in shown and "secret" not in shown
    assert caught.value.__suppress_context__


def test_urls_are_asked_for_in_batches_while_others_wait() -> None:
    wishes = 200
    first_is_asking, go_on = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    def ask(numbers: Sequence[int]) -> Sequence[SignedRequest]:
        batches.append(list(numbers))
        if len(batches) == 1:
            first_is_asking.set()
            assert go_on.wait(20)
        return [SignedRequest("GET", str(number)) for number in numbers]

    asker = Asker(ask)
    answers: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda n=n: answers.__setitem__(n, asker.get(n).url)) for n in range(wishes)
    ]
    threads[0].start()
    assert first_is_asking.wait(20)
    for thread in threads[1:]:
        thread.start()
    while len(asker._waiting) < wishes - 1:
        threading.Event().wait(0.005)
    go_on.set()
    for thread in threads:
        thread.join()
    assert answers == {n: str(n) for n in range(wishes)}
    assert [len(batch) for batch in batches] == [
        1,
        BATCH_MAX,
        BATCH_MAX,
        BATCH_MAX,
        wishes - 1 - 3 * BATCH_MAX,
    ]


@pytest.mark.parametrize(
    "error", [StoreBusy("the control plane is away"), StoreRefused("snapshot is over"), ValueError("broken")]
)
def test_what_the_signer_raises_reaches_whoever_asked(rig: Rig, error: Exception) -> None:
    def fail(wishes: Sequence[ObjectPlan | str]) -> Sequence[SignedRequest]:
        raise error

    remote = PresignedRemote(fail, fail, pause=rig.pauses.append)
    with pytest.raises(type(error)):
        remote.put(plan_of(DATA), DATA)
    assert len(rig.pauses) == (6 if isinstance(error, StoreBusy) else 0)
    with pytest.raises(type(error)):
        remote.get(KEY, offset=0, length=1)


def test_a_signer_that_answers_too_few_is_refused(rig: Rig) -> None:
    remote = PresignedRemote(lambda plans: [], lambda keys: [], pause=rig.pauses.append)
    with pytest.raises(StoreError, match="asked for 1 signed requests and got 0"):
        remote.put(plan_of(DATA), DATA)


def test_a_login_in_the_users_netrc_is_not_sent_along(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    seen: list[object] = []
    rig.store.write(KEY, DATA)
    remote = rig.remote
    remote._session.hooks["response"].append(
        lambda response, **_: seen.append(response.request.headers.get("Authorization"))
    )
    remote.get(KEY, offset=0, length=5)
    assert seen == [None]
