"""The history of use: every second on its day, every reading once, and what is old lets go in small pieces."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection

from core.models import Cursor
from pool.models import Sample, UtilisationHour, UtilisationMinute, Worker, WorkerDay
from pool.services import history
from pool.services.history import by_day, history_keep, utilisation_add
from pool.services.intake import intake_drain
from tests.pool.conftest import NOON

Enrol = Callable[..., Worker]
pytestmark = pytest.mark.usefixtures("valkey")


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def readings(worker: Worker, *points: tuple[float, float | None]) -> None:
    """readings(worker, (0, 12.5), (30, None)): what it said at 12:00:00 and at 12:00:30."""
    Sample.objects.bulk_create(Sample(worker=worker, epoch=1, at=at(s), gpu_util=util) for s, util in points)


def minutes(worker: Worker) -> list[tuple[float, int, int, float | None, float | None]]:
    rows = UtilisationMinute.objects.filter(worker=worker).order_by("at")
    return [
        ((row.at - NOON).total_seconds(), row.samples, row.known, row.gpu_util, row.util_max) for row in rows
    ]


# -- hours ----------------------------------------------------------------------------------------------------------


def test_a_stretch_over_midnight_is_shared_between_its_days() -> None:
    start = datetime(2026, 11, 18, 22, 0, tzinfo=UTC)
    assert by_day(start, start + timedelta(hours=27)) == [
        (date(2026, 11, 18), 7200),
        (date(2026, 11, 19), 86400),
        (date(2026, 11, 20), 3600),
    ]
    assert by_day(start, start) == []


def test_what_sessions_report_is_counted_on_its_day_once(enrol: Enrol, stream: Callable[..., str]) -> None:
    worker = enrol("w")
    late_s = 11.5 * 3600  # half past eleven at night
    stream(worker, at=at(late_s), session_runtime_hours=2.0)
    stream(worker, at=at(late_s), session_runtime_hours=2.0)  # doubled
    intake_drain(now=at(late_s))
    stream(worker, at=at(late_s + 3600), session_runtime_hours=3.0)
    stream(worker, at=at(late_s + 1800), session_runtime_hours=2.5)  # out of order
    intake_drain(now=at(late_s + 3600))
    days = dict(WorkerDay.objects.filter(worker=worker).values_list("day", "used_s"))
    assert days == {date(2026, 11, 18): pytest.approx(2.5 * 3600), date(2026, 11, 19): pytest.approx(1800)}


def test_hours_by_day_add_up_to_what_counts_against_quota(enrol: Enrol, stream: Callable[..., str]) -> None:
    workers = [enrol(f"w{number}") for number in range(3)]
    for step in range(1, 30):
        for number, worker in enumerate(workers):
            if (step * 7 + number) % 3:  # the others are lost
                stream(worker, at=at(step * 5400), session_runtime_hours=step * 1.5)
        intake_drain(now=at(step * 5400))
    counted = sum(worker.sessions.get().counted_s for worker in workers)
    assert sum(WorkerDay.objects.values_list("used_s", flat=True)) == pytest.approx(counted)


# -- utilisation ----------------------------------------------------------------------------------------------------


def test_readings_become_minutes_and_hours(enrol: Enrol) -> None:
    one, other = enrol("a"), enrol("b")
    readings(one, (0, 10.0), (30, 30.0), (59.9, 50.0), (60, None), (3600, 100.0))
    readings(other, (10, None))
    assert utilisation_add() == 6
    assert minutes(one) == [(0, 3, 3, 30.0, 50.0), (60, 1, 0, None, None), (3600, 1, 1, 100.0, 100.0)]
    assert minutes(other) == [(0, 1, 0, None, None)]
    hours = UtilisationHour.objects.filter(worker=one).order_by("at")
    assert [(row.at, row.samples, row.known, row.gpu_util) for row in hours] == [
        (NOON, 4, 3, 30.0),
        (at(3600), 1, 1, 100.0),
    ]


def test_each_reading_is_added_once_and_a_late_one_to_its_own_minute(enrol: Enrol) -> None:
    worker = enrol()
    readings(worker, (0, None), (120, 80.0))
    utilisation_add()
    assert utilisation_add() == 0
    readings(worker, (30, 40.0))  # waited in the stream while we were away
    utilisation_add()
    assert minutes(worker) == [(0, 2, 1, 40.0, 40.0), (120, 1, 1, 80.0, 80.0)]
    readings(worker, (45, 20.0), (50, None))
    utilisation_add()
    assert minutes(worker)[0] == (0, 4, 2, 30.0, 40.0)


def test_a_backlog_is_added_in_parts(enrol: Enrol) -> None:
    worker = enrol()
    readings(worker, *((second, 1.0) for second in range(25)))
    assert [utilisation_add(limit=10) for _ in range(4)] == [10, 10, 5, 0]
    assert minutes(worker) == [(0, 25, 25, 1.0, 1.0)]


def test_two_that_add_at_once_add_once(enrol: Enrol, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = enrol()
    readings(worker, (0, 10.0))
    before = history._cursor
    utilisation_add()
    monkeypatch.setattr(history, "_cursor", lambda: 0)  # what the other one had read
    assert utilisation_add() == 0
    monkeypatch.setattr(history, "_cursor", before)
    assert minutes(worker) == [(0, 1, 1, 10.0, 10.0)]


def test_adding_takes_the_same_statements_for_any_number(
    enrol: Enrol, django_assert_num_queries: Any
) -> None:
    workers = [enrol(f"w{number}") for number in range(5)]
    utilisation_add()
    for worker in workers:
        readings(worker, *((30 * step, 1.0) for step in range(20)))
    savepoint = 2 if connection.in_atomic_block else 0
    with django_assert_num_queries(7 + savepoint):
        assert utilisation_add() == 100


# -- letting go -----------------------------------------------------------------------------------------------------


def test_readings_are_kept_a_day_minutes_a_week_and_hours_a_year(enrol: Enrol) -> None:
    worker = enrol()
    readings(worker, (0, 10.0), (3600, 20.0))

    def kept(**later: float) -> tuple[int, int, int]:
        history_keep(now=NOON + timedelta(**later))
        return Sample.objects.count(), UtilisationMinute.objects.count(), UtilisationHour.objects.count()

    assert kept(hours=1) == (2, 2, 2)
    assert kept(hours=24, minutes=1) == (1, 2, 2)
    assert kept(days=6) == (0, 2, 2)
    assert kept(days=7, minutes=1) == (0, 1, 2)
    assert kept(days=366) == (0, 0, 2)
    assert kept(days=366, minutes=1) == (0, 0, 1)


def test_days_are_kept_for_five_years(enrol: Enrol) -> None:
    worker = enrol()
    for day in (date(2021, 1, 1), date(2026, 11, 17)):
        WorkerDay.objects.create(worker=worker, day=day, used_s=60)
    history_keep(now=NOON)
    assert list(WorkerDay.objects.values_list("day", flat=True)) == [date(2026, 11, 17)]


def test_a_reading_that_was_not_added_yet_is_not_let_go(
    enrol: Enrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = enrol()
    readings(worker, (0, 10.0))
    monkeypatch.setattr(history, "utilisation_add", lambda: 0)
    history_keep(now=NOON + timedelta(days=30))
    assert Sample.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_old_rows_go_in_batches_each_a_transaction_of_its_own(
    enrol: Enrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third batch fails: the two before it are gone all the same."""
    monkeypatch.setattr(history, "BATCH", 10)
    worker = enrol()
    readings(worker, *((second, 1.0) for second in range(35)))
    readings(worker, (90000, 1.0))
    utilisation_add()
    left = []

    def deleting(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("DELETE"):
            left.append(Sample.objects.count())
            if len(left) == 3:
                raise DatabaseError("the disk is full")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(deleting), pytest.raises(DatabaseError):
        history_keep(now=at(90001))
    assert left == [36, 26, 16]
    assert Sample.objects.count() == 16
    history_keep(now=at(90001))
    assert Sample.objects.count() == 1


def test_a_run_ends_when_its_time_is_over_and_the_next_goes_on(enrol: Enrol) -> None:
    worker = enrol()
    readings(worker, (0, 1.0))
    assert history_keep(now=NOON, budget_s=0.0) == 0
    assert not UtilisationMinute.objects.exists()
    history_keep(now=NOON)
    assert UtilisationMinute.objects.count() == 1
    assert Cursor.objects.get(name=history.CURSOR).value == str(Sample.objects.get().pk)
