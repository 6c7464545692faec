"""The policy of an instance's sleep: what its JSON may say, and how four levels of it become one. Pure.

A level (instance, the owner's GPU type, the owner, the site) says only what it wants different, as
`{"auto_hibernation": {...}}`. `parse` reads a level or says everything that is wrong with it; `resolve` takes each
field from the innermost level that names it. Fields are named by their path: "schedule.wake_time".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import time, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

from core.errors import Invalid
from core.reasons import Reason
from hibernation.policy_fields import (
    Choice,
    Clock,
    Flag,
    Number,
    Reader,
    Value,
    Weekdays,
    Wrong,
    Zone,
    shown,
)
from hibernation.reasons import because
from hibernation.schedule_times import EVERY_DAY, Times

ROOT = "auto_hibernation"
GRACE_S = 10.0
"""Added to two check intervals before silence counts: posts are jittered and drained in batches."""

PAUSE_AT_MOST_MINUTES = 12 * 60
"""Shorter than an instance may be idle at all (states.INSTANCE), or its window would never end."""

MANUAL, AUTO, SCHEDULED = WAKE_METHODS = ("manual", "auto", "scheduled")

Partial = Mapping[str, Value]
"""What one level says: field path -> value. Fields that it leaves out are inherited."""

READERS: Mapping[str, Reader] = {
    "enabled": Flag(),
    "pause_after_idle_minutes": Number(more_than=0, high=PAUSE_AT_MOST_MINUTES),
    "delete_after_pause_minutes": Number(more_than=0, high=366 * 24 * 60),
    "gpu_usage_threshold": Number(more_than=0, high=100),
    "check_interval_seconds": Number(low=1, high=300),
    "wake_method": Choice(WAKE_METHODS),
    "schedule.wake_time": Clock(),
    "schedule.sleep_time": Clock(),
    "schedule.timezone": Zone(),
    "schedule.weekdays": Weekdays(),
    "minimum_awake_minutes": Number(low=0, high=24 * 60),
    "signals.vram_percent": Number(low=0, high=100, nullable=True),
    "signals.cpu_percent": Number(low=0, high=100, nullable=True),
    "signals.net_bytes_per_s": Number(low=0, high=1e12, nullable=True),
    "signals.ssh_sessions": Number(low=0, high=1_000, whole=True, nullable=True),
    "signals.jupyter_sessions": Number(low=0, high=1_000, whole=True, nullable=True),
    "verify_share": Number(more_than=0, high=1),
}

DEFAULTS: Partial = MappingProxyType(
    {
        **dict.fromkeys(READERS),
        "enabled": True,
        "pause_after_idle_minutes": 3.0,
        "delete_after_pause_minutes": 30.0,
        "gpu_usage_threshold": 5.0,
        "check_interval_seconds": 30.0,
        "wake_method": MANUAL,
        "schedule.timezone": "UTC",
        "schedule.weekdays": EVERY_DAY,
        "minimum_awake_minutes": 10.0,
        "verify_share": 0.02,
    }
)

NOTHING: Partial = MappingProxyType({})
GROUPS = ("schedule", "signals")


@dataclass(frozen=True)
class Signals:
    """Further thresholds; None: off. A reading above one of them is activity, and so is one that lacks the figure."""

    vram_percent: float | None = None
    cpu_percent: float | None = None
    net_bytes_per_s: float | None = None
    ssh_sessions: float | None = None
    jupyter_sessions: float | None = None

    def named(self) -> Iterator[tuple[str, float]]:
        """The signals that are on, with their thresholds."""
        for item in fields(self):
            threshold = getattr(self, item.name)
            if threshold is not None:
                yield item.name, threshold


@dataclass(frozen=True)
class Policy:
    """A policy with every field decided. gpu_usage_threshold is in percent; idle is below it.

    minimum_awake_minutes: how long it stays awake after each start, at least. verify_share: which part of a snapshot's
    blocks is read back before its box may go.
    """

    enabled: bool = True
    pause_after_idle_minutes: float = 3.0
    delete_after_pause_minutes: float = 30.0
    gpu_usage_threshold: float = 5.0
    check_interval_seconds: float = 30.0
    wake_method: str = MANUAL
    schedule: Times = field(default_factory=Times)
    minimum_awake_minutes: float = 10.0
    signals: Signals = field(default_factory=Signals)
    verify_share: float = 0.02

    @property
    def pause(self) -> timedelta:
        return timedelta(minutes=self.pause_after_idle_minutes)

    @property
    def silence(self) -> timedelta:
        """How far apart two readings may be, and how old the last one, before what lies between is unknown."""
        return timedelta(seconds=2 * self.check_interval_seconds + GRACE_S)

    @property
    def scheduled(self) -> bool:
        """Whether its wake and sleep times count."""
        return self.enabled and self.wake_method == SCHEDULED and not self.schedule.empty


class Resolved(NamedTuple):
    """A decided policy, and for each field path the level that it comes from: instance, gpu_type, owner, site, default."""

    policy: Policy
    origins: Mapping[str, str]


class Problem(NamedTuple):
    """What is wrong with one field. path: as in the JSON, from its root."""

    path: str
    reason: Reason


class PolicyInvalid(Invalid):
    """A policy that cannot be taken, with everything that is wrong with it. `fields`: path -> sentences."""

    code = "policy_invalid"

    def __init__(self, problems: list[Problem]) -> None:
        sentences: dict[str, list[str]] = {}
        for path, reason in problems:
            sentences.setdefault(path, []).append(str(reason))
        super().__init__(
            "; ".join(f"{path} {reason}".strip() for path, reason in problems),
            hint="correct what is named and send the whole configuration again; nothing was changed",
            fields=sentences,
        )
        self.problems = problems


def parse(config: object) -> Partial:
    """Read one level's JSON; {} says nothing. Raises PolicyInvalid with a sentence for everything that is wrong.

    `null` switches a signal or a schedule's time off; `"schedule": null` and `"signals": null` all of them.
    """
    problems: list[Problem] = []
    said = dict(_read(config, problems))
    if problems:
        raise PolicyInvalid(problems)
    return said


def resolve(
    *,
    instance: Partial = NOTHING,
    gpu_type: Partial = NOTHING,
    owner: Partial = NOTHING,
    site: Partial = NOTHING,
    defaults: Partial = NOTHING,
) -> Resolved:
    """One policy from all levels: each field from the innermost that names it. `defaults` overlay DEFAULTS."""
    values: dict[str, Any] = dict(DEFAULTS)
    origins = dict.fromkeys(DEFAULTS, "default")
    levels = {"default": defaults, "site": site, "owner": owner, "gpu_type": gpu_type, "instance": instance}
    for name, said in levels.items():
        values.update(said)
        origins.update(dict.fromkeys(said, name))
    return Resolved(_policy(values), origins)


def problems_of(policy: Policy) -> list[Problem]:
    """What no single field shows: fields that contradict each other once the levels are put together."""
    found = []
    window_s, interval_s = policy.pause.total_seconds(), policy.check_interval_seconds
    if window_s < interval_s:
        reason = because("policy_window_too_short", window_s=window_s, interval_s=interval_s)
        found.append(Problem(f"{ROOT}.pause_after_idle_minutes", reason))
    times = policy.schedule
    if policy.wake_method == SCHEDULED and times.empty:
        found.append(Problem(f"{ROOT}.schedule", because("policy_no_times")))
    if times.wake is not None and times.wake == times.sleep:
        found.append(Problem(f"{ROOT}.schedule", because("policy_same_times", at=f"{times.wake:%H:%M}")))
    return found


def to_json(policy: Policy) -> dict[str, Any]:
    """The whole policy as JSON; `parse` reads it back to the same policy."""
    body: dict[str, Any] = {}
    for path, value in _values(policy).items():
        group, _, name = path.rpartition(".")
        target = body.setdefault(group, {}) if group else body
        target[name] = _plain(value)
    return {ROOT: body}


def from_json(config: object) -> Policy:
    """The policy that `to_json` wrote."""
    return resolve(instance=parse(config)).policy


# -- reading ------------------------------------------------------------------------------------------------------


def _read(config: object, problems: list[Problem]) -> Iterator[tuple[str, Value]]:
    if not isinstance(config, dict):
        problems.append(Problem("", because("policy_not_object", found=shown(config))))
        return
    ours = {path.partition(".")[0] for path in READERS}
    for key in config:
        if key != ROOT:
            wrong = (
                because("policy_not_wrapped") if key in ours else because("policy_unknown_key", known=ROOT)
            )
            problems.append(Problem(str(key), wrong))
    if ROOT in config:
        yield from _read_group("", config[ROOT], problems)


def _read_group(group: str, body: object, problems: list[Problem]) -> Iterator[tuple[str, Value]]:
    path = f"{ROOT}.{group}" if group else ROOT
    prefix = f"{group}." if group else ""
    known = [name.removeprefix(prefix) for name in READERS if name.rpartition(".")[0] == group]
    known += GROUPS if not group else ()
    if body is None and group:
        yield from ((prefix + name, None) for name in known if READERS[prefix + name].nullable)
        return
    if not isinstance(body, dict):
        problems.append(Problem(path, because("policy_not_object", found=shown(body))))
        return
    for key, value in body.items():
        if key not in known:
            problems.append(Problem(f"{path}.{key}", because("policy_unknown_key", known=", ".join(known))))
        elif not group and key in GROUPS:
            yield from _read_group(key, value, problems)
        else:
            try:
                yield prefix + key, READERS[prefix + key].read(value)
            except Wrong as wrong:
                problems.append(Problem(f"{path}.{key}", wrong.reason))


def _policy(values: Mapping[str, Any]) -> Policy:
    def of(group: str) -> dict[str, Any]:
        return {path.partition(".")[2]: value for path, value in values.items() if path.startswith(group)}

    said = of("schedule.")
    return Policy(
        **{path: value for path, value in values.items() if "." not in path},
        schedule=Times(said["wake_time"], said["sleep_time"], said["timezone"], said["weekdays"]),
        signals=Signals(**of("signals.")),
    )


def _values(policy: Policy) -> dict[str, Value]:
    """Every field of a policy by its path, in the order of READERS."""
    times = policy.schedule
    schedule = {
        "wake_time": times.wake,
        "sleep_time": times.sleep,
        "timezone": times.zone,
        "weekdays": times.weekdays,
    }
    values: dict[str, Value] = {}
    for path in READERS:
        group, _, name = path.rpartition(".")
        if group == "schedule":
            values[path] = schedule[name]
        else:
            values[path] = getattr(policy.signals if group else policy, name)
    return values


def _plain(value: Value) -> Any:
    if isinstance(value, time):
        return f"{value:%H:%M}"
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
