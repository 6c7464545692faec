"""One alert for each cause and subject, from the moment at which it is there to the moment at which it has gone."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction

from core.alerts import causes
from core.alerts.causes import Severity
from core.alerts.checking import KEPT, SOON, alert_acknowledge, alert_open, alerts_check, source_check
from core.alerts.states import AlertState
from core.errors import TransitionRefused
from core.models import Alert, AlertDelivery, Event
from tests.core.alerts.conftest import NOON, Watch, at


def states() -> dict[str, str]:
    return dict(Alert.objects.values_list("subject_id", "state"))


def test_a_cause_opens_one_alert_however_often_it_is_seen(watch: Watch, alice: User) -> None:
    watch.says("attic", owner=alice)
    assert [watch.look(15 * run) for run in range(4)] == [1, 0, 0, 0]
    alert = Alert.objects.get()
    assert (alert.cause, alert.severity, alert.message) == ("tests_fire", "warning", "fire in attic")
    assert (alert.subject_type, alert.subject_id, alert.owner, alert.opened_at) == (
        "room",
        "attic",
        alice,
        NOON,
    )
    event = Event.objects.get()
    assert (event.code, event.subject_type, event.subject_id) == ("alert_opened", "alert", alert.pk)


def test_it_resolves_by_itself_when_the_cause_has_gone(watch: Watch) -> None:
    watch.says("attic", "cellar")
    watch.look()
    watch.says("cellar")
    assert watch.look(15) == 1
    assert states() == {"attic": "resolved", "cellar": "open"}
    attic = Alert.objects.get(subject_id="attic")
    assert (attic.resolved_at, attic.reason) == (at(15), "its cause has gone")


def test_an_acknowledged_one_resolves_as_well(watch: Watch) -> None:
    watch.says("attic")
    watch.look()
    alert_acknowledge(Alert.objects.get(), by="ops", now=at(5))
    watch.says()
    watch.look(15)
    alert = Alert.objects.get()
    assert (alert.state, alert.acknowledged_by, alert.acknowledged_at) == ("resolved", "ops", at(5))


def test_a_cause_that_comes_back_soon_is_the_same_alert_and_told_no_more(watch: Watch, told: Any) -> None:
    told(emails=["ops@example.org"])
    for run in range(5):
        watch.says("attic")
        watch.look(60 * run)
        watch.says()
        watch.look(60 * run + 30)
    watch.says("attic")
    watch.look(400)
    assert states() == {"attic": "open"}
    assert AlertDelivery.objects.count() == 1


def test_one_that_comes_back_later_is_a_new_alert(watch: Watch, told: Any) -> None:
    told(emails=["ops@example.org"])
    watch.says("attic")
    watch.look()
    watch.says()
    watch.look(15)
    watch.says("attic")
    watch.look(16 + SOON.total_seconds())
    assert Alert.objects.count() == AlertDelivery.objects.count() == 2


def test_one_that_is_back_has_to_be_acknowledged_again(watch: Watch) -> None:
    watch.says("attic")
    watch.look()
    alert_acknowledge(Alert.objects.get(), by="ops", now=at(5))
    watch.says()
    watch.look(15)
    watch.says("attic")
    watch.look(30)
    alert = Alert.objects.get()
    assert (alert.state, alert.acknowledged_by, alert.resolved_at) == ("open", "", None)


def test_the_database_itself_keeps_a_second_one_out(watch: Watch) -> None:
    watch.says("attic")
    watch.look()
    with pytest.raises(IntegrityError), transaction.atomic():
        Alert.objects.create(
            cause="tests_fire", subject_type="room", subject_id="attic", severity="info", state="open"
        )


def test_two_checks_that_saw_the_same_open_one(watch: Watch, told: Any) -> None:
    """Both looked before either wrote."""
    told(emails=["ops@example.org"])
    watch.says("attic")
    (finding,) = watch.wrong
    assert alert_open(finding, Severity.WARNING, now=NOON) is not None
    assert alert_open(finding, Severity.WARNING, now=NOON) is None
    assert Alert.objects.count() == AlertDelivery.objects.count() == Event.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_two_beats_at_the_same_moment_open_and_tell_once(watch: Watch, told: Any) -> None:
    told(emails=["ops@example.org"])
    watch.says(*(f"room {number}" for number in range(40)))
    together = threading.Barrier(2)

    def beat() -> None:
        together.wait()
        try:
            alerts_check(now=NOON)
        finally:
            connection.close()

    beats = [threading.Thread(target=beat) for _ in range(2)]
    for one in beats:
        one.start()
    for one in beats:
        one.join()
    alerts_check(now=at(15))
    assert Alert.objects.count() == AlertDelivery.objects.count() == 40
    assert Event.objects.filter(code="alert_opened").count() == 40


def test_a_source_that_raises_resolves_nothing_and_holds_up_nobody(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch.says("attic")
    watch.look()

    def breaks(now: Any) -> list[Any]:
        raise RuntimeError("the sensor is broken")

    broken = causes.Source("tests", watch.source.causes, breaks)
    other = causes.Source("other", {}, lambda now: [])
    monkeypatch.setattr(causes, "_sources", {"tests": broken, "other": other})
    watch.look(15)
    assert states() == {"attic": "open"}


def test_a_flood_is_opened_and_resolved_in_parts(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.alerts.checking.AT_ONCE", 10)
    watch.says(*(f"room {number:02}" for number in range(25)))
    assert [watch.look(15 * run) for run in range(4)] == [10, 10, 5, 0]
    watch.says()
    assert [watch.look(100 + 15 * run) for run in range(4)] == [10, 10, 5, 0]


def test_acknowledging_twice_is_once_and_what_is_over_cannot_be(watch: Watch) -> None:
    watch.says("attic")
    watch.look()
    first, second = Alert.objects.get(), Alert.objects.get()
    alert_acknowledge(first, by="alice", now=at(1))
    with pytest.raises(TransitionRefused):
        alert_acknowledge(second, by="bob", now=at(2))
    assert alert_acknowledge(Alert.objects.get(), by="bob", now=at(3)).acknowledged_by == "alice"
    watch.says()
    watch.look(15)
    with pytest.raises(TransitionRefused, match="it is resolved"):
        alert_acknowledge(Alert.objects.get(), by="bob", now=at(16))


def test_a_resolved_alert_is_forgotten_after_a_year(watch: Watch) -> None:
    watch.says("attic")
    watch.look()
    watch.says()
    watch.look(15)
    alerts_check(now=at(15) + KEPT)
    assert Alert.objects.exists()
    alerts_check(now=at(16) + KEPT)
    assert not Alert.objects.exists()


def test_a_check_costs_two_statements_where_nothing_changes(
    watch: Watch, django_assert_num_queries: Any
) -> None:
    watch.says(*(f"room {number}" for number in range(50)))
    watch.look()
    with django_assert_num_queries(1):
        source_check(watch.source, now=at(15))


def test_a_cause_has_one_source_and_a_sentence(watch: Watch) -> None:
    with pytest.raises(ValueError, match="two sources"):
        causes.register_source("other", causes={"tests_fire": Severity.INFO}, look=lambda now: [])
    with pytest.raises(ValueError, match="no sentence"):
        causes.register_source("other", causes={"tests_unheard_of": Severity.INFO}, look=lambda now: [])


def test_times_are_those_that_the_check_was_given(watch: Watch) -> None:
    watch.says("attic")
    alerts_check(now=NOON - timedelta(days=3))
    assert Alert.objects.get().state_since == NOON - timedelta(days=3)
    assert Alert.objects.get().state == AlertState.OPEN
