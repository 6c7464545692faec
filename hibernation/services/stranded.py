"""Boxes that came back after their instance had gone on without them: a person says whether what is on them may go."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.utils import timezone

from core.errors import TransitionRefused
from hibernation.models import Box, Instance
from hibernation.services.boxes import box_discard
from hibernation.states import BoxState


def stranded_discard(box: Box, *, by: str, now: datetime | None = None) -> None:
    """Let a stranded box go, with work that is nowhere else. The reconciler sees to it that it goes.

    TransitionRefused, with nothing changed, for a box that is not stranded.
    """
    if box.state != BoxState.STRANDED:
        raise TransitionRefused(
            f"box {box.pk} is {box.state}: only a stranded one is discarded by itself",
            hint="hibernate its instance, or give it up",
        )
    box_discard(box, by=by, now=now or timezone.now())


def stranded_discard_all(instance: Instance, *, by: str, now: datetime | None = None) -> int:
    """The same for every stranded box of an instance; returns how many there were."""
    with transaction.atomic():
        boxes = list(
            Box.objects.filter(instance=instance, state=BoxState.STRANDED).select_related("instance")
        )
        for box in boxes:
            stranded_discard(box, by=by, now=now)
    return len(boxes)
