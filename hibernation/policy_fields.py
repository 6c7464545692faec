"""How each kind of field of a policy is read from JSON, and the sentence for one that cannot be. Pure."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import time
from typing import Protocol

from core.reasons import Reason
from hibernation.reasons import because
from hibernation.schedule_times import zone_names

Value = bool | float | str | time | tuple[int, ...] | None

_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")


class Wrong(ValueError):
    """A value that cannot be taken, and why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Reader(Protocol):
    """Reads one field. Raises Wrong. nullable: whether `null` is a value of its own (off)."""

    @property
    def nullable(self) -> bool: ...

    def read(self, value: object) -> Value: ...


def shown(value: object) -> str:
    """A value as it came, short enough for a sentence."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class Number:
    """A finite number: from `low`, or above `more_than`, to `high`."""

    high: float
    low: float | None = None
    more_than: float | None = None
    whole: bool = False
    nullable: bool = False

    def read(self, value: object) -> float | None:
        if value is None and self.nullable:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Wrong(because("policy_not_number", found=shown(value)))
        # A whole number may be too long for a float: it is compared as it is.
        if isinstance(value, float) and not math.isfinite(value):
            raise Wrong(because("policy_not_number", found=shown(value)))
        if self.whole and value != int(value):
            raise Wrong(because("policy_not_whole", found=shown(value)))
        if self.more_than is not None:
            fits, wanted = value > self.more_than, f"more than {self.more_than:g} and at most {self.high:g}"
        else:
            low = self.low or 0.0
            fits, wanted = value >= low, f"from {low:g} to {self.high:g}"
        if not fits or value > self.high:
            raise Wrong(because("policy_out_of_range", range=wanted, found=shown(value)))
        return float(value)


@dataclass(frozen=True)
class Flag:
    """true or false."""

    nullable: bool = False

    def read(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise Wrong(because("policy_not_boolean", found=shown(value)))
        return value


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]
    nullable: bool = False

    def read(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise Wrong(because("policy_not_choice", choices=", ".join(self.words), found=shown(value)))
        return value


@dataclass(frozen=True)
class Clock:
    """A local time of day, HH:MM; null: never."""

    nullable: bool = True

    def read(self, value: object) -> time | None:
        if value is None:
            return None
        match = _CLOCK.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise Wrong(because("policy_not_time", found=shown(value)))
        return time(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class Zone:
    """An IANA time zone that this machine knows."""

    nullable: bool = False

    def read(self, value: object) -> str:
        if not isinstance(value, str) or value not in zone_names():
            raise Wrong(because("policy_unknown_zone", found=shown(value)))
        return value


@dataclass(frozen=True)
class Weekdays:
    """Days of the week, 0 is Monday; at least one."""

    nullable: bool = False

    def read(self, value: object) -> tuple[int, ...]:
        days = value if isinstance(value, list) else []
        right = all(isinstance(day, int) and not isinstance(day, bool) and 0 <= day <= 6 for day in days)
        if not days or not right or len(set(days)) != len(days):
            raise Wrong(because("policy_not_weekdays", found=shown(value)))
        return tuple(sorted(days))
