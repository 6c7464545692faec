"""How a machine's session grows from report to report, and what of that counts. Pure.

Reports are lost, doubled, late and out of order; an agent's clock may be wrong. So a session is placed on the server's
clock: a report that arrives at `at` and says "I have run for r" cannot be of a session that began after `at - r`, and
the smallest such moment is where the session is taken to have begun. Each second from there on counts once, as soon as
any report proves it; what no report proves is estimated, and taken back when a report says how it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pool.weeks import WeekRule, split

GAP_S = 3600.0
"""A session that grew by more than this from one report to the next was not heard for that long. Nothing is later."""

ARRIVAL_SLACK_S = 5.0
"""How much later than another a report may arrive, without looking as if its session had begun later."""

DELAY_S = 600.0
"""How late the first report of a session may have been: by so much a later one may move its beginning back."""

CLOCK_SLACK_S = 10.0
"""Two reports whose session began within this by the agent's own clock are of one session."""

CLOCK_WRONG_S = 86_400.0
"""An agent's clock that is further off tells nothing: without a battery it starts at the same moment with each boot."""

GRACE_S = 2.0
GRACE_PART = 0.25
"""A post is overdue when its interval, a quarter more (agents spread their posts) and two seconds are over."""

LIMIT_SLACK_S = 1800.0
"""By so much a session may be longer than its provider allows before its first report is not believed."""

MERGE_S = 120.0
"""A session that is proven to have run for so long after another had begun, as it seemed, was never over."""

EARLIER_KEPT = 4
"""Sessions of which reports may still arrive."""


def overdue_s(check_interval_s: float, *, missing: int) -> float:
    """How long after the last post `missing` posts in a row count as missing. After two a machine has vanished."""
    return (missing + GRACE_PART) * check_interval_s + GRACE_S


SILENCE_S = overdue_s(60.0, missing=2)


