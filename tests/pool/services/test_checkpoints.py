"""Checkpoints of jobs: taken by the attempt that runs, verified, gone on from, and let go when nobody needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User

from agent import wire
from core.agents import AgentIdentity
from core.chains import chain_enter
from core.errors import Busy, DomainError, Invalid, StandDown
from core.models import Chain
from core.reasons import because
from pool.models import Dispatch, Job, Worker
from pool.services import checkpointing, checkpoints
from pool.services.cancelling import job_cancel
from pool.services.checkpointing import CheckpointLost
from pool.services.dispatches import dispatch_withdraw
from pool.services.jobs import jobs_dispatch
from snapshots.models import RestoreGrant, Snapshot
from snapshots.services import taking
from snapshots.services.deleting import snapshot_delete
from snapshots.states import SnapshotState
from tests.pool.conftest import NOON
from tests.pool.services.jobs import SOON, attempt, claim, finish, identity, state, submit
from tests.snapshots.rows import folder_store, taken

pytestmark = pytest.mark.usefixtures("valkey", "store_folder")


@pytest.fixture
def store_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    yield from folder_store(monkeypatch, tmp_path)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "counter").write_text("1")
    return folder


def running(owner: User, **spec: Any) -> Job:
    job = submit(owner, checkpoint_every_s=600, **spec)
    assert jobs_dispatch(now=NOON) == 1
    claim(job)
    return job


def ask(row: Dispatch, request: str = "r1", *, who: AgentIdentity | None = None, **more: Any) -> Snapshot:
    post = wire.CheckpointPost(fence=row.fence, request_id=request, **more)
    return checkpointing.checkpoint_begin(
        identity=who or identity(row.worker), dispatch_id=row.pk, post=post, now=SOON
    )


def commit(row: Dispatch, folder: Path, request: str = "r1") -> Snapshot:
    return taken(ask(row, request), folder, identity(row.worker))


def check() -> None:
    """What the chains' workers do."""
    for chain in Chain.objects.filter(state="active"):
        chain_enter(chain.pk)


def checkpoint(row: Dispatch, folder: Path, request: str = "r1") -> Snapshot:
    snapshot = commit(row, folder, request)
    check()
    snapshot.refresh_from_db()
    assert snapshot.state == SnapshotState.VERIFIED
    return snapshot


def restore(job: Job) -> wire.RestoreAnswer:
    row = attempt(job)
    return checkpointing.checkpoint_restore(
        identity=identity(row.worker), dispatch_id=row.pk, fence=row.fence, now=SOON
    )


def again(job: Job, *, how: str = "interrupted") -> None:
    """The present attempt ends without a result, and the next one is claimed."""
    if how == "lost":
        dispatch_withdraw(attempt(job), reason=because("lease_over", lease_s=90), now=SOON)
        Dispatch.objects.filter(job=job, state="withdrawn").update(finished_at=SOON)
    else:
        finish(job, "interrupted", None, reason="the session ends")
    assert jobs_dispatch(now=SOON) == 1
    claim(job)


def test_one_that_was_asked_for_first_and_arrives_last_changes_nothing(
    alice: User, enrol: Callable[..., Worker], work: Path
) -> None:
    enrol()
    row = attempt(running(alice))
    last = ask(row, "last", number=1001)
    for late in ("first", "very first"):
        with pytest.raises(Invalid, match="a later checkpoint has been begun"):
            ask(row, late, number=1000)
    assert Snapshot.objects.get().state == SnapshotState.TAKING
    assert ask(row, "last", number=1001).pk == last.pk, "asked again, because the answer was lost"
    taken(last, work, identity(row.worker))
    assert ask(row, "next", number=1002).generation == 2
    # An agent of an older version counts nothing.
    assert ask(row, "old").generation == 3


