"""The provider's truth against ours: boxes that must go, boxes that went, boxes that came back, boxes that nobody knows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from zlib import crc32

from django.db import transaction
from django.db.models import QuerySet

from core import chains
from core.chain_states import ChainState
from core.errors import Busy
from core.models import Event, Lease
from core.reasons import Reason, because
from core.ticks import step_each
from core.transitions import advance, event_add
from hibernation.models import Box, Instance
from hibernation.providers.base import BoxFacts, Provider
from hibernation.providers.registry import provider_kinds
from hibernation.services import boxes, pursuit, saved
from hibernation.states import AWAKE, BILLED, BoxState, InstanceState
from pool.models import Account
from snapshots.services.taking import verified_latest

log = logging.getLogger(__name__)

TICK_S = 15
QUIET_TICKS = 20
"""An account without a billed box is looked at every so many ticks: only a box that nobody knows can be there."""

TURN_S = 120.0
"""How long one worker has an account to itself. Should it die, the account is looked at again after that."""

TELL_AGAIN = timedelta(hours=1)
LISTED_TWICE = "doubled_box"
UNKNOWN = "unknown_box"
FAILING = "failing_box"


def accounts_to_reconcile(*, now: datetime) -> list[str]:
    """Ids of the accounts to look at now: those with a box that may be billed, and in their turn all others that rent."""
    billed = set(Box.objects.filter(state__in=BILLED).values_list("account_id", flat=True))
    turn = int(now.timestamp() // TICK_S) % QUIET_TICKS
    renting = Account.objects.filter(kind__in=provider_kinds()).order_by("pk").values_list("pk", flat=True)
    return [pk for pk in renting if pk in billed or crc32(pk.encode()) % QUIET_TICKS == turn]


def account_reconcile(account: Account, *, now: datetime) -> int:
    """One account: pursue what must go, notice what went or came back, report what is unknown. Returns how many rows
    were looked at; 0 where another worker is at it.

    An incomplete listing raises (ListingIncomplete is a Busy): nothing follows from it, and the next tick asks again.
    A box that raises is put off; the others go on.
    """
    if not _turn_taken(account, now=now):
        return 0
    try:
        provider = boxes.provider_of(account)
        listed = provider.listing()
        looked_at = step_each(partial(_pursue, provider=provider, listed=listed, now=now), _to_go(account))
        looked_at += step_each(
            partial(_look, account=account, provider=provider, listed=listed, now=now), _to_stay(account)
        )
        saved.saved_take_back(account)
        ours = [facts for facts in listed if facts.label.startswith(boxes.LABEL_PREFIX)]
        known = {box.label: box for box in _labelled(account, ours)}
        return looked_at + step_each(
            partial(_listed, known=known, provider=provider, account=account, now=now), ours
        )
    finally:
        Lease.objects.filter(name=_lease(account)).update(until=now)


# -- boxes that must go ---------------------------------------------------------------------------------------------


def _to_go(account: Account) -> QuerySet[Box]:
    return (
        Box.objects.filter(account=account, state=BoxState.DESTROYING)
        .select_related("instance", "account")
        .order_by("?")  # a provider that counts calls must not serve the same box each time
    )


def _pursue(box: Box, *, provider: Provider, listed: Sequence[BoxFacts], now: datetime) -> None:
    """A box that is let go is its chain's business as long as it has one."""
    chain = chains.chain_active(subject_type=Instance.SUBJECT, subject_id=box.instance_id)
    if chain is None or chain.data.get("box") != box.pk or chain.step not in ("destroy", "confirm"):
        _busy_is_no_news(lambda: pursuit.box_pursue(box, provider, now=now, listed=listed))


# -- boxes that should be there --------------------------------------------------------------------------------------


def _to_stay(account: Account) -> QuerySet[Box]:
    return Box.objects.filter(
        account=account, state__in=(BoxState.RUNNING, BoxState.STRANDED)
    ).select_related("instance", "account")


def _look(
    box: Box, *, account: Account, provider: Provider, listed: Sequence[BoxFacts], now: datetime
) -> None:
    seen = next((row for row in listed if row.label == box.label or row.ref == box.provider_ref), None)
    if seen is not None:
        if box.absent_since is not None:
            Box.objects.filter(pk=box.pk).update(absent_since=None)
        if seen.failed:  # it may hold work: a person decides
            _tell(account, box, FAILING, seen, now=now)
        return
    _busy_is_no_news(lambda: _vanished(box, provider, listed, now))


def _vanished(box: Box, provider: Provider, listed: Sequence[BoxFacts], now: datetime) -> None:
    if pursuit.box_missing(box, provider, now=now, listed=listed):
        box_vanished(box, now=now)


