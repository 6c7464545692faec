"""What is wrong in the pool at this moment: quotas nearly used up, workers that are lost, a queue that does not move."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Count, Exists, F, OuterRef, Q, Window
from django.db.models.functions import RowNumber

from core.alerts.causes import Finding, Severity, register_source
from core.models import Alert
from core.reasons import because, words
from core.ticks import resumed_at
from pool.models import Account, EnrollmentUse, Job, Session, Worker
from pool.quota import MONEY, SESSION, WEEK, Reading, reading
from pool.services.bell import DISPATCH_TICK
from pool.sessions import limit_s
from pool.spend import Spend, spend_of
from pool.states import LISTENING, JobState, WorkerState
from pool.terms import TERMS
from pool.usage import limits_of, week_used_h

LEVELS = ((70.0, "quota_70"), (90.0, "quota_90"))

LOST_SHOWN = timedelta(days=7)
"""A worker that is lost for longer is no news: no provider's session lasts that long."""

IN_VAIN = (
    "job_submitted",
    "no_workers",
    "no_worker_of_provider",
    "no_worker_with_memory",
    "no_worker_with_labels",
    "none_online",
    "all_switched_off",
    "all_near_limit",
    "none_long_enough",
    "instance_unknown",
    "account_disabled",
)
"""What a job waits for that does not come by waiting its turn. job_submitted: nobody has even looked at it."""


def workers_lost(now: datetime) -> Iterator[Finding]:
    """Workers that have gone silent and that nobody has heard, enrolled anew or revoked since.

    A notebook without a name that has joined since the last word of another one of its account has taken its place.
    """
    joined = EnrollmentUse.objects.filter(
        worker__account=OuterRef("account"), used_at__gt=OuterRef("last_seen_at")
    )
    replaced = Q(Exists(joined), named=False, account__kind__in=list(TERMS))
    rows = Worker.objects.filter(state=WorkerState.LOST, state_since__gt=now - LOST_SHOWN).exclude(replaced)
    lost = rows.values_list(
        "pk", "name", "owner_id", "account__owner_id", "account__kind", "account__label", "reason_code", "reason_params"
    )  # fmt: skip
    for pk, name, owner_id, account_owner_id, kind, label, code, params in lost:
        reason = because("worker_is_lost", worker=name, account=f"{kind} {label}", why=words(code, params))
        yield Finding(reason, Worker.SUBJECT, pk, owner_id or account_owner_id)


def quotas_near(now: datetime) -> Iterator[Finding]:
    """Accounts and sessions at each level of LEVELS, and accounts that are used up."""
    accounts = list(Account.objects.filter(enabled=True))
    for account, one in _account_readings(accounts, now=now):
        yield from _levels(one, str(account), "account", account.pk, account.owner_id)
        if one.percent >= 100:
            reason = because("account_exhausted", who=str(account), figures=one.figures())
            yield Finding(reason, "account", account.pk, account.owner_id)
    for session in _sessions_near(now):
        worker = session.worker
        one = reading(limits_of(worker.account), session_runtime_h=session.runtime_s / 3600)
        if one.model == SESSION:
            yield from _levels(
                one, f"worker {worker.name}", Worker.SUBJECT, worker.pk, worker.event_owner_id()
            )


def _sessions_near(now: datetime) -> Iterator[Session]:
    """Sessions at the lowest level or beyond, of thousands: a handful. One of a worker that is lost may still run, and
    what was said of it would be said again when it comes back; after its limit it is over."""
    near_s = F("worker__account__session_shutdown_h") * 3600.0 * LEVELS[0][0] / 100
    running = Session.objects.filter(
        worker__state__in=(*LISTENING, WorkerState.LOST),
        worker__account__enabled=True,
        epoch=F("worker__epoch"),
        ended_at__isnull=True,
        runtime_s__gte=near_s,
    )
    for session in running.select_related("worker__account"):
        longest_s = limit_s(session.worker.account)
        is_over = longest_s is not None and now - session.started_at >= timedelta(seconds=longest_s)
        if session.worker.state != WorkerState.LOST or not is_over:
            yield session


def queue_stuck(now: datetime) -> Iterator[Finding]:
    """Owners whose jobs have waited for too long for something that does not come by itself. One statement over the jobs.

    While the dispatcher has hardly run since it was away nothing new is found: the jobs have hardly been looked at. What
    stands goes on to stand then, until its jobs wait no more.
    """
    limit = timedelta(minutes=settings.ALERT_QUEUE_MINUTES)
    # Its line says why it waits; where there is none, nobody has judged it since it was queued.
    judged = Q(waiting__reason_code__in=IN_VAIN)
    unjudged = Q(waiting__judged_at__isnull=True, reason_code__in=IN_VAIN)
    waiting = Job.objects.filter(judged | unjudged, state=JobState.QUEUED, state_since__lt=now - limit)
    running_since = resumed_at(DISPATCH_TICK)
    if running_since is None or now - running_since < limit:
        told = Alert.objects.filter(cause="queue_stuck", resolved_at__isnull=True)
        waiting = waiting.filter(owner__in=[int(pk) for pk in told.values_list("subject_id", flat=True)])
    owners = {"partition_by": F("owner_id")}
    longest = waiting.annotate(
        jobs=Window(Count("pk"), **owners),
        place=Window(RowNumber(), order_by=("state_since", "pk"), **owners),
    ).filter(place=1)
    rows = longest.values_list(
        "owner_id", "owner__username", "jobs", "state_since", "waiting__reason_code", "waiting__reason_params",
        "reason_code", "reason_params",
    )  # fmt: skip
    for owner_id, username, jobs, since, line_code, line_params, code, params in rows:
        why = words(line_code, line_params) if line_code else words(code, params)
        minutes = (now - since).total_seconds() / 60
        reason = because("queue_stuck", jobs=jobs, owner=username, minutes=minutes, why=why)
        yield Finding(reason, "queue", str(owner_id), owner_id)


def _account_readings(accounts: list[Account], *, now: datetime) -> Iterator[tuple[Account, Reading]]:
    """The accounts whose quota is the account's and not a session's, each with how much of it is used."""
    limits = {account.pk: limits_of(account) for account in accounts}
    weekly = week_used_h([account for account in accounts if account.weekly_limit_h is not None], now=now)
    budgets = [
        account.pk
        for account in accounts
        if account.budget_usd_per_day is not None or account.budget_usd_per_month is not None
    ]
    money = spend_of(budgets, now=now) if budgets else {}
    for account in accounts:
        spent = money.get(account.pk, Spend())
        one = reading(
            limits[account.pk],
            week_used_h=weekly.get(account.pk, 0.0),
            spent_usd_day=spent.usd_day,
            spent_usd_month=spent.usd_month,
        )
        if one.model in (WEEK, MONEY):
            yield account, one


def _levels(
    one: Reading, who: str, subject_type: str, subject_id: str, owner_id: int | None
) -> Iterator[Finding]:
    for level, cause in LEVELS:
        if one.percent >= level:
            reason = because(cause, who=who, percent=one.percent, figures=one.figures())
            yield Finding(reason, subject_type, subject_id, owner_id)


def register() -> None:
    """Make the alerts tick ask these. Called once, by the app's ready()."""
    register_source("pool.workers", causes={"worker_is_lost": Severity.WARNING}, look=workers_lost)
    register_source(
        "pool.quota",
        causes={
            "quota_70": Severity.INFO,
            "quota_90": Severity.WARNING,
            "account_exhausted": Severity.WARNING,
        },
        look=quotas_near,
    )
    register_source("pool.queue", causes={"queue_stuck": Severity.WARNING}, look=queue_stuck)
