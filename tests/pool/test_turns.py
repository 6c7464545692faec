"""Whose job is next: priority, then fairness between tenants, then age."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pool.select import Need
from pool.turns import LONG_AGO, Line, Turns

NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def line(tenant: int, key: str, *, priority: int = 0, since: float = 0) -> Line:
    need = Need(tenant_id=tenant, provider=key)
    return Line(key=f"{tenant}/{priority}/{key}", priority=priority, need=need, first_at=at(since))


def order(jobs: dict[Line, list[float]], *, turns: Turns) -> list[int]:
    """The tenants in the order in which all jobs are given; jobs: line -> minutes at which its jobs were queued."""
    left = {one.key: list(minutes) for one, minutes in jobs.items()}
    tenants = []
    while (found := turns.next()) is not None:
        left[found.key].pop(0)
        tenants.append(found.need.tenant_id)
        waiting = left[found.key]
        turns.given(found, at=at(1_000 + len(tenants)), next_at=at(waiting[0]) if waiting else None)
    return tenants


def test_a_thousand_jobs_of_one_do_not_starve_the_one_job_of_another() -> None:
    many, one = line(1, "a"), line(2, "a", since=5_000)
    turns = Turns([many, one], running={}, served={})
    given_to = order({many: [*range(1_000)], one: [5_000]}, turns=turns)
    assert given_to.index(2) == 1, "the oldest job is first, the other tenant is next"
    assert Counter(given_to) == {1: 1_000, 2: 1}


def test_fewest_running_comes_first_then_who_was_served_longest_ago_then_the_oldest_job() -> None:
    def first(running: dict[int, int], served: dict[int, datetime]) -> int:
        turns = Turns([line(1, "a", since=0), line(2, "a", since=9)], running=running, served=served)
        found = turns.next()
        assert found is not None
        return found.need.tenant_id

    assert first({1: 3, 2: 2}, {2: NOON}) == 2
    assert first({1: 2, 2: 2}, {1: at(2), 2: at(1)}) == 2
    assert first({1: 2, 2: 2}, {1: at(1)}) == 2, "who was never served was served longest ago"
    assert first({}, {}) == 1


def test_priority_is_the_whole_teams() -> None:
    busy, idle = line(1, "a", priority=5), line(2, "a")
    assert order({busy: [0, 0, 0], idle: [0]}, turns=Turns([busy, idle], running={1: 90}, served={})) == [
        1,
        1,
        1,
        2,
    ]


def test_a_line_that_is_over_holds_up_nobody() -> None:
    turns = Turns(
        [line(1, "huge"), line(1, "small", since=5), line(2, "small", since=9)], running={2: 9}, served={}
    )
    found = turns.next()
    assert found is not None and found.key == "1/0/huge"
    turns.over(found)
    found = turns.next()
    assert found is not None and found.key == "1/0/small"


queues = st.dictionaries(
    st.tuples(st.integers(1, 3), st.integers(0, 1), st.sampled_from("ab")),
    st.lists(st.integers(0, 50), min_size=1, max_size=4).map(sorted),
    max_size=8,
)


@given(queue=queues, running=st.dictionaries(st.integers(1, 3), st.integers(0, 3)), data=st.data())
def test_the_turns_are_those_that_looking_at_every_job_would_give(
    queue: Any, running: Any, data: Any
) -> None:
    jobs = {line(t, k, priority=p, since=minutes[0]): list(minutes) for (t, p, k), minutes in queue.items()}
    turns = Turns(list(jobs), running=running, served={})
    now_running, served = Counter(running), dict.fromkeys((1, 2, 3), LONG_AGO)
    steps = 0
    while any(jobs.values()):
        best = min(
            (one for one, minutes in jobs.items() if minutes),
            key=lambda one: (
                -one.priority,
                now_running[one.need.tenant_id],
                served[one.need.tenant_id],
                min(
                    minutes[0]
                    for other, minutes in jobs.items()
                    if minutes
                    and (other.priority, other.need.tenant_id) == (one.priority, one.need.tenant_id)
                ),
                one.need.tenant_id,
                jobs[one][0],
                one.key,
            ),
        )
        found = turns.next()
        assert found is not None and found.key == best.key
        steps += 1
        if data.draw(st.booleans()):
            turns.over(found)
            jobs[best] = []
            continue
        jobs[best].pop(0)
        now_running[best.need.tenant_id] += 1
        served[best.need.tenant_id] = at(1_000 + steps)
        turns.given(found, at=at(1_000 + steps), next_at=at(jobs[best][0]) if jobs[best] else None)
    assert turns.next() is None
