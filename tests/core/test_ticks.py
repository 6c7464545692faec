"""Ticks: one row's failure is its own, and our own absence is known."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from celery import current_app

from config.schedule import TICKS
from core.models import TickRun
from core.ticks import GAP_S, step_each, tick

NOON = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
pytestmark = pytest.mark.django_db


def resumed(seconds: float) -> datetime:
    with tick("t", now=NOON + timedelta(seconds=seconds)) as since:
        return since


def test_a_tick_that_runs_without_a_gap_has_resumed_at_its_first_run() -> None:
    assert resumed(0) == NOON
    assert resumed(5) == NOON
    assert resumed(5 + GAP_S) == NOON


def test_after_a_gap_everything_counts_anew() -> None:
    resumed(0)
    back = 2 * GAP_S
    assert resumed(back) == NOON + timedelta(seconds=back)
    assert resumed(back + 5) == NOON + timedelta(seconds=back)
    row = TickRun.objects.get()
    assert row.resumed_at == NOON + timedelta(seconds=back)
    assert row.finished_at is not None


def test_a_tick_that_raises_has_started_and_not_finished() -> None:
    with pytest.raises(RuntimeError), tick("t", now=NOON):
        raise RuntimeError
    assert TickRun.objects.get().finished_at is None


def test_a_row_that_raises_is_logged_and_the_rest_go_on(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    def step(row: int) -> None:
        if row == 2:
            raise ValueError("two")
        done.append(row)

    with caplog.at_level(logging.ERROR):
        assert step_each(step, [1, 2, 3]) == 2
    assert done == [1, 3]
    assert "failed for 2" in caplog.text


@pytest.mark.parametrize("name", [tick.task for tick in TICKS if tick.task.startswith(("core.", "pool."))])
def test_every_tick_of_the_schedule_is_a_task(name: str) -> None:
    current_app.loader.import_default_modules()
    assert name in current_app.tasks
