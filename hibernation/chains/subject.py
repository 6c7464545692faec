"""What every step of these chains begins with, the instance as it is now; and how a waiting step is told to look again."""

from __future__ import annotations

from collections.abc import Collection

from core.chain_states import ChainState
from core.chains import Run, chain_active, chain_nudge
from core.models import Chain
from hibernation.models import Instance


def instance_of(chain: Chain) -> Instance:
    """The chain's instance, read afresh with what the steps look at."""
    return Instance.objects.select_related("account", "worker", "worker__account", "snapshot", "owner").get(
        pk=chain.subject_id
    )


def subject(run: Run) -> Instance:
    return instance_of(run.chain)


def nudge_instance(instance_ref: str) -> None:
    """Something that this instance's chain may be waiting for has happened."""
    chain = chain_active(subject_type=Instance.SUBJECT, subject_id=instance_ref)
    if chain is not None:
        chain_nudge(chain.pk)


def nudge_rechecks(worker_ids: Collection[str]) -> None:
    """New readings of these workers: hibernations that wait for one look again. One query where nobody hibernates."""
    waiting = Chain.objects.filter(state=ChainState.ACTIVE, subject_type=Instance.SUBJECT, step="recheck")
    wanted = list(waiting.values_list("subject_id", flat=True))
    if not wanted:
        return
    for instance_ref in Instance.objects.filter(pk__in=wanted, worker__in=worker_ids).values_list(
        "pk", flat=True
    ):
        nudge_instance(instance_ref)
