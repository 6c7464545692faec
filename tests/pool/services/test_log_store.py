"""Jobs' output in the store: read by offset as before, wherever it is; cut in its middle; let go after its days."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from agent import wire
from core.errors import Busy
from pool import selectors_logs
from pool.admin.job_parts import output_shown
from pool.models import Dispatch, Job, JobObject, LogChunk, LogPart, Worker
from pool.selectors_logs import log_read
from pool.services import log_store
from pool.services.cancelling import array_cancel, job_cancel
from pool.services.job_spec import FileSpec, JobSpec
from pool.services.jobs import jobs_dispatch
from pool.services.reports import dispatch_log
from pool.services.retention import UPLOADS_OVER_S, files_let_go
from pool.services.submission import submit_once
from snapshots.services.store import store
from tests.pool.conftest import NOON
from tests.pool.services.jobs import SOON, attempt, claim, finish, identity, submit
from tests.pool.services.test_artifacts import leave, piece, plan

Enrol = Callable[..., Worker]
LATER = SOON + timedelta(hours=1)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_store, "PART_BYTES", 1_000)
    selectors_logs._unpacked.cache_clear()


def running(owner: User, **spec: Any) -> Dispatch:
    job = submit(owner, **spec)
    jobs_dispatch(now=NOON)
    claim(job)
    return attempt(job)


def says(row: Dispatch, data: bytes, *, total: int | None = None) -> int:
    row.refresh_from_db()
    post = wire.LogPost.of(fence=row.fence, offset=row.log_bytes, raw=data, total=total)
    return dispatch_log(identity=identity(row.worker), dispatch_id=row.pk, post=post, now=SOON)


def whole(row: Dispatch, *, limit: int = 300) -> bytes:
    """Read as a caller does: from next_offset on, until done."""
    row = Dispatch.objects.get(pk=row.pk)
    out, offset = b"", 0
    while True:
        piece = log_read(row, offset=offset, limit=limit)
        out += piece.data
        if piece.done or piece.next_offset == offset:
            return out
        offset = piece.next_offset


def test_output_reads_the_same_before_while_and_after_it_goes_to_the_store(alice: User, enrol: Enrol) -> None:
    enrol()
    row = running(alice)
    random.seed(1)
    lines = [random.randbytes(random.randint(1, 400)) for _ in range(40)]
    for line in lines[:20]:
        says(row, line)
    text = b"".join(lines[:20])
    assert whole(row) == text
    while log_store.logs_store(now=SOON):
        pass
    row.refresh_from_db()
    assert 0 < len(text) - row.log_stored_bytes < 1_000, "what is not a whole piece yet stays in the database"
    assert whole(row) == text
    for line in lines[20:]:
        says(row, line)
    finish(row.job)
    while log_store.logs_store(now=SOON):
        pass
    text = b"".join(lines)
    assert Dispatch.objects.get(pk=row.pk).log_stored_bytes == len(text)
    assert whole(row) == text and LogChunk.objects.exists()
    while log_store.chunks_remove(now=LATER):
        pass
    assert not LogChunk.objects.exists()
    assert whole(row) == text
    assert {
        log_read(Dispatch.objects.get(pk=row.pk), offset=n, limit=7).data for n in range(0, 2_000, 13)
    } == {text[n : n + 7] for n in range(0, 2_000, 13)}


def test_reading_goes_on_through_stored_pieces_and_the_database_in_one_go(alice: User, enrol: Enrol) -> None:
    enrol()
    row = running(alice)
    text = random.Random(2).randbytes(2_700)
    says(row, text)
    assert log_store.logs_store(now=SOON) == 2
    row.refresh_from_db()
    assert log_read(row, offset=500, limit=2_000).data == text[500:2_500]
    assert log_read(row, offset=990).data == text[990:]


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "running"])
def test_a_character_that_a_stored_piece_ends_within_stops_no_reader(
    api_client: Callable[..., Any], alice: User, enrol: Enrol, ended: bool
) -> None:
    """The piece ends after the first byte of a two-byte letter."""
    enrol()
    row = running(alice)
    text = "a" * 999 + "é" * 600
    says(row, text.encode())
    if ended:
        finish(row.job)
    while log_store.logs_store(now=SOON):
        pass
    assert LogPart.objects.count() == (3 if ended else 2)
    assert read_by_api(api_client(alice), row) == text


def test_a_character_that_the_cut_ends_within_stops_no_reader(
    api_client: Callable[..., Any], alice: User, enrol: Enrol, settings: Any
) -> None:
    settings.JOB_LOG_BYTES = 1_000
    enrol()
    row = running(alice)
    head = b"a" * 599 + "é".encode()[:1]
    assert says(row, head, total=50_000) == 49_500
    says(row, b"z" * 500, total=50_000)
    finish(row.job)
    expected = "a" * 599 + "\ufffd\n[48900 bytes of output were cut out here]\n" + "z" * 500
    assert read_by_api(api_client(alice), row) == expected
    while log_store.logs_store(now=SOON):
        pass
    assert read_by_api(api_client(alice), row) == expected


def read_by_api(client: Any, row: Dispatch) -> str:
    text, offset = "", 0
    while True:
        page = client.get(f"/api/jobs/{row.job_id}/logs", {"offset": offset}).json()
        text += page["data"]
        if page["done"] or offset >= Dispatch.objects.get(pk=row.pk).log_bytes:
            return text
        assert page["next_offset"] > offset, f"no reader gets beyond byte {offset}"
        offset = page["next_offset"]


def test_the_end_of_the_output_on_the_jobs_page_is_its_end(alice: User, enrol: Enrol) -> None:
    enrol()
    row = running(alice)
    says(row, b"x" * 1_990 + b"y" * 10 + b"the last words")
    finish(row.job)
    while log_store.logs_store(now=SOON):
        pass
    while log_store.chunks_remove(now=LATER):
        pass
    row.refresh_from_db()
    assert output_shown(row).endswith("y" * 10 + "the last words")


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "running"])
def test_those_that_never_send_what_they_skipped_ahead_to_keep_no_other_from_being_stored(
    alice: User, enrol: Enrol, settings: Any, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    monkeypatch.setattr(log_store, "AT_ONCE", 1)
    settings.JOB_LOG_BYTES = 1_000
    enrol(slots=2)
    silent, other = running(alice), running(alice)
    assert says(silent, b"a" * 600, total=50_000) == 49_500
    if ended:
        finish(silent.job)
    Dispatch.objects.filter(pk=silent.pk).update(state_since=NOON)  # the oldest
    says(other, b"b" * 400)
    finish(other.job)
    for _ in range(3):
        log_store.logs_store(now=SOON)
    assert LogPart.objects.filter(dispatch=other).exists()
    if not ended:
        says(silent, b"z" * 500, total=50_000)
        finish(silent.job)
        while log_store.logs_store(now=SOON):
            pass
        assert whole(silent).endswith(b"cut out here]\n" + b"z" * 500)
        assert LogPart.objects.filter(dispatch=silent, offset=49_500).exists()


def test_two_runs_at_once_store_each_piece_once(alice: User, enrol: Enrol) -> None:
    enrol()
    row = running(alice)
    says(row, bytes(2_500))
    finish(row.job)
    one, other = log_store._due()[0], log_store._due()[0]
    assert log_store._store_next(one, now=SOON)
    assert not log_store._store_next(other, now=SOON)
    while log_store.logs_store(now=SOON):
        pass
    assert [part.length for part in LogPart.objects.all()] == [1_000, 1_000, 500]
    assert whole(row) == bytes(2_500)


def test_while_the_store_is_away_output_stays_where_it_is(
    alice: User, enrol: Enrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol()
    row = running(alice)
    says(row, b"x" * 1_500)
    finish(row.job)

    def away(*_: Any, **__: Any) -> None:
        raise Busy("the store is busy", retry_after_s=5)

    with monkeypatch.context() as patch:
        patch.setattr(log_store, "object_write", away)
        with pytest.raises(Busy):
            log_store.logs_store(now=SOON)
    assert whole(row) == b"x" * 1_500
    while log_store.logs_store(now=SOON):
        pass
    assert LogPart.objects.count() == 2 and whole(row) == b"x" * 1_500


def test_more_than_the_cap_loses_its_middle_and_says_how_much(
    alice: User, enrol: Enrol, settings: Any
) -> None:
    settings.JOB_LOG_BYTES = 4_000
    enrol()
    row = running(alice)
    text = b"".join(b"line %06d\n" % n for n in range(800))
    for begin in range(0, len(text), 150):
        says(row, text[begin : begin + 150])
        if begin % 1_200 == 0:
            log_store.logs_store(now=SOON)
            log_store.chunks_remove(now=LATER)
    finish(row.job)
    while log_store.logs_store(now=SOON):
        pass
    while log_store.chunks_remove(now=LATER):
        pass
    row.refresh_from_db()
    kept = whole(row)
    head, _, rest = kept.partition(b"\n[")
    said, _, tail = rest.partition(b" bytes of output were cut out here]\n")
    assert text.startswith(head) and text.endswith(tail)
    assert len(head) + int(said) + len(tail) == len(text)
    assert 2_000 <= len(head) < 2_200 and 2_000 <= len(tail) < 2_700
    assert not LogChunk.objects.exists()
    stored = LogPart.objects.filter(dispatch=row)
    assert sum(part.length for part in stored) < 4_000 + 2 * 1_000 + 600
    assert JobObject.objects.filter(doomed=True).count() + stored.count() == JobObject.objects.count()


def test_an_agent_with_too_much_to_tell_is_told_where_to_go_on(
    alice: User, enrol: Enrol, settings: Any
) -> None:
    settings.JOB_LOG_BYTES = 1_000
    enrol()
    row = running(alice)
    assert says(row, b"a" * 600, total=50_000) == 49_500
    assert says(row, b"z" * 500, total=50_000) == 50_000
    finish(row.job)
    assert whole(row) == b"a" * 600 + b"\n[48900 bytes of output were cut out here]\n" + b"z" * 500


# -- let go -------------------------------------------------------------------------------------------


def test_what_a_job_left_is_let_go_after_its_days_and_says_so(
    alice: User, enrol: Enrol, settings: Any
) -> None:
    settings.JOB_FILES_DAYS = 2
    enrol(slots=2)
    old, open_ = running(alice, artifacts=["*"]), running(alice, artifacts=["*"])
    wish, stays = leave(old, "a", b"artifact"), leave(open_, "a", b"stays")
    says(old, b"said")
    finish(old.job)
    while log_store.logs_store(now=SOON):
        pass
    objects = [*JobObject.objects.filter(dispatch=old).values_list("key", flat=True)]
    assert len(objects) == 2
    assert files_let_go(now=SOON + timedelta(days=1)) == 0
    late = SOON + timedelta(days=3)
    while files_let_go(now=late):
        pass
    assert not JobObject.objects.filter(dispatch=old).exists() and not old.artifacts.exists()
    assert [found.key for found in store().list(wish.key.rpartition("/")[0])] == []
    assert store().read(stays.key) == b"stays", "an attempt that has not ended keeps everything"
    assert whole(old) == b"[this output was let go 2026-11-21]\n"


@pytest.mark.parametrize("count", [None, 2], ids=["a job", "an array"])
def test_what_a_job_that_waits_is_going_to_be_given_stays(
    alice: User, enrol: Enrol, settings: Any, count: int | None
) -> None:
    settings.JOB_FILES_DAYS = 2
    enrol()
    row = running(alice, artifacts=["*"])
    leave(row, "a", b"artifact")
    finish(row.job)
    given = FileSpec(path="in", source_job=row.job_id, source_path="a")
    made, _ = submit_once(
        owner=alice, key="", body={}, spec=JobSpec(command=["x"], files=[given], count=count), now=SOON
    )
    late = SOON + timedelta(days=30)
    files_let_go(now=late)
    assert row.artifacts.exists()
    if isinstance(made, Job):
        job_cancel(made, now=late)
    else:
        array_cancel(made, now=late)
    files_let_go(now=late)
    assert not row.artifacts.exists()


def test_an_upload_that_may_still_run_is_not_raced(alice: User, enrol: Enrol, settings: Any) -> None:
    settings.JOB_FILES_DAYS = 0.001
    enrol()
    row = running(alice, artifacts=["*"])
    plan(row, piece(row, b"on its way"))
    finish(row.job)
    soon = SOON + timedelta(seconds=UPLOADS_OVER_S - 1)
    files_let_go(now=soon)
    assert JobObject.objects.filter(doomed=True).count() == 1, "the object may appear yet"
    files_let_go(now=soon + timedelta(seconds=2))
    assert not JobObject.objects.exists()


def test_nothing_is_let_go_where_the_operator_says_for_ever(alice: User, enrol: Enrol, settings: Any) -> None:
    settings.JOB_FILES_DAYS = 0
    enrol()
    row = running(alice, artifacts=["*"])
    leave(row, "a", b"x")
    finish(row.job)
    assert files_let_go(now=SOON + timedelta(days=10_000)) == 0
    assert Job.objects.get().attempts.get().artifacts.count() == 1
