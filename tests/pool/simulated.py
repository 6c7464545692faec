"""A week of notebook sessions, with what their machines post, and what of that arrives, when, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random

POST_S = 60.0


@dataclass(frozen=True)
class Sent:
    """A status post as it arrives. number: of its session. last: the agent says that it ends."""

    at: datetime
    worker: str
    number: int
    runtime_h: float
    clock: datetime
    last: bool = False


@dataclass
class Run:
    """A session as it was. end: the true one. joins: it begins with an enrolment; else its agent goes on with its
    identity. says: its agent reports its end; else the machine is killed without a word."""

    worker: str
    number: int
    begin: datetime
    end: datetime
    joins: bool
    says: bool
    posts: list[Sent] = field(default_factory=list)

    def within_h(self, since: datetime, until: datetime) -> float:
        return max(0.0, (min(self.end, until) - max(self.begin, since)).total_seconds()) / 3600


def week_of(
    worker: str, *, start: datetime, days: float, longest_h: float, hours: float, may_vanish: bool, seed: str
) -> list[Run]:
    """One worker's sessions from shortly before `start` to `days` after it, about `hours` in all; the first and the last
    run across those moments."""
    random = Random(seed)
    runs: list[Run] = []
    now = start - timedelta(hours=random.uniform(0.5, longest_h - 0.5))
    left_h = hours
    end = start + timedelta(days=days)
    while left_h > 0.3 and now < end:
        length_h = min(left_h, random.uniform(0.3, longest_h))
        reboots = not may_vanish and len(runs) == 1 and left_h - length_h > 1
        says = not reboots and (not may_vanish or random.random() < 0.5)
        # A machine that reboots keeps its agent's identity; where nobody said that it ends, a new one comes instead.
        joins = not runs or (not runs[-1].says and may_vanish) or random.random() < 0.6
        run = Run(worker, len(runs), now, now + timedelta(hours=length_h), joins, says)
        run.posts = list(_arriving(run, random))
        runs.append(run)
        left_h -= length_h
        spare_h = (end - run.end).total_seconds() / 3600 - left_h / 2
        if reboots:
            now = run.end + timedelta(seconds=random.uniform(40, 90))
            continue
        # Not before the last word of this one has arrived: an enrolment takes no report of an older epoch.
        now = run.end + timedelta(hours=random.uniform(0.1, max(0.2, spare_h / 2)))
    begin = end - timedelta(hours=random.uniform(0.5, 2.5))
    if runs[-1].end < begin - timedelta(minutes=10):
        run = Run(worker, len(runs), begin, end + timedelta(hours=1), joins=True, says=True)
        run.posts = list(_arriving(run, random))
        runs.append(run)
    return runs


def _arriving(run: Run, random: Random) -> Iterator[Sent]:
    """30 % are lost, and now and then all of an hour or two; others come twice, or late and so out of order."""
    wrong = timedelta(seconds=random.uniform(-20_000, 20_000))
    set_after_s = random.uniform(0, 3600 * 12)
    length_s = (run.end - run.begin).total_seconds()
    out_from_s = random.uniform(0, length_s * 2)
    out_to_s = out_from_s + random.uniform(0, 2.5) * 3600
    said_s = random.uniform(5, POST_S)
    while said_s < length_s:
        at = run.begin + timedelta(seconds=said_s)
        clock = at + wrong + timedelta(seconds=900 if said_s > set_after_s else 0)
        fate = random.random()
        if fate > 0.3 and not out_from_s < said_s < out_to_s:
            delay_s = random.uniform(60, 300) if fate > 0.9 else random.uniform(0, 0.4)
            # What arrives after the end is no report of a machine that runs.
            arrives = at + timedelta(seconds=min(delay_s, max(0.0, length_s - said_s)))
            yield Sent(arrives, run.worker, run.number, said_s / 3600, clock)
            if fate > 0.8:
                twice = arrives + timedelta(seconds=random.uniform(0, 20))
                yield Sent(twice, run.worker, run.number, said_s / 3600, clock)
        said_s += POST_S * random.uniform(0.9, 1.1)
    if not run.says:
        heard_s = length_s - random.uniform(1, 25)
        at = run.begin + timedelta(seconds=heard_s)
        yield Sent(at, run.worker, run.number, heard_s / 3600, at + wrong)
    else:
        at = run.end + timedelta(seconds=random.uniform(0, 1))
        yield Sent(at, run.worker, run.number, length_s / 3600, run.end + wrong, last=True)