def box_vanished(box: Box, *, now: datetime) -> bool:
    """A box that nobody here destroyed is seen to be gone: its instance is lost, unless a wake is under way, whose own
    step takes the next offer. Nothing is said to its agent: should the box come back, so may its work."""
    generation = verified_latest(box.instance_id)
    known = str(generation.generation) if generation else "none"
    reason = because("box_vanished", box=box.provider_ref, generation=known)
    with transaction.atomic():
        chain = chains.chain_active(subject_type=Instance.SUBJECT, subject_id=box.instance_id)
        if chain is not None and chain.kind in ("wake", "provision") and box.state == BoxState.RUNNING:
            return False
        if chain is not None and chain.kind == "hibernate" and box.state == BoxState.RUNNING:
            chains.chain_stop(chain, ChainState.FAILED, reason=reason, now=now)
        instance = Instance.objects.select_for_update().get(pk=box.instance_id)
        was_live = box.state == BoxState.RUNNING
        boxes.box_gone(box, reason=reason, now=now)
        if was_live and instance.state in AWAKE:
            advance(
                instance,
                InstanceState.LOST,
                reason=reason,
                now=now,
                snapshot_id=generation.pk if generation else None,
                idle_since=None,
                idle_due_at=None,
                gpu_util=None,
            )
    if chain is not None:
        chains.chain_nudge(chain.pk, now=now)  # a discard has only to look
    return True


# -- boxes that should not be there -----------------------------------------------------------------------------------


def _labelled(account: Account, ours: Sequence[BoxFacts]) -> QuerySet[Box]:
    return Box.objects.filter(label__in=[facts.label for facts in ours]).select_related("instance", "account")


def _listed(
    facts: BoxFacts, *, known: dict[str, Box], provider: Provider, account: Account, now: datetime
) -> None:
    box = known.get(facts.label)
    if box is None:
        _tell(account, None, UNKNOWN, facts, now=now)
    elif box.state in (BoxState.REFUSED, BoxState.GONE):
        _busy_is_no_news(lambda: box_listed_again(box, facts, provider, now=now))
    elif box.state in (BoxState.BOOTING, BoxState.RUNNING) and facts.ref != box.provider_ref:
        _tell(account, box, LISTED_TWICE, facts, now=now)


def box_listed_again(box: Box, facts: BoxFacts, provider: Provider, *, now: datetime) -> BoxState | None:
    """The provider lists a box whose row says that it is gone, or never was. Returns what its row says now.

    Where nothing is lost with it, it must go. Where it holds work that no generation holds it is never destroyed: its
    instance, if that is lost and waits, has it back; otherwise it is stranded until a person decides.
    """
    lags = box.gone_at is not None and box.provider_ref == facts.ref and now - box.gone_at < pursuit.SETTLED
    if lags:
        return None  # a listing that is older than the look that saw it gone
    if boxes.may_go(box):
        boxes.box_turned_up(box, facts, now=now)
        pursuit.box_pursue(box, provider, now=now, listed=[facts])
        return BoxState.DESTROYING
    with transaction.atomic():
        instance = Instance.objects.select_for_update().get(pk=box.instance_id)
        if instance.state == InstanceState.LOST and instance.epoch == box.epoch:
            reason = because("box_found_again", box=facts.ref)
            boxes.box_back(box, BoxState.RUNNING, reason=reason, now=now)
            nothing = {"idle_since": None, "idle_due_at": None, "gpu_util": None}
            advance(instance, InstanceState.RUNNING, reason=reason, now=now, last_active_at=now, **nothing)
            return BoxState.RUNNING
        reason = _stranded(box, facts)
        boxes.box_back(box, BoxState.STRANDED, reason=reason, now=now)
        event_add(instance, "box_stranded", reason=reason, now=now, data={"box": box.pk})
        return BoxState.STRANDED


def _stranded(box: Box, facts: BoxFacts) -> Reason:
    generation = verified_latest(box.instance_id)
    return because(
        "box_stranded",
        ref=facts.ref,
        price=float(facts.price_usd_per_h or box.price_usd_per_h),
        generation=str(generation.generation) if generation else "none",
    )


def _tell(account: Account, box: Box | None, code: str, facts: BoxFacts, *, now: datetime) -> None:
    """An event for a person, once an hour: it may be another installation's, so that nobody here may destroy it."""
    told = Event.objects.filter(
        subject_type="account", subject_id=account.pk, code=code, at__gt=now - TELL_AGAIN, data__ref=facts.ref
    )
    if told.exists():
        return
    figures = {"ref": facts.ref, "label": facts.label, "price": float(facts.price_usd_per_h or 0)}
    figures["message"] = facts.message[:200]
    reason = because(code, **figures) if box is None else because(code, box=box.pk, **figures)
    log.error("account=%s %s", account.pk, reason)
    Event.objects.create(
        at=now,
        subject_type="account",
        subject_id=account.pk,
        code=code,
        owner_id=account.owner_id,
        data={"ref": facts.ref, "label": facts.label, "box": box.pk if box else None},
        **Instance.reason_columns(reason),
    )


# -- taking turns ------------------------------------------------------------------------------------------------------


def _turn_taken(account: Account, *, now: datetime) -> bool:
    """Whether this worker has the account to itself: a provider that is slow to answer must not hold up several."""
    name = _lease(account)
    Lease.objects.get_or_create(name=name, defaults={"holder": "", "until": now})
    free = Lease.objects.filter(name=name, until__lte=now)
    return free.update(until=now + timedelta(seconds=TURN_S)) == 1


def _lease(account: Account) -> str:
    return f"reconcile {account.pk}"


def _busy_is_no_news(look: Callable[[], object]) -> None:
    """A provider that asks us to come back later is asked again by the next tick."""
    try:
        look()
    except Busy as busy:
        log.info("put off: %s", busy.message)
