"""The books: what counts in which week, what of it is estimated, and what the provider itself says of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from config.logs import Json
from core.models import Event
from core.reasons import because
from core.transitions import advance
from pool.models import Account, AccountWeek, Session, Worker
from pool.services import kaggle_accounts
from pool.services.accounts import account_create, account_update
from pool.services.intake import intake_drain
from pool.services.official import Official, official_take
from pool.services.workers import worker_lost, worker_offline
from pool.states import WorkerState
from pool.usage import WeekUse, limits_of, readings, week_use
from pool.weeks import week_start
from tests.pool.conftest import NOON

Post = Callable[..., str]
Enrol = Callable[..., Worker]


def at(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


@pytest.fixture
def kaggle(alice: User) -> Account:
    return account_create(owner=alice, kind="kaggle", label="k")


@pytest.fixture
def colab(alice: User) -> Account:
    return account_create(owner=alice, kind="colab", label="c")


@pytest.fixture
def heard(stream: Post) -> Callable[..., None]:
    """heard(worker, 1.5): an hour and a half after noon it posts that it has run so long."""

    def post(worker: Worker, hours: float, **fields: Any) -> None:
        said = {"session_runtime_hours": hours, **fields}
        stream(worker, at=at(hours), **{name: value for name, value in said.items() if value is not None})
        intake_drain(now=at(hours))
        worker.refresh_from_db()

    return post


Heard = Callable[..., None]


def lose(worker: Worker, hours: float) -> None:
    reason = because("posts_missing", silent_s=137.0, interval_s=60.0)
    advance(worker, WorkerState.SUSPECT, reason=reason, now=at(hours))
    worker_lost(worker, reason=reason, now=at(hours))


def use(account: Account, hours: float) -> WeekUse:
    account.refresh_from_db()
    return week_use([account], now=at(hours))[account.pk]


# -- estimates ----------------------------------------------------------------------------------------


def test_a_worker_that_never_says_how_long_it_has_run_is_not_safe_for_ever(
    enrol: Enrol, heard: Heard, kaggle: Account, colab: Account
) -> None:
    silent, weekly = enrol("c", into=colab), enrol("k", into=kaggle)
    for quarter in range(1, 45):
        heard(silent, quarter / 4, session_runtime_hours=None)
        if quarter <= 32:
            heard(weekly, quarter / 4, session_runtime_hours=None)
    read = readings(Worker.objects.select_related("account"), now=at(11))
    assert (read[silent.pk].used, read[silent.pk].estimated_h) == (pytest.approx(11), pytest.approx(11))
    assert not read[silent.pk].safe
    assert read[silent.pk].line("c").endswith("near limit estimated 11.00h")
    assert (read[weekly.pk].used, read[weekly.pk].estimated_h) == (pytest.approx(8), pytest.approx(8))
    week = AccountWeek.objects.get(account=kaggle)
    assert (week.used_s, week.estimated_s) == (0, pytest.approx(8 * 3600))


def test_a_vanished_worker_counts_until_its_limit_and_is_marked_as_estimated(
    enrol: Enrol, heard: Heard, kaggle: Account
) -> None:
    worker = enrol("k", into=kaggle)
    heard(worker, 1)
    lose(worker, 1.1)
    assert use(kaggle, 3).used_h == pytest.approx(3)
    assert use(kaggle, 3).estimated_h == pytest.approx(2)
    assert use(kaggle, 20).used_h == pytest.approx(9)
    (read,) = readings(Worker.objects.select_related("account"), now=at(3)).values()
    assert (read.used, read.estimated_h) == (pytest.approx(3), pytest.approx(2))


def test_a_vanished_worker_that_comes_back_proves_what_was_estimated(
    enrol: Enrol, heard: Heard, kaggle: Account
) -> None:
    worker = enrol("k", into=kaggle)
    heard(worker, 1)
    lose(worker, 1.1)
    heard(worker, 3)
    assert (use(kaggle, 3).used_h, use(kaggle, 3).estimated_h) == (pytest.approx(3), 0)
    assert Event.objects.filter(code="session_gap").count() == 1


def test_when_the_end_of_a_vanished_session_is_known_its_books_close(
    enrol: Enrol, heard: Heard, kaggle: Account
) -> None:
    worker = enrol("k", into=kaggle)
    heard(worker, 1)
    lose(worker, 1.1)
    enrol("k", into=kaggle, runtime_h=0.5, now=at(4))  # its next session began at 3.5
    week = AccountWeek.objects.get()
    assert (week.used_s, week.estimated_s) == (3600, pytest.approx(2.5 * 3600))
    assert use(kaggle, 9).used_h == pytest.approx(3.5)
    closed = Session.objects.get(epoch=1)
    assert (closed.ended_at, closed.estimated_until) == (at(3.5), at(3.5))


def test_the_same_machine_that_enrols_again_takes_its_estimate_back(
    enrol: Enrol, heard: Heard, stream: Post, kaggle: Account
) -> None:
    worker = enrol("k", into=kaggle)
    heard(worker, 1)
    lose(worker, 1.1)
    again = enrol("k", into=kaggle, runtime_h=3, now=at(3))
    heard(again, 3.5)
    week = AccountWeek.objects.get()
    assert (week.used_s, week.estimated_s) == (pytest.approx(3.5 * 3600), pytest.approx(0))


def test_a_session_whose_agent_said_that_it_ends_leaves_nothing_to_estimate(
    enrol: Enrol, heard: Heard, kaggle: Account
) -> None:
    worker = enrol("k", into=kaggle)
    heard(worker, 1)
    heard(worker, 8.5, status="ended")
    assert use(kaggle, 20).used_h == pytest.approx(8.5)
    assert Session.objects.get().ended_at == at(8.5)


def test_a_session_that_was_heard_until_its_agent_was_to_end_it_ended_then(
    enrol: Enrol, heard: Heard, kaggle: Account
) -> None:
    """Its last word was lost, nothing else."""
    worker = enrol("k", into=kaggle)
    heard(worker, 8.49)
    lose(worker, 8.6)
    assert use(kaggle, 20).used_h == pytest.approx(8.49)


def test_a_report_that_arrives_after_the_last_word_brings_nobody_back(
    enrol: Enrol, heard: Heard, stream: Post, kaggle: Account
) -> None:
    worker = enrol("k", into=kaggle)
    heard(worker, 2, status="ended")
    stream(worker, at=at(2.01), session_runtime_hours=1.9, status="idle")
    intake_drain(now=at(2.02))
    worker.refresh_from_db()
    assert worker.state == WorkerState.OFFLINE
    assert Session.objects.get().ended_at == at(2)


def test_who_is_taken_out_while_it_is_heard_leaves_nothing_to_estimate(
    enrol: Enrol, heard: Heard, kaggle: Account
) -> None:
    worker = enrol("k", into=kaggle)
    heard(worker, 1)
    worker_offline(worker, reason=because("session_ended"), now=at(1.01))
    assert use(kaggle, 5).used_h == pytest.approx(1)


# -- the provider's own figure ------------------------------------------------------------------------


def take(account: Account, hours: float, **said: Any) -> AccountWeek | None:
    return official_take(account=account, said=Official(**said), at=at(hours))


def test_the_providers_figure_wins_and_the_difference_is_shown(
    enrol: Enrol, heard: Heard, kaggle: Account
) -> None:
    worker = enrol("k", into=kaggle)
    heard(worker, 2, status="ended")
    take(kaggle, 3, used_s=5 * 3600, reserved_s=0)  # somebody ran a notebook by hand
    found = use(kaggle, 3)
    assert (found.used_h, found.own_h, found.official_h) == (5, pytest.approx(2), 5)
    assert (found.difference_h, found.official_at) == (pytest.approx(3), at(3))
    event = Event.objects.get(subject_id=kaggle.pk, code="week_corrected")
    assert event.reason == "the provider has counted 5.00 h of this week, here it was 2.00 h"
    take(kaggle, 4, used_s=5 * 3600, reserved_s=0)
    assert Event.objects.filter(code="week_corrected").count() == 1


def test_hours_after_the_official_figure_are_added_to_it_once(
    enrol: Enrol, heard: Heard, kaggle: Account
) -> None:
    worker = enrol("k", into=kaggle)
    heard(worker, 1)
    # Between two posts: what ran until then is in the figure, and what the next post proves of it counts no more.
    take(kaggle, 1.4, used_s=3600, reserved_s=9 * 3600)
    assert use(kaggle, 1.4).used_h == pytest.approx(1 + 1.4)
    heard(worker, 2)
    assert use(kaggle, 2).used_h == pytest.approx(1 + 2)
    take(kaggle, 2, used_s=3600, reserved_s=9 * 3600)
    assert use(kaggle, 2).used_h == pytest.approx(3)


def test_of_what_is_reserved_only_what_has_run_counts_as_used(
    enrol: Enrol, heard: Heard, kaggle: Account
) -> None:
    heard(enrol("k", into=kaggle), 2)
    take(kaggle, 2, used_s=0, reserved_s=0.5 * 3600)
    assert use(kaggle, 2).used_h == pytest.approx(0.5)
    take(kaggle, 2.5, used_s=3600, reserved_s=None)
    assert use(kaggle, 2.5).used_h == pytest.approx(1 + 2.5)


def test_what_was_estimated_of_a_vanished_worker_is_corrected_by_the_next_official_figure(
    enrol: Enrol, heard: Heard, kaggle: Account
) -> None:
    worker = enrol("k", into=kaggle)
    heard(worker, 1)
    lose(worker, 1.1)
    assert use(kaggle, 6).used_h == pytest.approx(6)
    take(kaggle, 6, used_s=1.2 * 3600, reserved_s=0)
    assert (use(kaggle, 8).used_h, use(kaggle, 8).estimated_h) == (pytest.approx(1.2), 0)
    assert Session.objects.get().ended_at == at(6)


def test_a_vanished_worker_whose_session_the_provider_still_holds_goes_on_counting(
    enrol: Enrol, heard: Heard, kaggle: Account
) -> None:
    worker = enrol("k", into=kaggle)
    heard(worker, 1)
    lose(worker, 1.1)
    take(kaggle, 3, used_s=0, reserved_s=9 * 3600)
    assert use(kaggle, 4).used_h == pytest.approx(4)
    assert use(kaggle, 4).estimated_h == pytest.approx(1)


def test_an_older_figure_changes_nothing(enrol: Enrol, kaggle: Account) -> None:
    take(kaggle, 2, used_s=7200, reserved_s=0)
    assert take(kaggle, 1, used_s=0, reserved_s=0) is None
    assert use(kaggle, 3).used_h == 2
    assert take(kaggle, 3, used_s=None, total_s=3600) is None


def test_limit_and_reset_are_the_providers_too(kaggle: Account) -> None:
    Account.objects.filter(pk=kaggle.pk).update(reset_zone="America/Sao_Paulo")
    saturday = datetime(2026, 11, 21, tzinfo=UTC)
    take(kaggle, 0, used_s=3600, reserved_s=0, total_s=45 * 3600, refresh_at=saturday)
    kaggle.refresh_from_db()
    assert (kaggle.weekly_limit_h, kaggle.reset_weekday, kaggle.reset_hour) == (45, 4, 21)  # Friday, 21:00
    assert kaggle.reset_zone == "America/Sao_Paulo"
    assert week_use([kaggle], now=saturday - timedelta(seconds=1))[kaggle.pk].used_h == 1
    assert week_use([kaggle], now=saturday)[kaggle.pk].used_h == 0
    take(kaggle, 1, used_s=3600, reserved_s=0, refresh_at=at(24 * 30))  # no week is so long
    kaggle.refresh_from_db()
    assert kaggle.reset_weekday == 4
    assert Event.objects.filter(subject_id=kaggle.pk, code="limits_official").count() == 1


def test_hours_before_a_reset_that_the_provider_moved_stay_in_the_week_before(
    enrol: Enrol, heard: Heard, stream: Post, kaggle: Account
) -> None:
    """The session runs across Saturday; the account was made with Monday."""
    saturday = datetime(2026, 11, 21, tzinfo=UTC)
    take(kaggle, 0, used_s=0, reserved_s=0, refresh_at=saturday)
    worker = enrol("k", into=kaggle, now=saturday - timedelta(hours=2))
    for minutes in (-60, 90):
        stream(worker, at=saturday + timedelta(minutes=minutes), session_runtime_hours=2 + minutes / 60)
    intake_drain(now=saturday + timedelta(hours=2))
    kaggle.refresh_from_db()
    assert week_use([kaggle], now=saturday - timedelta(seconds=1))[kaggle.pk].used_h == pytest.approx(2)
    assert week_use([kaggle], now=saturday + timedelta(hours=2))[kaggle.pk].used_h == pytest.approx(1.5)


def test_a_reset_that_a_person_corrects_loses_no_hour_that_was_used(
    enrol: Enrol, stream: Post, kaggle: Account
) -> None:
    """Eight hours on Saturday; on Monday the reset is set to what it is, Saturday; and then to Sunday noon, in India."""
    saturday = datetime(2026, 11, 21, tzinfo=UTC)
    begin, monday = saturday + timedelta(hours=10), saturday + timedelta(days=2, hours=9)
    worker = enrol("k", into=kaggle, now=begin)
    for quarter in range(1, 33):
        stream(worker, at=begin + timedelta(hours=quarter / 4), session_runtime_hours=quarter / 4)
    intake_drain(now=begin + timedelta(hours=9))
    assert week_use([kaggle], now=monday)[kaggle.pk].used_h == 0
    account_update(account=kaggle, reset_weekday=5)
    assert week_use([kaggle], now=monday)[kaggle.pk].used_h == pytest.approx(8)
    assert week_use([kaggle], now=saturday - timedelta(seconds=1))[kaggle.pk].used_h == 0
    account_update(account=kaggle, reset_hour=20, reset_zone="Asia/Kolkata")  # 14:30 UTC: into the session
    assert week_use([kaggle], now=monday)[kaggle.pk].used_h == pytest.approx(3.5)
    account_update(account=kaggle, reset_weekday=0, reset_hour=0, reset_zone="UTC")
    assert week_use([kaggle], now=monday)[kaggle.pk].used_h == 0


def test_hours_after_a_figure_are_added_to_it_though_the_reset_is_moved_after_it(
    enrol: Enrol, heard: Heard, kaggle: Account
) -> None:
    worker = enrol("k", into=kaggle)
    heard(worker, 1)
    take(kaggle, 1, used_s=5 * 3600, reserved_s=9 * 3600)
    account_update(
        account=kaggle, reset_weekday=6
    )  # Sunday: the figure was said for a week that begins on Monday
    heard(worker, 3)
    assert use(kaggle, 3).used_h == pytest.approx(5 + 3)


def test_a_figure_that_arrives_late_loses_none_of_the_hours_since(
    enrol: Enrol, heard: Heard, kaggle: Account
) -> None:
    """Asked at one, answered at two: what was reported between is counted, once."""
    worker = enrol("k", into=kaggle)
    heard(worker, 0.9)
    for hours in (1.5, 2.0):
        heard(worker, hours)
    take(kaggle, 1, used_s=5 * 3600, reserved_s=9 * 3600)
    found = use(kaggle, 2)
    assert (found.used_h, found.official_h, found.official_own_h) == (
        pytest.approx(5 + 2),
        pytest.approx(6),
        pytest.approx(1),
    )
    heard(worker, 2.5)
    assert use(kaggle, 2.5).used_h == pytest.approx(5 + 2.5)


def test_a_session_that_ended_before_a_late_figure_was_taken_counts_to_its_end(
    enrol: Enrol, heard: Heard, kaggle: Account
) -> None:
    worker = enrol("k", into=kaggle)
    heard(worker, 0.9)
    heard(worker, 2, status="ended")
    take(kaggle, 1, used_s=5 * 3600, reserved_s=9 * 3600)
    assert use(kaggle, 2).used_h == pytest.approx(5 + 2)


def test_each_account_is_asked_at_its_own_time(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    token = json.dumps({"api_token": "t"})
    for label in ("a", "b"):
        account_create(owner=alice, kind="kaggle", label=label, credentials=token)
    clock = iter([at(1), at(1.5)])
    monkeypatch.setattr(kaggle_accounts.timezone, "now", lambda: next(clock))
    asked = []
    monkeypatch.setattr(kaggle_accounts, "quota_read", lambda account, *, now: asked.append(now))
    assert kaggle_accounts.quotas_read(now=at(0)) == 2
    assert asked == [at(1), at(1.5)]


def test_an_account_that_is_allowed_no_hours_is_not_safe(enrol: Enrol, heard: Heard, kaggle: Account) -> None:
    worker = enrol("k", into=kaggle)
    heard(worker, 0.1)
    take(kaggle, 0.1, used_s=0, reserved_s=0, total_s=0)
    kaggle.refresh_from_db()
    assert kaggle.weekly_limit_h == 0
    (read,) = readings(Worker.objects.select_related("account"), now=at(0.2)).values()
    assert (read.safe, read.percent, read.left_h) == (False, 100, 0)
    account_update(account=kaggle, label="none")  # a person may still change the rest


def test_an_official_reset_stays_the_same_moment_when_the_clocks_change(kaggle: Account) -> None:
    account_update(account=kaggle, reset_zone="Europe/Berlin")
    summer = datetime(2026, 10, 17, tzinfo=UTC)
    official_take(account=kaggle, said=Official(refresh_at=summer), at=summer - timedelta(days=2))
    kaggle.refresh_from_db()
    after = datetime(2026, 11, 1, tzinfo=UTC)
    assert week_start(after, limits_of(kaggle).week) == datetime(2026, 10, 31, tzinfo=UTC)
    assert kaggle.reset_zone == "UTC"


def test_a_verdict_that_an_official_figure_changes_is_a_line(
    enrol: Enrol, heard: Heard, kaggle: Account, caplog: pytest.LogCaptureFixture
) -> None:
    heard(enrol("k", into=kaggle), 1)
    with caplog.at_level(logging.INFO, logger="pool"):
        caplog.clear()
        take(kaggle, 1, used_s=24 * 3600, reserved_s=9 * 3600)
        assert said(caplog) == ["quota kaggle worker=k week 25.00h/30h (83.3%) near limit"]
        take(kaggle, 1.01, used_s=24 * 3600, reserved_s=9 * 3600)
        assert said(caplog) == []


# -- the log ------------------------------------------------------------------------------------------


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("quota ")]
    caplog.clear()
    return lines


def test_a_reading_is_a_line_for_each_tenth_of_an_hour_and_not_for_each_post(
    enrol: Enrol, heard: Heard, colab: Account, caplog: pytest.LogCaptureFixture
) -> None:
    worker = enrol("1", into=colab)
    with caplog.at_level(logging.INFO, logger="pool"):
        for minute in range(1, 60):
            heard(worker, minute / 60)
    lines = said(caplog)
    assert lines[0] == "quota colab worker=1 session 0.02h/11.5h (0.1%) safe"
    assert 10 <= len(lines) <= 11


def test_another_verdict_is_a_line_at_once_and_a_warning(
    enrol: Enrol, heard: Heard, colab: Account, caplog: pytest.LogCaptureFixture
) -> None:
    worker = enrol("1", into=colab)
    heard(worker, 10.33)
    with caplog.at_level(logging.INFO, logger="pool"):
        caplog.clear()
        heard(worker, 10.34)
        assert said(caplog) == []
        heard(worker, 10.36)
    assert [record.levelname for record in caplog.records if "near limit" in record.getMessage()] == [
        "WARNING"
    ]


def test_a_reading_that_hardly_changes_is_a_line_an_hour(
    enrol: Enrol, stream: Post, colab: Account, caplog: pytest.LogCaptureFixture
) -> None:
    worker = enrol("1", into=colab)
    with caplog.at_level(logging.INFO, logger="pool"):
        for minute, lines in [(57, 1), (58, 0), (59, 0), (60.5, 1), (61, 0)]:
            stream(worker, at=at(minute / 60), session_runtime_hours=(minute - 2) / 60)
            intake_drain(now=at(minute / 60))
            assert len(said(caplog)) == lines


def test_where_logs_are_json_a_reading_has_fields(
    enrol: Enrol, heard: Heard, colab: Account, caplog: pytest.LogCaptureFixture
) -> None:
    worker = enrol("1", into=colab)
    with caplog.at_level(logging.INFO, logger="pool"):
        heard(worker, 2.3)
    (record,) = [one for one in caplog.records if one.getMessage().startswith("quota ")]
    line = json.loads(Json().format(record))
    assert line["message"] == "quota colab worker=1 session 2.30h/11.5h (20.0%) safe"
    assert line["quota"] == {
        "worker": "1",
        "provider": "colab",
        "model": "session",
        "used": 2.3,
        "limit": 11.5,
        "percent": 20.0,
        "safe": True,
        "left_h": 9.2,
        "estimated_h": 0.0,
    }


# -- a first word that cannot be ------------------------------------------------------------------------


@pytest.mark.parametrize("joins_with_h", [100.0, 0.0])
def test_a_first_report_beyond_the_providers_limit_is_not_believed(
    enrol: Enrol, heard: Heard, kaggle: Account, joins_with_h: float
) -> None:
    """The uptime of the host, say. The server's clock counts instead, and what it counts is an estimate."""
    worker = enrol("k", into=kaggle, runtime_h=joins_with_h)
    for hours in (0.5, 1.0, 2.0):
        heard(worker, hours, session_runtime_hours=100 + hours)
    found = use(kaggle, 2)
    assert (found.used_h, found.estimated_h) == (pytest.approx(2, abs=0.51), pytest.approx(2, abs=0.51))
    assert Session.objects.get().counted_s == 0


def test_a_first_report_within_the_limit_is_believed_whole(
    enrol: Enrol, heard: Heard, kaggle: Account
) -> None:
    worker = enrol("k", into=kaggle, now=at(-0.1))
    heard(worker, 0.1, session_runtime_hours=9.2)
    assert (use(kaggle, 0.1).used_h, use(kaggle, 0.1).estimated_h) == (pytest.approx(9.2), 0)
