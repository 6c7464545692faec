"""The table of ticks and the rows that beat reads."""

import pytest
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks

from config import schedule
from config.schedule import TICKS, Tick, schedule_upsert

pytestmark = pytest.mark.django_db


def test_rows_say_what_the_table_says():
    assert schedule_upsert() == len(TICKS)
    for tick in TICKS:
        row = PeriodicTask.objects.get(name=tick.task)
        assert (row.task, row.interval.every, row.interval.period) == (tick.task, tick.every_s, "seconds")
        assert tick.every_s <= row.expire_seconds <= tick.every_s + 5
        assert row.queue == tick.queue
        assert row.enabled


def test_second_time_changes_nothing_and_tells_no_beat():
    schedule_upsert()
    before = PeriodicTasks.last_change()
    assert schedule_upsert() == 0
    assert PeriodicTasks.last_change() == before


def test_tick_that_an_operator_switched_off_stays_off():
    schedule_upsert()
    PeriodicTask.objects.filter(name="core.chains_tick").update(enabled=False, expire_seconds=99)
    assert schedule_upsert() == 1
    row = PeriodicTask.objects.get(name="core.chains_tick")
    assert not row.enabled
    assert row.expire_seconds != 99


def test_changed_interval_reaches_the_row_and_the_running_beat(monkeypatch):
    schedule_upsert()
    before = PeriodicTasks.last_change()
    first, *rest = TICKS
    monkeypatch.setattr(schedule, "TICKS", (Tick(first.task, 77, first.why), *rest))
    assert schedule_upsert() == 1
    assert PeriodicTask.objects.get(name=first.task).interval.every == 77
    assert PeriodicTasks.last_change() > before


def test_tick_that_left_the_table_goes_and_a_persons_own_row_stays(monkeypatch):
    schedule_upsert()
    every = IntervalSchedule.objects.create(every=1, period="days")
    PeriodicTask.objects.create(name="mine", task="core.chains_tick", interval=every)
    monkeypatch.setattr(schedule, "TICKS", TICKS[1:])
    assert schedule_upsert() == 1
    names = set(PeriodicTask.objects.values_list("name", flat=True))
    assert names == {"mine", *(tick.task for tick in TICKS[1:])}


def test_new_tick_is_due_at_once():
    schedule_upsert()
    for row in PeriodicTask.objects.all():
        assert (timezone.now() - row.last_run_at).total_seconds() > row.interval.every


def test_names_are_unique():
    assert len({tick.task for tick in TICKS}) == len(TICKS)
