"""Looking for boxes at their provider: believed gone only when seen, and asked to go for as long as it takes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from core.errors import TransitionRefused
from core.reasons import because
from hibernation.models import Box
from hibernation.providers.base import BoxFacts, Phase, Provider
from hibernation.services.boxes import box_gone
from hibernation.states import BoxState

SEEN_TWICE_S = 1.0
"""Absence counts when it was seen twice, this far apart: a provider's listing can lag behind itself."""

SETTLED = timedelta(seconds=30)
"""A box that was rented, or seen to be gone, less than this ago may show or not without anything being wrong."""


def box_pursue(
    box: Box, provider: Provider, *, now: datetime, listed: Sequence[BoxFacts] | None = None
) -> BoxFacts | None:
    """Ask once more for a box to go, and look. None: it is seen to be gone (twice), and marked so.

    Otherwise what the provider still says of it. Never gives up and never believes a call that merely returned.
    listed: a complete listing that was asked for just now. Every box that carries its label is asked to go. Only for
    boxes that must go: their row holds why nothing is lost with them. TransitionRefused for any other.
    """
    if box.state == BoxState.GONE:
        return None
    if box.state != BoxState.DESTROYING:
        raise TransitionRefused(f"box {box.pk} is {box.state}: nobody has let it go")
    found = _found(box, provider, listed)
    if found:
        _seen(box, found[0], now=now)
        for facts in found:
            provider.destroy(facts.ref)
        return found[0]
    if not _absent_twice(box, provider, now=now):
        return BoxFacts(
            ref=box.provider_ref, label=box.label, phase=Phase.UNKNOWN, message="not to be seen just now"
        )
    box_gone(box, reason=because("box_seen_gone"), now=now)
    return None


def box_missing(
    box: Box, provider: Provider, *, now: datetime, listed: Sequence[BoxFacts] | None = None
) -> bool:
    """Whether a box that should be there is gone: by a read of its id and a complete listing, twice. Does not mark it."""
    if _found(box, provider, listed):
        if box.absent_since is not None:
            _absence(box, None)
        return False
    return _absent_twice(box, provider, now=now)


def _found(box: Box, provider: Provider, listed: Sequence[BoxFacts] | None) -> list[BoxFacts]:
    """What the provider has of this box; empty only where a read by id and a complete listing agree that it has none."""
    if listed is not None and (seen := _of(box, listed)):
        return seen  # a listing that has it is proof enough, and spares a provider that counts reads
    facts = provider.read(box.provider_ref) if box.provider_ref else None
    if facts is not None:
        return [facts]
    return _of(box, provider.listing()) if listed is None else []


def _of(box: Box, listed: Sequence[BoxFacts]) -> list[BoxFacts]:
    return [
        row for row in listed if row.label == box.label or (box.provider_ref and row.ref == box.provider_ref)
    ]


def _seen(box: Box, facts: BoxFacts, *, now: datetime) -> None:
    """It is there after all. One whose create was never answered is known, and billed, from here on."""
    changes: dict[str, object] = {}
    if box.absent_since is not None:
        changes["absent_since"] = None
    if not box.provider_ref:
        changes |= {"provider_ref": facts.ref, "rented_at": facts.created_at or now}
    if changes:
        Box.objects.filter(pk=box.pk).update(**changes)
        for name, value in changes.items():
            setattr(box, name, value)


def _absent_twice(box: Box, provider: Provider, *, now: datetime) -> bool:
    """Note that it is not to be seen. True where that was so before, long enough ago."""
    if not _would_show(box, provider, now=now):
        return False
    if box.absent_since is None:
        _absence(box, now)
        return False
    return now - box.absent_since >= timedelta(seconds=SEEN_TWICE_S)


def _would_show(box: Box, provider: Provider, *, now: datetime) -> bool:
    """Whether it would be listed by now if it existed: what was created just now may show later."""
    if box.rented_at is not None and box.state != BoxState.DESTROYING:
        return now - box.rented_at > SETTLED
    if box.provider_ref or box.create_asked_at is None:
        return True
    return (now - box.create_asked_at).total_seconds() >= provider.create_settles_s


def _absence(box: Box, since: datetime | None) -> None:
    Box.objects.filter(pk=box.pk).update(absent_since=since)
    box.absent_since = since
