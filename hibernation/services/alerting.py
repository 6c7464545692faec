"""What is wrong with rented instances at this moment: boxes that cost money for nothing, wakes that failed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.db.models import OuterRef, Subquery

from core.alerts.causes import Finding, Severity, register_source
from core.chain_states import ChainState
from core.models import Chain, Event
from core.reasons import because, words
from hibernation.models import Box, Instance
from hibernation.services import reconcile
from hibernation.states import INSTANCE, BoxState, InstanceState

STILL_THERE = timedelta(minutes=10)
"""A box that was asked to go is usually gone within a minute."""

TOLD_AGAIN = reconcile.TELL_AGAIN + timedelta(minutes=15)
"""An unknown box is told of once an hour as long as it is listed; after this it is listed no more."""

FAILED_SHOWN = timedelta(days=7)
"""A wake or a first start that failed is shown for this long, if nobody tries again."""

STARTS = {"wake": "wake_failed", "provision": "start_failed"}


def boxes_that_cost(now: datetime) -> Iterator[Finding]:
    """Boxes that should be gone and are billed: asked to go long ago, stranded, or unknown to every row."""
    rows = Box.objects.filter(state__in=(BoxState.DESTROYING, BoxState.STRANDED)).select_related("instance")
    for box in rows:
        facts = {
            "box": box.provider_ref or box.label,
            "instance": box.instance.name,
            "price": float(box.price_usd_per_h),
        }
        if box.state == BoxState.STRANDED:
            reason = because("box_is_stranded", why=words(box.reason_code, box.reason_params), **facts)
        elif box.state_since > now - STILL_THERE:
            continue
        else:
            since = (box.destroy_asked_at or box.state_since).isoformat(timespec="seconds")
            reason = because("box_will_not_go", since=since, **facts)
        yield Finding(reason, Box.SUBJECT, box.pk, box.instance.owner_id)
    told = Event.objects.filter(
        at__gt=now - TOLD_AGAIN, subject_type="account", code__in=(reconcile.UNKNOWN, reconcile.LISTED_TWICE)
    )
    for event in told.order_by("-id"):
        why = words(event.reason_code, event.reason_params)
        ref = str(event.data.get("ref", ""))
        yield Finding(
            because("box_is_unknown", why=why), "box", f"{event.subject_id}:{ref}"[:80], event.owner_id
        )


def instances_in_trouble(now: datetime) -> Iterator[Finding]:
    """Instances that nobody here put to sleep, that are in between for too long, or that could not be woken."""
    for row in Instance.objects.filter(state=InstanceState.LOST):
        reason = because("instance_is_lost", instance=row.name, why=words(row.reason_code, row.reason_params))
        yield Finding(reason, Instance.SUBJECT, row.pk, row.owner_id)
    for state, limit in INSTANCE.limits.items():
        if limit.then is not None:
            continue
        overdue = Instance.objects.filter(state=state, state_since__lt=now - timedelta(minutes=limit.minutes))
        for row in overdue:
            reason = because("instance_overdue", instance=row.name, state=state, minutes=limit.minutes)
            yield Finding(reason, Instance.SUBJECT, row.pk, row.owner_id)
    yield from _not_woken(now)


def _not_woken(now: datetime) -> Iterator[Finding]:
    """Sleeping instances whose latest wake, or first start, was given up."""
    latest = Chain.objects.filter(
        subject_type=Instance.SUBJECT, subject_id=OuterRef("pk"), kind__in=list(STARTS)
    ).order_by("-created_at")
    asleep = Instance.objects.filter(state__in=(InstanceState.HIBERNATED, InstanceState.DELETED))
    failed = Chain.objects.filter(
        kind__in=list(STARTS), state=ChainState.FAILED, ended_at__gt=now - FAILED_SHOWN
    )
    rows = (
        asleep.filter(pk__in=failed.values("subject_id"))
        .annotate(chain=Subquery(latest.values("pk")[:1]))
        .values_list("pk", "name", "owner_id", "chain")
    )
    chains = failed.in_bulk([chain for *_, chain in rows])
    for pk, name, owner_id, chain_id in rows:
        chain = chains.get(chain_id)
        if chain is not None:
            reason = because(
                STARTS[chain.kind], instance=name, why=words(chain.reason_code, chain.reason_params)
            )
            yield Finding(reason, Instance.SUBJECT, pk, owner_id)


def register() -> None:
    """Make the alerts tick ask these. Called once, by the app's ready()."""
    register_source(
        "hibernation.boxes",
        causes={
            "box_will_not_go": Severity.CRITICAL,
            "box_is_stranded": Severity.CRITICAL,
            "box_is_unknown": Severity.CRITICAL,
        },
        look=boxes_that_cost,
    )
    register_source(
        "hibernation.instances",
        causes={
            "instance_is_lost": Severity.CRITICAL,
            "instance_overdue": Severity.WARNING,
            "wake_failed": Severity.WARNING,
            "start_failed": Severity.WARNING,
        },
        look=instances_in_trouble,
    )
