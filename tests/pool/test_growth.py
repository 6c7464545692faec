"""Growth of sessions: what reports that are late, lost, doubled or wrong add up to, and what is estimated meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.growth import Growth, Run, Session, growth, overdue_s, vanished_until
from pool.weeks import QUARTER_S, WeekRule, pieces, quarters, week_end

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
RULE = WeekRule()
LIMIT_S = 9 * 3600.0


def h(hours: float) -> datetime:
    return MONDAY + timedelta(hours=hours)


@dataclass
class Books:
    """One machine's reports and what they add up to, in hours."""

    session: Session = field(default_factory=lambda: Session(started_at=MONDAY))
    used_h: float = 0.0
    estimated_h: float = 0.0
    grown: Growth | None = None

    def hear(
        self, at: datetime, runtime_h: float | None, sent_at: datetime | None = None, limit_s: float = LIMIT_S
    ) -> Growth:
        runtime_s = None if runtime_h is None else 3600 * runtime_h
        grown = growth(self.session, runtime_s=runtime_s, at=at, rule=RULE, sent_at=sent_at, limit_s=limit_s)
        self.used_h += sum(seconds for _, seconds in grown.used) / 3600
        for (begin, end), sign in grown.estimates:
            self.estimated_h += sign * (end - begin).total_seconds() / 3600
        assert sum(
            sign * (end - begin).total_seconds() for (begin, end), sign in grown.proven
        ) == pytest.approx(sum(seconds for _, seconds in grown.used))
        self.session, self.grown = grown.session, grown
        return grown


# -- whose report it is -----------------------------------------------------------------------------


def test_a_report_of_the_session_before_is_told_from_one_of_the_present() -> None:
    books = Books()
    books.hear(h(2), 2)
    books.hear(h(2.1), 0.05)
    late = books.hear(h(2.12), 1.95)  # sent before the restart
    assert late.late
    assert books.used_h == pytest.approx(2.05)
    books.hear(h(3.05), 1.0)
    assert books.used_h == pytest.approx(3.0)


def test_a_late_report_of_a_session_that_is_over_still_proves_its_last_minutes() -> None:
    books = Books()
    books.hear(h(2), 2, sent_at=h(2))
    books.hear(h(2.3), 0.05, sent_at=h(2.3))
    assert books.hear(h(2.31), 2.1, sent_at=h(2.1)).late
    assert books.used_h == pytest.approx(2.15)


def test_a_report_that_was_delayed_for_longer_than_its_session_is_known_by_the_agents_own_clock() -> None:
    wrong = timedelta(hours=-5)
    books = Books()
    books.hear(h(0.02), 0.02, sent_at=h(0.02) + wrong)
    delayed = books.hear(h(0.3), 0.1, sent_at=h(0.1) + wrong)
    assert not delayed.restarted
    books.hear(h(0.31), 0.31, sent_at=h(0.31) + wrong)
    assert books.used_h == pytest.approx(0.31)


def test_a_session_that_was_taken_for_two_is_one_again_when_its_reports_say_so() -> None:
    """Without the agent's clock a delayed report of a young session looks like a new one."""
    books = Books()
    books.hear(h(0.02), 0.02)
    assert books.hear(h(0.3), 0.1).restarted
    for minute in range(19, 40):
        books.hear(h(minute / 60), minute / 60)
    assert books.used_h == pytest.approx(39 / 60)
    assert books.session.earlier == ()


def test_a_clock_that_is_set_while_a_session_runs_makes_no_new_session() -> None:
    books = Books()
    for at_h, wrong_h in [(0.5, 0), (1.0, 3), (1.5, -7)]:
        assert not books.hear(h(at_h), at_h, sent_at=h(at_h + wrong_h)).restarted
    assert books.used_h == pytest.approx(1.5)


def test_a_clock_without_a_battery_does_not_make_two_boots_one_session() -> None:
    books = Books()
    boot = datetime(1970, 1, 1, tzinfo=UTC)
    books.hear(h(0.5), 0.5, sent_at=boot + timedelta(hours=0.5))
    assert books.hear(h(1), 0.25, sent_at=boot + timedelta(hours=0.25)).restarted
    assert books.used_h == pytest.approx(0.75)


