"""Labels of a worker, as its owner or an operator sets them."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from django.db import transaction

from core.errors import Invalid
from core.reasons import because
from core.transitions import event_add
from pool.labels import LabelsInvalid, packed, pairs
from pool.models import Worker
from pool.services.bell import dispatcher_ring

log = logging.getLogger(__name__)


def worker_labels_set(worker: Worker, labels: Mapping[str, str], *, by: str = "") -> None:
    """Give it these labels in place of those that it has; jobs that run on it go on. Raises Invalid, naming the label."""
    text = labels_packed(labels)
    if text == worker.labels:
        return
    with transaction.atomic():
        Worker.objects.filter(pk=worker.pk).update(labels=text)
        shown = ", ".join(pairs(text)) or "–"
        event_add(worker, "worker_labelled", reason=because("worker_labels", labels=shown), by=by)
        dispatcher_ring()
    worker.labels = text
    log.info("worker=%s labels=%r by=%s", worker.pk, text, by or "system")


def labels_packed(labels: Mapping[str, str]) -> str:
    """The labels as they are stored. Raises Invalid, naming the one that is none."""
    try:
        return packed(labels)
    except LabelsInvalid as error:
        raise Invalid(str(error), hint='for example {"gpu": "a100", "disk": "nvme"}') from error
