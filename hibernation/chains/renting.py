"""The step `rent`: one box under a label that is in our row before the provider hears of it."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from core.chain_states import ChainState
from core.chains import Again, Goto, Next, Outcome, Run, Stop
from core.errors import Invalid
from core.reasons import Reason, because
from hibernation.chains.subject import subject
from hibernation.chains.work import agent_silent
from hibernation.models import Box, Instance
from hibernation.providers.base import (
    CreateUnknown,
    Offer,
    OfferGone,
    Provider,
    ProviderBusy,
    ProviderRefused,
    with_label,
)
from hibernation.services import boxes, offers
from hibernation.states import BoxState

OFFER_PATIENCE = timedelta(minutes=20)
"""How long a wake waits for an offer that fits before it gives up."""

LOOK_AGAIN_S = 15.0
BOXES_AT_MOST = 6
OFFERS_AT_MOST = 30
"""Offers are taken by others all the time; boxes that were rented and did not come up are rare, and cost money."""


def rent(run: Run) -> Outcome:
    """The instance has a box that the provider has created, or is about to: never two."""
    instance = subject(run)
    box = boxes.box_live(instance)
    if box is not None and box.state != BoxState.RENTING:
        return Next()
    try:
        if box is None:
            return _plan(run, instance)
        provider = boxes.provider_of(box.account)
        if box.create_asked_at is not None:
            return _look_for(run, box, provider)
        return _create(run, box, provider)
    except (ProviderRefused, Invalid) as error:
        return Stop(ChainState.FAILED, because("provider_refused", error=error.message[:300]))


def next_offer(run: Run, box: Box, reason: Reason, *, ban: bool = False, step: str = "rent") -> Outcome:
    """Give this box up and rent another, on another machine. step: where to go on."""
    with run.holding():
        boxes.box_abandon(box, reason=reason, now=run.now, ban=ban)
        _count(run, box, reason, rented=1)
    return Goto(step, reason)


def _plan(run: Run, instance: Instance) -> Outcome:
    rented, planned = int(run.data.get("rented", 0)), int(run.data.get("planned", 0))
    if rented >= BOXES_AT_MOST or planned >= OFFERS_AT_MOST:
        why = str(run.data.get("why", ""))[:200]
        return Stop(ChainState.FAILED, because("wake_gave_up", tried=planned, why=why))
    tried = list(run.data.get("tried", []))
    gpu_type, region = str(run.data.get("gpu_type") or ""), str(run.data.get("region") or "")
    ranked = offers.offers_ranked(instance, gpu_type=gpu_type, region=region, tried=tried, now=run.now)
    if ranked:
        box = _planned(run, instance, ranked[0])
        return _create(run, box, boxes.provider_of(box.account))
    wish = {
        "gpu": gpu_type or instance.gpu_type or "any",
        "region": region or instance.region or "any",
        "cap": str(offers.price_cap(instance) or "any price"),
    }
    # Counted anew for each box: one that took an hour to fail must not cost its successor the time to look.
    if run.step_age > OFFER_PATIENCE:
        return Stop(ChainState.FAILED, because("no_offer", tried=planned, **wish))
    return Again(LOOK_AGAIN_S, because("waiting_for_offer", **wish))


def _planned(run: Run, instance: Instance, offer: Offer) -> Box:
    with run.holding():
        box = boxes.box_plan(instance, offer, now=run.now)
        run.keep(planned=int(run.data.get("planned", 0)) + 1)
    return box


def _create(run: Run, box: Box, provider: Provider) -> Outcome:
    spec = boxes.box_spec(box, now=run.now)
    with run.holding():
        boxes.box_asked_for(box, now=timezone.now())
    try:
        ref = provider.create(box.offer_id, spec)
    except OfferGone:
        return _refused(run, box, because("offer_gone", offer=box.offer_id), rented=0)
    except ProviderRefused as error:
        _refused(run, box, because("provider_refused", error=error.message[:300]), rented=0)
        raise
    except ProviderBusy:
        with run.holding():
            boxes.box_not_asked_for(box)
        raise
    except CreateUnknown:
        return Again(1, because("looking_for_box", label=box.label))
    with run.holding():
        boxes.box_rented(box, ref=ref, reason=because("rented", ref=ref), now=run.now)
    return Next()


def _look_for(run: Run, box: Box, provider: Provider) -> Outcome:
    """A create was begun and its answer is not known: only the label tells. Nothing is created before it was looked for."""
    found = with_label(provider.listing(), box.label)
    if found:
        reason = because("adopted", ref=found[0].ref)
        made_at = found[0].created_at or box.create_asked_at
        with run.holding():
            boxes.box_rented(box, ref=found[0].ref, reason=reason, now=run.now, rented_at=made_at)
        if len(found) > 1:  # nobody can tell which of them will hold the workspace: all of them go
            return next_offer(run, box, because("rented_twice", label=box.label, boxes=len(found)))
        return Next()
    assert box.create_asked_at is not None, "only a box that was asked for is looked for"
    wait_s = provider.create_settles_s - (run.now - box.create_asked_at).total_seconds()
    if wait_s > 0:
        return Again(min(wait_s, 10.0), because("looking_for_box", label=box.label))
    if agent_silent(run, box.instance) is None:  # somebody holds the box's one-use token: it exists
        return Again(LOOK_AGAIN_S, because("looking_for_box", label=box.label))
    return _refused(run, box, because("box_never_was", label=box.label), rented=1, same_machine=True)


def _refused(run: Run, box: Box, reason: Reason, *, rented: int, same_machine: bool = False) -> Outcome:
    """It is certain that nothing was created. The machine is left out from here on, unless it was not its fault."""
    with run.holding():
        boxes.box_refused(box, reason=reason, now=run.now)
        _count(run, box, reason, rented=rented, same_machine=same_machine)
    return Goto("rent", reason)


def _count(run: Run, box: Box, reason: Reason, *, rented: int, same_machine: bool = False) -> None:
    tried = list(run.data.get("tried", []))
    if not same_machine and box.machine_id not in tried:
        tried.append(box.machine_id)
    run.keep(tried=tried, rented=int(run.data.get("rented", 0)) + rented, restores=0, why=str(reason)[:300])