def test_a_runtime_that_jumps_ahead_of_the_servers_clock_is_not_believed() -> None:
    books = Books()
    books.hear(h(1), 1)
    books.hear(h(1.5), 7.5)
    assert (books.used_h, books.estimated_h) == (pytest.approx(1.0), pytest.approx(0.5))
    books.hear(h(2), 2)
    assert (books.used_h, books.estimated_h) == (pytest.approx(2.0), pytest.approx(0))


def test_a_runtime_that_was_set_back_by_hours_does_not_silence_its_machine() -> None:
    books = Books()
    books.hear(h(5), 5)
    grown = books.hear(h(5.1), 2.1)
    assert not grown.late
    assert books.used_h + books.estimated_h == pytest.approx(5.1)


# -- what no report proves --------------------------------------------------------------------------


def test_a_machine_that_never_says_how_long_it_has_run_is_counted_by_the_servers_clock() -> None:
    books = Books()
    for minute in range(1, 121):
        books.hear(h(minute / 60), None)
    assert books.session.runtime_s == pytest.approx(2 * 3600)
    assert (books.used_h, books.estimated_h) == (0, pytest.approx(2))


def test_what_was_estimated_is_taken_back_by_the_first_report_that_says_how_long() -> None:
    books = Books()
    books.hear(h(0.5), 0.5)
    books.hear(h(1), None)
    assert (books.used_h, books.estimated_h) == (pytest.approx(0.5), pytest.approx(0.5))
    books.hear(h(1.25), 1.25)
    assert (books.used_h, books.estimated_h) == (pytest.approx(1.25), pytest.approx(0))


def test_a_machine_without_runtimes_begins_anew_when_its_provider_must_have_ended_it() -> None:
    books = Books()
    books.hear(h(0.1), None)
    books.hear(h(5), None)
    again = books.hear(h(30), None)
    assert again.restarted
    assert again.session.runtime_s == 0
    books.hear(h(31), None)
    # It was last heard at 5 h and may have run until its limit.
    assert books.estimated_h == pytest.approx(9 + 1)


def test_a_vanished_session_is_taken_to_have_run_until_the_next_began_or_its_limit() -> None:
    for back_h, tail_h in [(2.0, 1.0), (20.0, 8.0)]:
        books = Books()
        books.hear(h(1), 1)
        books.hear(h(back_h + 0.5), 0.5)
        assert (books.used_h, books.estimated_h) == (pytest.approx(1.5), pytest.approx(tail_h))


def test_a_session_that_restarts_at_once_leaves_nothing_to_estimate() -> None:
    books = Books()
    books.hear(h(1), 1)
    books.hear(h(1.05), 0.02)
    assert (books.used_h, books.estimated_h) == (pytest.approx(1.02), 0)


def test_silence_is_estimated_until_the_limit_and_never_for_whom_nobody_ends() -> None:
    run = Run(started_at=MONDAY, counted_s=3600)

    def until(
        at_h: float, limit_s: float | None = LIMIT_S, shutdown_s: float | None = 8.5 * 3600
    ) -> datetime | None:
        return vanished_until(run, until=h(at_h), limit_s=limit_s, shutdown_s=shutdown_s, silence_s=137)

    assert until(1.03) is None
    assert until(3) == h(3)
    assert until(50) == h(9)
    assert until(50, limit_s=None) is None
    assert until(50, shutdown_s=3600) is None  # it was heard until its own agent was to end it
    assert overdue_s(60, missing=2) == 137


# -- any order of things ----------------------------------------------------------------------------

fates = st.sampled_from(["sent", "lost", "lost", "doubled", "late", "silent"])


