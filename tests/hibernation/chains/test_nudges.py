"""What a waiting step waits for has happened: it looks again at once."""

from __future__ import annotations

import pytest
from django.db import transaction

from core.models import Chain
from core.reasons import because
from hibernation.services.hibernate import instance_hibernate
from tests.hibernation.rows import T0, instance_of, person, post

pytestmark = pytest.mark.usefixtures("transactional_db", "valkey")


def test_a_new_reading_has_a_recheck_look_again_once_the_intake_has_committed() -> None:
    """Not before: the intake holds its workers' rows, and a step that holds its chain's may be waiting for one of them."""
    instance = instance_of(person())
    chain = instance_hibernate(instance, reason=because("hibernate_asked", by="a"), by="a", now=T0)
    later = T0.replace(year=2100)
    Chain.objects.update(step="recheck", next_at=later)
    with transaction.atomic():
        post(instance, (5, 0.0))
        assert Chain.objects.get().next_at == later
    chain.refresh_from_db()
    assert chain.next_at is not None and chain.next_at < later
