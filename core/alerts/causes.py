"""Causes of alerts: each app registers what it watches, and says when asked what is wrong at this moment.

A cause is a code of the reasons' catalogue; its sentence is what people read. A source is asked again and again: what
it names is wrong now, what it no longer names is over. So an alert that a crash or a lost message kept from being
opened, or resolved, is opened or resolved by the next look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from core.reasons import Reason, catalogue


class Severity(IntEnum):
    """info: good to know. warning: something will not work, or soon. critical: money or data is being lost."""

    INFO = 1
    WARNING = 2
    CRITICAL = 3

    @property
    def word(self) -> str:
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> Severity:
        return cls[word.upper()]


WORDS = tuple(severity.word for severity in Severity)


@dataclass(frozen=True)
class Finding:
    """Something that is wrong now. reason: its code is the cause. owner_id: whose business it is; None: the site's."""

    reason: Reason
    subject_type: str
    subject_id: str
    owner_id: int | None

    @property
    def key(self) -> tuple[str, str, str]:
        """What an alert is one of."""
        return self.reason.code, self.subject_type, self.subject_id


Look = Callable[[datetime], Iterable[Finding]]


@dataclass(frozen=True)
class Source:
    """causes: every code that `look(now)` may name, and how bad it is. It names all that is wrong, each time."""

    name: str
    causes: Mapping[str, Severity]
    look: Look


_sources: dict[str, Source] = {}


def register_source(name: str, *, causes: Mapping[str, Severity], look: Look) -> Source:
    """Called in an app's ready(). A cause has one source: two would resolve each other's alerts."""
    others = {code for source in _sources.values() if source.name != name for code in source.causes}
    for code in causes:
        if code in others:
            raise ValueError(f"cause {code!r} has two sources")
        if code not in catalogue():
            raise ValueError(f"cause {code!r} has no sentence: add it to the app's reasons")
    _sources[name] = Source(name, dict(causes), look)
    return _sources[name]


def sources() -> list[Source]:
    return list(_sources.values())


def causes() -> dict[str, Severity]:
    """Every cause that anything here watches for."""
    return {code: severity for source in _sources.values() for code, severity in source.causes.items()}