@given(
    lengths=st.lists(st.floats(0.2, 4), min_size=1, max_size=4),
    pauses=st.lists(st.floats(0.06, 30), min_size=5, max_size=5),
    choices=st.lists(fates, min_size=1, max_size=60),
    delay_s=st.floats(61, 500),
    wrong_s=st.floats(-80_000, 80_000),
    set_by_s=st.floats(-3600, 3600),
)
def test_any_losses_delays_and_clocks_end_at_the_truth_where_each_session_has_its_last_word(
    lengths: list[float],
    pauses: list[float],
    choices: list[str],
    delay_s: float,
    wrong_s: float,
    set_by_s: float,
) -> None:
    """Posts each minute; those that arrive late are overtaken by others. The agent's clock is wrong, and is set once."""
    books = Books()
    truth_h, number, now = 0.0, 0, MONDAY
    for length, pause in zip(lengths, pauses, strict=False):
        now += timedelta(hours=pause)
        minutes = int(length * 60)
        arrivals: list[tuple[datetime, float | None, datetime]] = []
        for minute in range(1, minutes + 1):
            fate = choices[number % len(choices)] if minute < minutes else "sent"
            number += 1
            at = now + timedelta(minutes=minute)
            clock = at + timedelta(seconds=wrong_s + (set_by_s if minute > minutes / 2 else 0))
            runtime_h = None if fate == "silent" else minute / 60
            if fate != "lost":
                arrivals.append((at + timedelta(seconds=delay_s if fate == "late" else 0), runtime_h, clock))
            if fate == "doubled":
                arrivals.append((at + timedelta(seconds=1), runtime_h, clock))
        end = now + timedelta(minutes=minutes)
        # Nothing but the last word itself is under way when the next session's first report arrives.
        for at, runtime_h, clock in sorted(arrivals, key=lambda arrival: arrival[0]):
            books.hear(min(at, end + timedelta(minutes=2)), runtime_h, sent_at=clock)
        truth_h += minutes / 60
        now = end
    assert abs(books.used_h - truth_h) * 3600 < 60


@given(
    lengths=st.lists(st.floats(0.2, 4), min_size=1, max_size=4),
    pauses=st.lists(st.floats(0.06, 30), min_size=6, max_size=6),
    heard=st.lists(st.integers(0, 100), min_size=6, max_size=6),
)
def test_the_truth_lies_between_what_is_proven_and_what_is_estimated_beside_it(
    lengths: list[float], pauses: list[float], heard: list[int]
) -> None:
    """Sessions that end without a word: of each, only a part of its reports arrives."""
    books = Books()
    truth_h, now = 0.0, MONDAY
    for length, pause, percent in zip(lengths, pauses, heard, strict=False):
        now += timedelta(hours=pause)
        minutes = int(length * 60)
        for minute in range(1, max(2, minutes * percent // 100)):
            books.hear(now + timedelta(minutes=minute), minute / 60)
        now += timedelta(minutes=minutes)
        truth_h += minutes / 60
        proven_now_h, session = books.used_h, books.session
    books.hear(now + timedelta(hours=1), 0.0001)
    assert books.used_h <= truth_h + 0.001
    unheard_h = overdue_s(60, missing=2) / 3600 * len(lengths)
    assert truth_h <= books.used_h + books.estimated_h + unheard_h
    assert proven_now_h <= books.used_h
    assert session.counted_s <= 4 * 3600


@given(begin_h=st.floats(0, 400), length_h=st.floats(0, 400))
def test_pieces_join_to_the_whole_and_none_lies_across_a_reset(begin_h: float, length_h: float) -> None:
    cut = pieces(h(begin_h), h(begin_h + length_h), RULE)
    assert all(week <= begin < end <= week_end(week, RULE) for week, begin, end in cut)
    assert [begin for _, begin, _ in cut[1:]] == [end for _, _, end in cut[:-1]]
    assert sum((end - begin).total_seconds() for _, begin, end in cut) == pytest.approx(
        3600 * length_h, abs=1e-5
    )


@given(begin_h=st.floats(-400, 400), length_h=st.floats(0, 30))
def test_quarters_join_to_the_whole(begin_h: float, length_h: float) -> None:
    start, end = h(begin_h), h(begin_h + length_h)
    cut = quarters(start, end)
    assert sum(seconds for _, seconds in cut) == pytest.approx((end - start).total_seconds())
    assert all(at.minute % 15 == at.second == at.microsecond == 0 for at, _ in cut)
    assert all(0 < seconds <= QUARTER_S for _, seconds in cut)
    assert len({at for at, _ in cut}) == len(cut)
