"""A standing says today what a reading would say later, if nothing more is heard."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import assume, given
from hypothesis import strategies as st

from pool.quota import DEFAULTS, Limits, reading
from pool.standing import standing

NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)
COLAB, KAGGLE, LOCAL = DEFAULTS["colab"], DEFAULTS["kaggle"], DEFAULTS["local"]

hours = st.floats(0, 40, allow_nan=False)
limits = st.builds(
    Limits,
    kind=st.just("any"),
    session_shutdown_h=st.one_of(st.none(), st.floats(0.5, 12)),
    weekly_limit_h=st.one_of(st.none(), st.floats(1, 40)),
    safe_percent=st.floats(1, 100),
)


@given(limits=limits, runtime_h=hours, week_h=hours, running=st.integers(1, 5), later_h=st.floats(0, 48))
def test_a_standing_agrees_with_the_reading_of_any_later_moment(
    limits: Limits, runtime_h: float, week_h: float, running: int, later_h: float
) -> None:
    known = standing(
        limits, read_at=NOON, now=NOON, session_runtime_h=runtime_h, week_used_h=week_h, running=running
    )
    then = reading(limits, session_runtime_h=runtime_h + later_h, week_used_h=week_h + running * later_h)
    now = NOON + timedelta(hours=later_h)
    edges = [at for at in (known.safe_until, known.ends_at) if at is not None and later_h > 0]
    assume(all(abs((at - now).total_seconds()) > 0.01 for at in edges))
    assert known.at(now).safe == then.safe
    if running == 1 and then.left_h is not None:
        left_h = known.at(now).left_h
        assert left_h is not None and abs(left_h - then.left_h) < 1e-6


def test_a_silent_hour_has_used_up_an_hour() -> None:
    known = standing(COLAB, read_at=NOON, now=NOON, session_runtime_h=10)
    assert (known.used_percent < 90, known.at(NOON).safe) == (True, True)
    assert not known.at(NOON + timedelta(hours=1)).safe
    assert known.ends_at == NOON + timedelta(hours=1.5)


def test_several_machines_use_up_their_week_together() -> None:
    alone = standing(KAGGLE, read_at=NOON, now=NOON, week_used_h=15)
    three = standing(KAGGLE, read_at=NOON, now=NOON, week_used_h=15, running=3)
    assert alone.safe_until == NOON + timedelta(hours=6)
    assert three.safe_until == NOON + timedelta(hours=2)


def test_it_is_read_anew_after_a_minute_and_when_the_week_begins() -> None:
    assert standing(KAGGLE, read_at=NOON, now=NOON).renews_at == NOON + timedelta(minutes=1)
    sunday = datetime(2026, 11, 22, 23, 59, 30, tzinfo=UTC)
    assert standing(KAGGLE, read_at=sunday, now=sunday).renews_at == sunday + timedelta(seconds=30)
    budget = replace(LOCAL, budget_usd_per_day=5.0)
    assert standing(budget, read_at=sunday, now=sunday).renews_at == sunday + timedelta(seconds=30)


def test_what_has_no_limit_is_safe_for_ever_and_never_read_anew() -> None:
    known = standing(LOCAL, read_at=NOON, now=NOON, session_runtime_h=1_000)
    assert (known.used_percent, known.safe_until, known.ends_at, known.renews_at) == (0, None, None, None)
