"""Celery tasks of the pool: each one service call, a count out."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from core.ticks import step_each, tick
from pool.services import (
    bell,
    checkpoints,
    forgetting,
    history,
    intake,
    interrogation,
    jobs,
    kaggle_accounts,
    kaggle_starts,
    kaggle_steps,
    liveness,
    log_store,
    retention,
)


@shared_task(name="pool.intake_tick")
def intake_tick() -> int:
    """Every second: stores what agents posted. Two at once are safe: the stream's cursor is won by one guarded UPDATE."""
    with tick("pool.intake_tick"):
        return intake.intake_drain()


@shared_task(name="pool.dispatch_tick")
def dispatch_tick() -> int:
    """Every 2 s, and rung by whatever makes a job or a worker ready. Two at once are safe: slots are taken under lock."""
    with tick("pool.dispatch_tick"):
        bell.dispatcher_begins()
        return jobs.jobs_dispatch()


@shared_task(name="pool.workers_tick")
def workers_tick() -> int:
    """Every 5 s: silence, leases, unanswered bells. Two at once are safe: every move is one guarded UPDATE."""
    return liveness.workers_check()


@shared_task(name="pool.interrogation.tick")
def interrogation_tick() -> int:
    """Every 10 s: asks who is late. Two at once are safe: whoever was just asked is not asked again."""
    with tick("pool.interrogation.tick"):
        return interrogation.interrogations_tick(now=timezone.now())


@shared_task(name=interrogation.TASK)
def interrogation_ask() -> int:
    """Rung with each question by URL. Two at once are safe: each question is taken by one of them."""
    return interrogation.urls_ask(now=timezone.now())


@shared_task(name="pool.history.tick")
def history_tick() -> int:
    """Every 30 s. Two at once are safe: new readings are added by whoever moves the cursor, and gone is gone."""
    with tick("pool.history.tick"):
        now = timezone.now()
        return history.history_keep(now=now) + forgetting.rows_forget(now=now)


@shared_task(name="pool.job_logs_tick")
def job_logs_tick() -> int:
    """Every 10 s: jobs' output goes from the database to the store. Two at once are safe: a piece's row is unique, and
    an object is written once."""
    with tick("pool.job_logs_tick"):
        now = timezone.now()
        return log_store.logs_store(now=now) + log_store.chunks_remove(now=now)


@shared_task(name="pool.job_files_tick")
def job_files_tick() -> int:
    """Every 60 s: what jobs have left is let go when it is due. Two at once are safe: gone is gone."""
    with tick("pool.job_files_tick"):
        return retention.files_let_go(now=timezone.now())


@shared_task(name="pool.checkpoints_tick")
def checkpoints_tick() -> int:
    """Every 60 s: lets go what ended jobs no longer need. Two at once are safe: each generation goes by one guarded UPDATE."""
    with tick("pool.checkpoints_tick"):
        return checkpoints.checkpoints_tick(now=timezone.now())


@shared_task(name="pool.kaggle_tick")
def kaggle_tick() -> int:
    """Every 15 s, and rung by a new start: asks Kaggle about sessions and quotas that are due. Two at once are safe: a
    start is won by one guarded UPDATE, and a quota that is read twice is the same figure."""
    done = step_each(kaggle_steps.start_step, kaggle_starts.starts_due(now=timezone.now()))
    return done + kaggle_accounts.quotas_read(now=timezone.now())
