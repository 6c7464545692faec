"""The provider's truth against ours: boxes that must go, boxes that went, boxes that nobody here knows."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from core import chains
from core.chain_states import ChainState
from core.models import Chain
from core.reasons import because
from core.transitions import advance, event_add
from hibernation.models import Box, Instance
from hibernation.providers.base import BoxFacts, Provider
from hibernation.providers.registry import provider_kinds
from hibernation.services import boxes
from hibernation.states import BoxState, InstanceState
from pool.models import Account
from snapshots.services.taking import verified_latest

log = logging.getLogger(__name__)

SETTLED = timedelta(seconds=30)
"""A box this young may be missing from a listing without anything being wrong."""


def accounts_to_reconcile() -> list[Account]:
    """Accounts from which boxes can be rented."""
    return list(Account.objects.filter(kind__in=provider_kinds()).order_by("pk"))


def account_reconcile(account: Account, *, now: datetime) -> int:
    """One account: pursue what must go, notice what went, deal with what is unknown. Returns how many were touched.

    An incomplete listing raises (ListingIncomplete is a Busy): nothing follows from it, and the next tick asks again.
    """
    provider = boxes.provider_of(account)
    touched = 0
    for box in Box.objects.filter(account=account, state=BoxState.DESTROYING).select_related("instance"):
        if not _has_chain(box) and boxes.box_pursue(box, provider, now=now) is None:
            touched += 1
    listed = provider.listing()
    labels = {facts.label for facts in listed} | {facts.ref for facts in listed}
    for box in Box.objects.filter(account=account, state=BoxState.RUNNING).select_related("instance__worker"):
        missing = box.label not in labels and box.provider_ref not in labels
        if missing and now - (box.rented_at or box.created_at) > SETTLED:
            touched += box_vanished(box, provider, now=now)
        elif not missing and box.absent_since is not None:
            Box.objects.filter(pk=box.pk).update(absent_since=None)
    for facts in listed:
        if facts.label.startswith(boxes.LABEL_PREFIX):
            touched += stray_handle(facts, provider, account=account, now=now)
    return touched


def box_vanished(box: Box, provider: Provider, *, now: datetime) -> int:
    """A box that nobody here destroyed is not listed: once it is seen to be gone its instance is lost, or mid-chain."""
    if not boxes.box_absent(box, provider, now=now):
        return 0
    instance = box.instance
    generation = verified_latest(instance.pk)
    reason = because(
        "box_vanished", box=box.provider_ref, generation=generation.generation if generation else "none"
    )
    chain = chains.chain_active(subject_type=Instance.SUBJECT, subject_id=instance.pk)
    if chain is not None and chain.kind in ("wake", "provision"):
        return 0  # its own step notices, and takes the next offer
    boxes.box_gone(box, reason=reason, now=now)
    if chain is not None:
        _stop_and_lose(chain.pk, instance, reason_box=box, now=now)
    instance.refresh_from_db()
    if instance.state in (InstanceState.RUNNING, InstanceState.IDLE, InstanceState.HIBERNATING):
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
    boxes.worker_stands_down(instance, reason=reason, now=now)
    return 1


def _stop_and_lose(chain_id: str, instance: Instance, *, reason_box: Box, now: datetime) -> None:
    chain = Chain.objects.get(pk=chain_id)
    why = because("box_vanished", box=reason_box.provider_ref, generation="none of this hibernation")
    chains.chain_stop(chain, ChainState.FAILED, reason=why, now=now)


def stray_handle(facts: BoxFacts, provider: Provider, *, account: Account, now: datetime) -> int:
    """A listed box with a label of ours. Its row says that it should not be there: destroyed. No row: reported."""
    box = Box.objects.filter(label=facts.label).select_related("instance").first()
    price = float(facts.price_usd_per_h or 0)
    if box is None:
        log.warning("account=%s unknown box %s label=%s $%.4f/h", account.pk, facts.ref, facts.label, price)
        return 0
    if box.state not in (BoxState.REFUSED, BoxState.GONE):
        return 0
    if box.state == BoxState.GONE and box.provider_ref == facts.ref and now - (box.gone_at or now) < SETTLED:
        return 0  # a listing that lags behind the read that saw it gone
    event_add(
        box,
        "stray_box_destroyed",
        reason=because("stray_box", ref=facts.ref, label=facts.label, state=box.state),
        now=now,
        data={"price_usd_per_h": price},
    )
    provider.destroy(facts.ref)
    return 1


def _has_chain(box: Box) -> bool:
    chain = chains.chain_active(subject_type=Instance.SUBJECT, subject_id=box.instance_id)
    return chain is not None and chain.data.get("box") == box.pk and chain.step in ("destroy", "confirm")
