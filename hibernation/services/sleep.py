"""What a person's "hibernate" means, whatever the instance is doing."""

from __future__ import annotations

from datetime import datetime

from core.models import Chain
from core.reasons import because
from hibernation.models import Instance
from hibernation.services.hibernate import instance_hibernate
from hibernation.services.wake import wake_stop
from hibernation.states import InstanceState


def instance_sleep(instance: Instance, *, by: str, now: datetime | None = None) -> Chain:
    """Put it to sleep, or take its wake back: the chain that does it, or that was stopped.

    Raises what instance_hibernate and wake_stop raise.
    """
    if instance.state == InstanceState.WAKING:
        return wake_stop(instance, by=by, now=now)
    return instance_hibernate(instance, reason=because("hibernate_asked", by=by), by=by, now=now)
