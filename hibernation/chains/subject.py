"""What every step of these chains begins with: the instance as it is now."""

from __future__ import annotations

from core.chains import Run, chain_nudge
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
    chain = Chain.objects.filter(
        subject_type=Instance.SUBJECT, subject_id=instance_ref, state="active"
    ).first()
    if chain is not None:
        chain_nudge(chain.pk)
