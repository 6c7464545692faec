"""The verdict: is an instance idle, since when, and when is hibernation due? Pure, so that it can be replayed.

Idle is every GPU below the threshold, and nothing that holds the instance awake. What is not known counts as activity:
no reading, a reading that is too old, one without a figure. The window is real time by the server's clock. It starts
at the first idle reading of an unbroken stretch, or when the last thing that held the instance awake ended, whichever
is later; readings that are too far apart break the stretch, because nobody knows what happened between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from core.reasons import Reason, Value
from hibernation.policy import Policy
from hibernation.reasons import because
from hibernation.schedule_times import awake_window, last_sleep

LOOK_S = 300.0
"""A verdict is looked at again after this long even if nothing seems to be due."""

UNKNOWN = frozenset({"awake_no_reading", "awake_stale", "awake_gpu_unknown", "awake_signal_unknown"})
"""Codes of verdicts that say active only because something is not known."""

KEPT = ("gpus", "cpu_util", "net_bytes_per_s", "sessions")


@dataclass(frozen=True)
class Reading:
    """One sample, by the server's clock. gpu_util: the highest of any GPU in percent, None: unknown.

    more: gpus [{util, mem_used_bytes, mem_total_bytes}], cpu_util, net_bytes_per_s, sessions {ssh, jupyter}, as stored.
    """

    at: datetime
    gpu_util: float | None
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def util(self) -> float | None:
        """The highest utilisation of any GPU; None where that of one of them is unknown."""
        utils = [self.gpu_util, *(_number(gpu.get("util")) for gpu in self._gpus())]
        return None if None in utils else max(util for util in utils if util is not None)

    def signal(self, name: str) -> float | None:
        """The figure for a signal of the policy; None: unknown."""
        if name == "vram_percent":
            return self._vram_percent()
        if name == "cpu_percent":
            return _number(self.more.get("cpu_util"))
        if name == "net_bytes_per_s":
            return _number(self.more.get("net_bytes_per_s"))
        sessions = self.more.get("sessions")
        return _number(sessions.get(name.removesuffix("_sessions"))) if isinstance(sessions, dict) else None

    def to_json(self) -> dict[str, Any]:
        kept = {key: self.more[key] for key in KEPT if key in self.more}
        return {"at": self.at.isoformat(), "gpu_util": self.gpu_util, **kept}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Reading:
        more = {key: body[key] for key in KEPT if key in body}
        return cls(datetime.fromisoformat(body["at"]), body["gpu_util"], more)

    def _gpus(self) -> list[Mapping[str, Any]]:
        gpus = self.more.get("gpus")
        return [gpu for gpu in gpus if isinstance(gpu, dict)] if isinstance(gpus, list) else []

    def _vram_percent(self) -> float | None:
        shares = []
        for gpu in self._gpus():
            used, total = _number(gpu.get("mem_used_bytes")), _number(gpu.get("mem_total_bytes"))
            if used is None or not total:
                return None
            shares.append(100 * used / total)
        return max(shares, default=None)


@dataclass(frozen=True)
class Facts:
    """What holds an instance awake besides its readings, and the idle stretch that is known already.

    work: what runs or waits on it, in words. last_active_at: the last activity that was seen, such as the end of a job.
    idle: an unbroken stretch of idle readings that earlier verdicts have seen, from and until; the readings that are
    given go on from there.
    """

    awake_since: datetime | None = None
    keep_awake_until: datetime | None = None
    work: tuple[str, ...] = ()
    last_active_at: datetime | None = None
    idle: tuple[datetime, datetime] | None = None

    def to_json(self) -> dict[str, Any]:
        def text(at: datetime | None) -> str | None:
            return at.isoformat() if at else None

        return {
            "awake_since": text(self.awake_since),
            "keep_awake_until": text(self.keep_awake_until),
            "work": list(self.work),
            "last_active_at": text(self.last_active_at),
            "idle": [at.isoformat() for at in self.idle] if self.idle else None,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Facts:
        def moment(text: str | None) -> datetime | None:
            return datetime.fromisoformat(text) if text else None

        idle = [datetime.fromisoformat(text) for text in body.get("idle") or ()]
        return cls(
            awake_since=moment(body.get("awake_since")),
            keep_awake_until=moment(body.get("keep_awake_until")),
            work=tuple(body.get("work", ())),
            last_active_at=moment(body.get("last_active_at")),
            idle=(idle[0], idle[1]) if idle else None,
        )


@dataclass(frozen=True)
class Verdict:
    """since, due_at: of an idle one: the start of its window, and when hibernation is due. samples: what it rests on.

    active_at: of an active one, when the activity was seen; None where it is active for lack of knowledge or by order.
    look_again_at: when it may change by itself, without a new reading.
    """

    idle: bool
    reason: Reason
    look_again_at: datetime
    since: datetime | None = None
    due_at: datetime | None = None
    active_at: datetime | None = None
    samples: tuple[Reading, ...] = ()

    def due(self, now: datetime) -> bool:
        return self.due_at is not None and self.due_at <= now


def verdict(policy: Policy, samples: Sequence[Reading], facts: Facts, now: datetime) -> Verdict:
    """Judge an instance that is awake. samples: oldest first."""
    if facts.awake_since is not None:
        samples = [reading for reading in samples if reading.at >= facts.awake_since]
    held = _held(policy, facts, now)
    if held is not None:
        return held
    if not samples:
        return _active(because("awake_no_reading"), now)
    newest = samples[-1]
    age = now - newest.at
    if age > policy.silence:
        at, age_s, limit_s = _clock(newest.at, now), age.total_seconds(), policy.silence.total_seconds()
        return _active(because("awake_stale", at=at, age_s=age_s, limit_s=limit_s), now, samples=(newest,))
    stale_at = _stale_at(policy, newest)
    busy = busy_reason(policy, newest)
    if busy is not None:
        seen = None if busy.code in UNKNOWN else newest.at
        return _active(busy, now, stale_at, active_at=seen, samples=(newest,))
    minimum = _minimum(policy, facts)
    if minimum is not None and minimum > now:
        reason = because(
            "awake_minimum", minutes=policy.minimum_awake_minutes, until=_clock(minimum, now, zone=True)
        )
        return _active(reason, now, stale_at, minimum, samples=(newest,))
    return _idle(policy, samples, facts, now)


def busy_reason(policy: Policy, reading: Reading) -> Reason | None:
    """Why a reading is not idle; None where it is."""
    util = reading.util
    if util is None:
        return because("awake_gpu_unknown")
    if util >= policy.gpu_usage_threshold:
        return because("awake_gpu_busy", util=util, threshold=policy.gpu_usage_threshold)
    for name, threshold in policy.signals.named():
        value = reading.signal(name)
        if value is None:
            return because("awake_signal_unknown", signal=name)
        if value > threshold:
            return because("awake_signal", signal=name, value=value, threshold=threshold)
    return None


def _held(policy: Policy, facts: Facts, now: datetime) -> Verdict | None:
    if not policy.enabled:
        return _active(because("awake_switched_off"), now)
    if facts.work:
        return _active(because("awake_working", work=", ".join(facts.work)), now, active_at=now)
    until = facts.keep_awake_until
    if until is not None and until > now:
        return _active(because("awake_held", until=_clock(until, now, zone=True)), now, until)
    window = awake_window(policy.schedule, now) if policy.scheduled else None
    if window is not None:
        return _active(because("awake_window", until=_clock(window[1], now, zone=True)), now, window[1])
    return None


def _idle(policy: Policy, samples: Sequence[Reading], facts: Facts, now: datetime) -> Verdict:
    first = _first_of_stretch(policy, samples)
    start = samples[first].at
    if first == 0 and facts.idle is not None and start - facts.idle[1] <= policy.silence:
        start = min(start, facts.idle[0])
    since = max([start, *_ends_of_holds(policy, facts, now)])
    due_at = since + policy.pause
    util = samples[-1].util or 0.0
    figures: dict[str, Value] = {
        "util": util,
        "threshold": policy.gpu_usage_threshold,
        "since": _clock(since, now),
    }
    if now < due_at:
        reason = because("idle_counting", **figures, due=_clock(due_at, now, zone=True))
    else:
        reason = because("idle_over", **figures, minutes=policy.pause_after_idle_minutes)
    return Verdict(
        idle=True,
        reason=reason,
        look_again_at=_look_again(now, due_at, _stale_at(policy, samples[-1])),
        since=since,
        due_at=due_at,
        samples=tuple(samples[first:]),
    )


def _first_of_stretch(policy: Policy, samples: Sequence[Reading]) -> int:
    """Where the unbroken run of idle readings that ends with the newest one begins."""
    first = len(samples) - 1
    while first > 0:
        before = samples[first - 1]
        if samples[first].at - before.at > policy.silence or busy_reason(policy, before) is not None:
            break
        first -= 1
    return first


def _ends_of_holds(policy: Policy, facts: Facts, now: datetime) -> Iterator[datetime]:
    """When each thing that used to hold it awake ended. The window starts anew then: nobody is put to sleep in the
    second in which a job ends or a hold runs out."""
    slept = last_sleep(policy.schedule, now) if policy.scheduled else None
    for end in (facts.last_active_at, facts.keep_awake_until, _minimum(policy, facts), slept):
        if end is not None and end <= now:
            yield end


def _stale_at(policy: Policy, newest: Reading) -> datetime:
    """The first moment at which the reading is too old."""
    return newest.at + policy.silence + timedelta.resolution


def _minimum(policy: Policy, facts: Facts) -> datetime | None:
    if facts.awake_since is None:
        return None
    return facts.awake_since + timedelta(minutes=policy.minimum_awake_minutes)


def _active(
    reason: Reason,
    now: datetime,
    *again: datetime,
    active_at: datetime | None = None,
    samples: tuple[Reading, ...] = (),
) -> Verdict:
    return Verdict(
        idle=False,
        reason=reason,
        look_again_at=_look_again(now, *again),
        active_at=active_at,
        samples=samples,
    )


def _look_again(now: datetime, *candidates: datetime) -> datetime:
    return min([at for at in candidates if at > now] + [now + timedelta(seconds=LOOK_S)])


def _clock(at: datetime, now: datetime, *, zone: bool = False) -> str:
    """A moment in UTC as a person reads it: the date only where it is another day. zone: say that it is UTC."""
    shape = "%H:%M:%S" if at.date() == now.date() else "%Y-%m-%d %H:%M:%S"
    return f"{at:{shape}} UTC" if zone else f"{at:{shape}}"


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)
