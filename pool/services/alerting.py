"""What is wrong in the pool at this moment: quotas nearly used up, workers that are lost, a queue that does not move."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Count, F, Min, Q, QuerySet

from core.alerts.causes import Finding, Severity, register_source
from core.reasons import because, words
from core.ticks import resumed_at
from pool.models import Account, Job, Session, Worker
from pool.quota import MONEY, SESSION, WEEK, Reading, reading
from pool.services.bell import DISPATCH_TICK
from pool.spend import Spend, spend_of
from pool.states import LISTENING, JobState, WorkerState
from pool.usage import limits_of, readings, week_used_h, workers_lean

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
    """Workers that have gone silent and that nobody has heard, enrolled anew or revoked since."""
    lost = Worker.objects.filter(state=WorkerState.LOST, state_since__gt=now - LOST_SHOWN).values_list(
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
    workers = workers_lean(Worker.objects.filter(pk__in=_sessions_near()))
    read = readings(workers, now=now)
    for worker in workers:
        if read[worker.pk].model == SESSION:
            who = f"worker {worker.name}"
            yield from _levels(read[worker.pk], who, Worker.SUBJECT, worker.pk, worker.event_owner_id())


def _sessions_near() -> QuerySet[Session]:
    """Ids of the workers whose present session is at the lowest level or beyond: a handful of thousands."""
    near_s = F("worker__account__session_shutdown_h") * 3600.0 * LEVELS[0][0] / 100
    running = Session.objects.filter(worker__state__in=LISTENING, epoch=F("worker__epoch"))
    return running.filter(worker__account__enabled=True, runtime_s__gte=near_s).values("worker_id")


def queue_stuck(now: datetime) -> Iterator[Finding]:
    """Owners whose jobs have waited for too long for something that does not come by itself. One statement."""
    limit = timedelta(minutes=settings.ALERT_QUEUE_MINUTES)
    running_since = resumed_at(DISPATCH_TICK)
    if running_since is None or now - running_since < limit:
        return  # we were away ourselves: the jobs have hardly been looked at
    # Its line says why it waits; where there is none, nobody has judged it since it was queued.
    judged = Q(waiting__reason_code__in=IN_VAIN)
    unjudged = Q(waiting__judged_at__isnull=True, reason_code__in=IN_VAIN)
    waiting = Job.objects.filter(judged | unjudged, state=JobState.QUEUED, state_since__lt=now - limit)
    groups = (
        waiting.order_by()
        .values("owner_id", "owner__username")
        .annotate(jobs=Count("pk"), since=Min("state_since"))
    )
    for group in groups:
        first = waiting.filter(owner=group["owner_id"], state_since=group["since"]).first()
        if first is None:
            continue  # it was started between the two looks
        reason = because(
            "queue_stuck",
            jobs=group["jobs"],
            owner=group["owner__username"],
            minutes=(now - group["since"]).total_seconds() / 60,
            why=first.reason,
        )
        yield Finding(reason, "queue", str(group["owner_id"]), group["owner_id"])


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