def test_the_work_says_how_often_and_only_where_the_job_keeps_any(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    enrol(slots=2)
    submit(alice, name="plain"), submit(alice, name="kept", checkpoint_every_s=90)
    jobs_dispatch(now=NOON)
    works = {job.name: claim(job).work.get("checkpoint") for job in Job.objects.all()}
    assert works == {"plain": None, "kept": {"every_s": 90}}


def test_a_checkpoint_is_a_generation_of_the_job_by_its_attempt(
    alice: User, enrol: Callable[..., Worker], work: Path
) -> None:
    enrol()
    job = running(alice)
    row = attempt(job)
    first = ask(row)
    assert ask(row).pk == first.pk, "asked again, because the answer was lost"
    assert (first.workspace_ref, first.epoch, first.generation) == (job.pk, 1, 1)
    assert (first.worker_ref, first.worker_epoch) == (row.worker_id, row.worker.epoch)
    done = taken(first, work, identity(row.worker))
    assert (done.state, Chain.objects.get(state="active").subject_id) == ("committed", first.pk)
    check()
    second = ask(row, "r2")
    assert second.generation == 2
    assert second.parent == done, "the next one holds only what has changed"


def test_an_earlier_one_that_was_not_committed_gives_way_to_the_next(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    enrol()
    row = attempt(running(alice))
    first, second = ask(row), ask(row, "r2")
    first.refresh_from_db()
    assert (first.state, second.state) == ("failed", "taking")
    third = ask(row, "r2", error="the disk was full")
    assert (third.pk, third.state) == (second.pk, "failed")
    assert "the disk was full" in third.reason


def test_only_jobs_that_say_so_keep_any_and_only_their_present_attempt_is_asked(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    enrol(slots=2)
    plain = submit(alice)
    jobs_dispatch(now=NOON)
    claim(plain)
    with pytest.raises(Invalid, match="keeps no checkpoints"):
        ask(attempt(plain))
    row = attempt(running(alice))
    row.fence += 1
    with pytest.raises(StandDown):
        ask(row)
    assert not Snapshot.objects.exists()


@pytest.mark.parametrize("how", ["lost", "interrupted"])
def test_a_stale_attempt_commits_nothing_even_on_the_same_worker_in_the_same_epoch(
    alice: User, enrol: Callable[..., Worker], work: Path, how: str
) -> None:
    enrol(slots=2)
    job = running(alice)
    old = attempt(job)
    begun = ask(old)
    again(job, how=how)
    assert attempt(job).worker == old.worker
    with pytest.raises(StandDown):
        taken(begun, work, identity(old.worker))
    with pytest.raises(StandDown):
        ask(old, "r9")
    begun.refresh_from_db()
    assert (begun.state, "its attempt was over" in begun.reason) == ("failed", True)
    new = checkpoint(attempt(job), work)
    assert (new.generation, new.epoch) == (2, 2)


def test_the_next_attempt_goes_on_from_the_newest_and_waits_until_it_is_verified(
    alice: User, enrol: Callable[..., Worker], work: Path
) -> None:
    enrol("a"), enrol("b")
    job = running(alice)
    assert restore(job) == wire.RestoreAnswer()
    first = checkpoint(attempt(job), work)
    (work / "counter").write_text("2")
    second = commit(attempt(job), work, "r2")
    again(job)
    with pytest.raises(Busy, match=r"checkpoint 2 of .* is being checked"):
        restore(job)
    assert not RestoreGrant.objects.exists()
    check()
    answer = restore(job)
    second.refresh_from_db()
    assert answer == wire.RestoreAnswer(
        snapshot_id=second.pk, content_id=second.content_id, generation=second.generation
    )
    assert first.content_id != second.content_id
    row = attempt(job)
    assert row.ref == second.pk
    assert taking.snapshot_to_restore(second.pk, identity(row.worker)) == second
    finish(job)
    assert not RestoreGrant.objects.exists(), "an attempt that is over reads nothing"


def test_one_that_turns_out_not_to_be_whole_is_passed_over(
    alice: User, enrol: Callable[..., Worker], work: Path, store_folder: Path
) -> None:
    enrol()
    job = running(alice)
    first = checkpoint(attempt(job), work)
    (work / "counter").write_text("2")
    second = commit(attempt(job), work, "r2")
    (store_folder / second.root_key).unlink()
    check()
    again(job)
    second.refresh_from_db()
    assert (second.state, restore(job).snapshot_id) == ("failed", first.pk)


def test_one_that_cannot_be_restored_is_read_whole_before_anybody_tries_again(
    alice: User, enrol: Callable[..., Worker], work: Path, store_folder: Path
) -> None:
    enrol()
    job = running(alice)
    older = checkpoint(attempt(job), work)
    (work / "counter").write_text("2")
    newest = checkpoint(attempt(job), work, "r2")
    again(job)
    assert restore(job).snapshot_id == newest.pk
    (store_folder / newest.root_key).unlink()
    finish(job, "interrupted", None, reason="cannot restore", result={"restore_failed": newest.pk})
    jobs_dispatch(now=SOON)
    claim(job)
    with pytest.raises(Busy):
        restore(job)
    check()
    newest.refresh_from_db()
    assert (newest.state, restore(job).snapshot_id) == ("damaged", older.pk)


def test_a_job_whose_only_checkpoint_is_damaged_does_not_begin_anew_in_silence(
    alice: User, enrol: Callable[..., Worker], work: Path
) -> None:
    enrol()
    job = running(alice)
    only = checkpoint(attempt(job), work)
    Snapshot.objects.filter(pk=only.pk).update(state=SnapshotState.DAMAGED)
    again(job)
    with pytest.raises(CheckpointLost, match="checkpoint 1 is damaged in the store"):
        restore(job)


def test_attempts_that_get_on_do_not_use_the_job_up(
    alice: User, enrol: Callable[..., Worker], work: Path
) -> None:
    enrol()
    job = running(alice, max_attempts=2)
    for number in range(4):
        (work / "counter").write_text(str(number))
        checkpoint(attempt(job), work)
        again(job)
    again(job)
    finish(job, "interrupted", None, reason="the session ends")
    assert state(job)[0] == "failed"
    assert job.reason.startswith("all 2 attempts ended early")
    assert job.attempt == 6


# -- kept and let go --------------------------------------------------------------------------------


def generations(job: Job) -> list[tuple[int, str]]:
    rows = Snapshot.objects.filter(workspace_ref=job.pk).order_by("generation")
    return [(row.generation, row.state) for row in rows]


def test_two_are_kept_while_it_runs_one_when_it_has_ended_and_none_after_some_days(
    alice: User, enrol: Callable[..., Worker], work: Path, settings: Any
) -> None:
    settings.CHECKPOINT_KEEP_DAYS = 3
    enrol()
    job = running(alice)
    for number in range(1, 5):
        (work / "counter").write_text(str(number))
        checkpoint(attempt(job), work, f"r{number}")
    assert generations(job) == [(1, "deleted"), (2, "deleted"), (3, "verified"), (4, "verified")]
    assert checkpoints.checkpoints_tick(now=SOON) == 0
    finish(job)
    assert checkpoints.checkpoints_tick(now=SOON) == 1
    assert generations(job)[2:] == [(3, "deleted"), (4, "verified")]
    assert checkpoints.checkpoints_tick(now=SOON + timedelta(days=2)) == 0
    assert checkpoints.checkpoints_tick(now=SOON + timedelta(days=3)) == 1
    assert {found for _, found in generations(job)} == {"deleted"}
    assert checkpoints.checkpoints_tick(now=SOON + timedelta(days=3)) == 0


def test_its_owner_cannot_let_go_what_the_job_would_go_on_from(
    alice: User, enrol: Callable[..., Worker], work: Path
) -> None:
    enrol()
    job = running(alice)
    older = checkpoint(attempt(job), work)
    (work / "counter").write_text("2")
    newest = checkpoint(attempt(job), work, "r2")
    with pytest.raises(DomainError, match=f"job {job.pk} goes on from it"):
        snapshot_delete(newest, by="alice")
    snapshot_delete(older, by="alice")
    finish(job)
    snapshot_delete(newest, by="alice")


def test_one_that_is_pinned_stays(alice: User, enrol: Callable[..., Worker], work: Path) -> None:
    enrol()
    job = running(alice)
    first = checkpoint(attempt(job), work)
    Snapshot.objects.filter(pk=first.pk).update(pinned=True)
    for number in (2, 3, 4):
        (work / "counter").write_text(str(number))
        checkpoint(attempt(job), work, f"r{number}")
    assert generations(job) == [(1, "verified"), (2, "deleted"), (3, "verified"), (4, "verified")]


def test_a_cancelled_job_takes_no_more(alice: User, enrol: Callable[..., Worker]) -> None:
    enrol()
    job = running(alice)
    begun = ask(attempt(job))
    job_cancel(job, by="alice", now=SOON)
    finish(job, "cancelled", None)
    begun.refresh_from_db()
    assert (state(job)[0], begun.state) == ("cancelled", "failed")


@pytest.mark.parametrize("every_s", [0, 1, -600, 1e9, float("nan")])
def test_an_interval_that_makes_no_sense_is_refused(alice: User, every_s: float) -> None:
    with pytest.raises(Invalid):
        submit(alice, checkpoint_every_s=every_s)


def test_what_too_late_an_attempt_reports_is_kept_once_and_moves_nothing(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    from pool.services.reports import dispatch_finish

    enrol("a"), enrol("b")
    job = submit(alice)
    jobs_dispatch(now=NOON)
    claim(job)
    old = attempt(job)
    again(job, how="lost")
    before = state(job)
    for code in (0, 7):
        post = wire.FinishPost(
            fence=old.fence, outcome="succeeded", exit_code=code, output_tail="done\x00", output_bytes=5
        )
        with pytest.raises(StandDown):
            dispatch_finish(identity=identity(old.worker), dispatch_id=old.pk, post=post, now=SOON)
    with pytest.raises(StandDown):
        post = wire.FinishPost(fence=old.fence + 1, outcome="failed")
        dispatch_finish(identity=identity(old.worker), dispatch_id=old.pk, post=post, now=SOON)
    old.refresh_from_db()
    assert (old.late["outcome"], old.late["exit_code"], old.late["output_tail"]) == ("succeeded", 0, "done")
    assert (old.state, old.exit_code, old.finished_at) == ("withdrawn", None, SOON)
    assert state(job) == before