Stretch = tuple[datetime, datetime]
Signed = tuple[tuple[Stretch, int], ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A session as far as it is placed in time. counted_s: how much of it reports have proven, and is counted.

    clock_started_at: when it began by the agent's own clock; None where it does not say, or is far off.
    estimated_until: from the end of what is proven until then it counts by estimate; None: nothing does.
    """

    started_at: datetime
    counted_s: float = 0.0
    clock_started_at: datetime | None = None
    estimated_until: datetime | None = None

    @property
    def proven_until(self) -> datetime:
        return self.started_at + timedelta(seconds=self.counted_s)

    @property
    def estimate(self) -> Stretch | None:
        end = self.estimated_until
        return (self.proven_until, end) if end is not None and end > self.proven_until else None


@dataclass(frozen=True, kw_only=True)
class Session(Run):
    """What is known of a machine's present session, and of those before it whose reports may still arrive.

    runtime_s: as last reported; by the server's clock where the last report did not say. ended_at: when its end became
    known, though a report may tell that it goes on.
    """

    runtime_s: float = 0.0
    last_post_at: datetime | None = None
    ended_at: datetime | None = None
    earlier: tuple[Run, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What one report adds. used: proven seconds by week. proven: the same, as stretches of the server's time.

    proven, estimates: what is added (+1) to these hours, or taken back from them (-1). gap_s: how long nothing had been
    heard, where that was too long. restarted: the report is of a new session of the machine. late: it is older than
    what is known of the machine, and says nothing of how it is now.
    """

    session: Session
    used: tuple[tuple[datetime, float], ...] = ()
    proven: Signed = ()
    estimates: Signed = ()
    gap_s: float = 0.0
    restarted: bool = False
    late: bool = False


def growth(
    before: Session,
    *,
    runtime_s: float | None,
    at: datetime,
    rule: WeekRule,
    sent_at: datetime | None = None,
    limit_s: float | None = None,
    silence_s: float = SILENCE_S,
) -> Growth:
    """What the session grew by, given that at `at` its machine reported that it had run for runtime_s (None: not said).

    sent_at: when by the agent's own clock. limit_s: the provider ends a session then; None: nobody does. silence_s: a
    machine that was not heard for longer has vanished; if a new session then begins, the old one is taken to have run
    on until then, or until its limit.
    """
    if runtime_s is None:
        return _alive(before, at, limit_s=limit_s, silence_s=silence_s)
    report = _Report(at=at, runtime_s=runtime_s, began=at - timedelta(seconds=runtime_s), clock=None)
    if sent_at is not None and abs((at - sent_at).total_seconds()) < CLOCK_WRONG_S:
        report = replace(report, clock=sent_at - timedelta(seconds=runtime_s))
    whose = _whose(before, report)
    if (whose is NEW or (whose is before and before.counted_s == 0)) and is_too_long(runtime_s, limit_s):
        whose = None
    if whose is None:
        # It contradicts the server's own clock, or what its provider allows: an uptime of the host, say. That the
        # machine runs is all that can be believed.
        return _alive(before, at, limit_s=limit_s, silence_s=silence_s)
    if whose is NEW:
        return _new(before, report, rule, limit_s=limit_s, silence_s=silence_s)
    if whose is not before:
        begun_again_s = (report.at - before.started_at).total_seconds()
        covered_s = (whose.started_at - before.started_at).total_seconds() + report.runtime_s
        if MERGE_S < covered_s <= begun_again_s + ARRIVAL_SLACK_S:
            return _merged(before, whose, report, rule)
        return _of_earlier(before, whose, report, rule)
    return _same(before, report, rule)


def is_too_long(runtime_s: float, limit_s: float | None) -> bool:
    """Whether no session of that provider can have run for so long. Only asked of one that nobody has heard before: of
    one that is known the server's own clock tells."""
    return limit_s is not None and runtime_s > limit_s + LIMIT_SLACK_S


def vanished_until(
    run: Run, *, until: datetime, limit_s: float | None, shutdown_s: float | None, silence_s: float
) -> datetime | None:
    """Until when a session that fell silent counts by estimate, given that it did not run longer than `until`.

    Never beyond the provider's limit. None where nothing is to be estimated: it was heard just before, nobody counts
    its hours (limit_s is None), or it was heard until its own agent was to end it.
    """
    proven = max(run.proven_until, run.estimated_until or run.proven_until)
    if limit_s is None:
        return None
    silence = timedelta(seconds=silence_s)
    if shutdown_s is not None and proven >= run.started_at + timedelta(seconds=shutdown_s) - silence:
        return None
    end = min(until, run.started_at + timedelta(seconds=limit_s))
    return end if end - proven > silence else None


# -- whose report it is -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Report:
    """began: its session did not begin later, by the server's clock. clock: when it did by the agent's."""

    at: datetime
    runtime_s: float
    began: datetime
    clock: datetime | None


NEW = Run(started_at=datetime.min.replace(tzinfo=UTC))
"""Stands for a session of which nothing is known yet."""

SLACK = timedelta(seconds=ARRIVAL_SLACK_S)


def _whose(before: Session, report: _Report) -> Run | None:
    """The run that the report is of: `before` itself, an earlier one, NEW; None where no run explains it."""
    heard = before.last_post_at
    if heard is None and before.counted_s == 0:
        return before
    late_s = (report.began - before.started_at).total_seconds()
    if late_s <= GAP_S and _same_clock(before, report):
        return before
    for run in before.earlier:
        if _same_clock(run, report):
            return run
    reported = before.counted_s > 0
    # It was seen running until then, and one machine has one session at a time.
    seen_until = before.proven_until if reported else (heard or before.started_at)
    if report.began > seen_until + SLACK or (not reported and report.began > before.started_at + SLACK):
        return NEW
    if report.began >= before.started_at - SLACK:
        return before if late_s <= GAP_S else None
    if before.earlier and report.began < before.earlier[-1].proven_until - SLACK:
        begun = [run for run in before.earlier if run.started_at <= report.began + SLACK]
        return begun[-1] if begun else before.earlier[0]
    return before if heard is None or not reported or -late_s <= DELAY_S else None


def _same_clock(run: Run, report: _Report) -> bool:
    if run.clock_started_at is None or report.clock is None:
        return False
    return abs((run.clock_started_at - report.clock).total_seconds()) <= CLOCK_SLACK_S


# -- what it adds -----------------------------------------------------------------------------------


def _same(before: Session, report: _Report, rule: WeekRule) -> Growth:
    heard = _later(before.last_post_at, report.at)
    if report.runtime_s < before.counted_s:
        return Growth(session=replace(before, last_post_at=heard), late=True)
    first = before.last_post_at is None and before.counted_s == 0
    started_at = report.began if first else min(before.started_at, report.began)
    proven = (
        started_at + timedelta(seconds=before.counted_s),
        started_at + timedelta(seconds=report.runtime_s),
    )
    fresh_s = report.runtime_s - before.counted_s
    after = replace(
        before,
        started_at=started_at,
        counted_s=report.runtime_s,
        runtime_s=report.runtime_s,
        clock_started_at=report.clock or before.clock_started_at,
        estimated_until=None,
        last_post_at=heard,
        ended_at=None,
    )
    return Growth(
        session=after,
        used=split(*proven, rule),
        proven=((proven, 1),),
        estimates=_rebooked(before.estimate, None),
        gap_s=fresh_s if before.last_post_at is not None and fresh_s > GAP_S else 0.0,
    )


def _new(
    before: Session, report: _Report, rule: WeekRule, *, limit_s: float | None, silence_s: float
) -> Growth:
    """The one before has ended, at the latest when this one began."""
    closed = _closed(before, at=report.began, limit_s=limit_s, silence_s=silence_s)
    proven = (report.began, report.at)
    after = Session(
        started_at=report.began,
        counted_s=report.runtime_s,
        runtime_s=report.runtime_s,
        clock_started_at=report.clock,
        last_post_at=_later(before.last_post_at, report.at),
        earlier=_kept(before, closed),
    )
    return Growth(
        session=after,
        used=split(*proven, rule),
        proven=((proven, 1),),
        estimates=_rebooked(before.estimate, closed.estimate),
        restarted=before.last_post_at is not None,
    )


def _of_earlier(before: Session, run: Run, report: _Report, rule: WeekRule) -> Growth:
    """A report that arrives when its session is over: it may still prove some of it."""
    proven: Stretch | None = None
    grown = run
    end = min(run.started_at + timedelta(seconds=report.runtime_s), before.started_at)
    if end > run.proven_until:
        proven = (run.proven_until, end)
        grown = replace(run, counted_s=(end - run.started_at).total_seconds())
    return Growth(
        session=replace(
            before,
            last_post_at=_later(before.last_post_at, report.at),
            earlier=tuple(grown if one is run else one for one in before.earlier),
        ),
        used=split(*proven, rule) if proven else (),
        proven=((proven, 1),) if proven else (),
        estimates=_rebooked(run.estimate, grown.estimate) if proven else (),
        late=True,
    )


def _merged(before: Session, run: Run, report: _Report, rule: WeekRule) -> Growth:
    """`run` went on all the time: what looked like sessions after it were reports of it that had been late."""
    mistaken = [one for one in (*before.earlier, before) if one.started_at > run.started_at]
    started_at = min(run.started_at, report.began)
    proven: Signed = (
        *(((one.started_at, one.proven_until), -1) for one in mistaken if one.counted_s > 0),
        ((run.proven_until, started_at + timedelta(seconds=report.runtime_s)), 1),
    )
    net: dict[datetime, float] = {}
    for stretch, sign in proven:
        for week, seconds in split(*stretch, rule):
            net[week] = net.get(week, 0.0) + sign * seconds
    after = Session(
        started_at=started_at,
        counted_s=report.runtime_s,
        runtime_s=report.runtime_s,
        clock_started_at=report.clock,
        last_post_at=_later(before.last_post_at, report.at),
        earlier=tuple(one for one in before.earlier if one.started_at < run.started_at),
    )
    estimates = tuple(change for one in (run, *mistaken) for change in _rebooked(one.estimate, None))
    return Growth(session=after, used=tuple(sorted(net.items())), proven=proven, estimates=estimates)


def _alive(before: Session, at: datetime, *, limit_s: float | None, silence_s: float) -> Growth:
    """It runs, and how long it has run is not known: the server's clock counts, since it was first heard."""
    heard = before.last_post_at
    silent_s = (at - heard).total_seconds() if heard is not None else 0.0
    too_old = limit_s is not None and (at - before.started_at).total_seconds() > limit_s
    if before.ended_at is not None or (silent_s > silence_s and too_old):
        closed = _closed(before, at=at, limit_s=limit_s, silence_s=silence_s)
        after = Session(started_at=at, last_post_at=at, earlier=_kept(before, closed))
        booked = _rebooked(before.estimate, closed.estimate)
        return Growth(session=after, estimates=booked, restarted=True)
    after = replace(
        before,
        runtime_s=max(0.0, (at - before.started_at).total_seconds()),
        estimated_until=_later(before.estimated_until, at),
        last_post_at=_later(heard, at),
    )
    gap = heard is not None and silent_s > GAP_S
    return Growth(
        session=after,
        estimates=_rebooked(before.estimate, after.estimate),
        gap_s=silent_s if gap else 0.0,
    )


def _closed(before: Session, *, at: datetime, limit_s: float | None, silence_s: float) -> Run:
    """`before` as it stays in the books, now that it is known to have ended by `at`."""
    at = min(at, before.ended_at or at)
    tail = vanished_until(before, until=at, limit_s=limit_s, shutdown_s=None, silence_s=silence_s)
    end = tail or before.estimated_until
    return Run(
        started_at=before.started_at,
        counted_s=before.counted_s,
        clock_started_at=before.clock_started_at,
        estimated_until=min(end, at) if end is not None else None,
    )


def _kept(before: Session, closed: Run) -> tuple[Run, ...]:
    seen = before.counted_s > 0 or closed.estimate is not None
    return (*before.earlier, closed)[-EARLIER_KEPT:] if seen else before.earlier


def _rebooked(old: Stretch | None, new: Stretch | None) -> Signed:
    """What makes the books say `new` where they said `old`."""
    if old == new:
        return ()
    if old is not None and new is not None and old[0] == new[0] and new[1] > old[1]:
        return (((old[1], new[1]), 1),)
    taken = () if old is None else ((old, -1),)
    return taken if new is None else (*taken, (new, 1))


def _later(heard: datetime | None, at: datetime) -> datetime:
    return at if heard is None else max(heard, at)
