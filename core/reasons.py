"""Reasons: why a row is in its state, waits, or was refused. A code and its figures, worded only when shown.

A stored sentence can be neither translated nor counted; a stored code can be both. Each app keeps a catalogue,
`reasons.py`, of codes with one English sentence each; its placeholders are the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Value = str | int | float | bool | None

_catalogue: dict[str, str] = {}


class UnknownReason(KeyError):
    """A code that no catalogue holds, or a parameter that its sentence needs and did not get."""


@dataclass(frozen=True)
class Reason:
    """A code of the catalogue with the parameters that its sentence names. Refused at birth if either is wrong,
    so that a row never holds a reason that cannot be worded."""

    code: str
    params: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.code not in _catalogue:
            raise UnknownReason(f"no sentence for reason {self.code!r}: add it to the app's reasons.py")
        try:
            _catalogue[self.code].format(**self.params)
        except KeyError as missing:
            raise UnknownReason(f"reason {self.code!r} needs the parameter {missing}") from missing

    def __str__(self) -> str:
        return words(self.code, self.params)


def because(code: str, /, **params: Value) -> Reason:
    """`because("waiting_for_worker", worker="w_1")`: the short form at the place of a decision."""
    return Reason(code, params)


def register(sentences: Mapping[str, str]) -> None:
    """Add an app's catalogue. The same code with another sentence is a mistake of ours."""
    for code, sentence in sentences.items():
        if _catalogue.setdefault(code, sentence) != sentence:
            raise ValueError(f"reason {code!r} has two sentences")


def words(code: str, params: Mapping[str, Any], *, translate: Callable[[str], str] = str) -> str:
    """The sentence for a stored code. A code of another version of the program is shown as it is, with its figures."""
    sentence = _catalogue.get(code)
    if sentence is None:
        return f"{code} {dict(params)}" if params else code
    try:
        return translate(sentence).format(**params)
    except (KeyError, IndexError, ValueError):
        return f"{code} {dict(params)}"


def catalogue() -> Mapping[str, str]:
    """Every code with its English sentence: for the documentation and the translators' list."""
    return dict(_catalogue)


register(
    {
        "created": "created",
        "asked": "asked for by {by}",
        "time_limit": "it was {state} for longer than {minutes:g} minutes",
        "step_failed": "{step} failed {attempts} times: {error}",
        "step_overdue": "{step} took longer than {minutes:g} minutes",
        "step_retry": "{step} will be tried again: {error}",
        "chain_done": "every step is done",
        "operator": "an operator decided so: {note}",
        "alert_cause_gone": "its cause has gone",
        "alert_cause_back": "its cause came back soon after it had gone",
    }
)
