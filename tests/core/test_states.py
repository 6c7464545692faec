"""Edge tables refuse to contradict themselves, and reasons can always be worded."""

from __future__ import annotations

import string
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core import reasons
from core.reasons import Reason, UnknownReason, because, catalogue, register, words
from core.states import Edge, Limit, StateTable

GOOD: dict[str, Any] = {
    "states": {"new": "made", "busy": "works", "done": "over"},
    "edges": {("new", "busy"): Edge("it began", event="began"), ("busy", "done"): "it ended"},
    "stable": {"new"},
    "limits": {"busy": Limit(minutes=5, then="done")},
    "final": {"done"},
}


def table(**changed: Any) -> StateTable:
    return StateTable("thing", **{**GOOD, **changed})


def test_a_table_says_what_is_allowed_what_it_is_called_and_how_long_it_lasts() -> None:
    good = table()
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert good.allows("new", "busy") and not good.allows("new", "done")
    assert (good.event("new", "busy"), good.event("busy", "done")) == ("began", "done")
    assert good.deadline("busy", now=now) == now + timedelta(minutes=5)
    assert good.deadline("new", now=now) is None
    assert "new --> busy: it began" in good.mermaid()
    assert "| busy | works | 5 min | done |" in good.limits_table()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"edges": {("new", "lost"): "?"}}, "unknown state"),
        ({"stable": set()}, "new must be one of"),
        ({"stable": {"new", "busy"}}, "busy must be one of"),
        ({"edges": {("new", "busy"): "x"}}, "busy is final if and only if"),
        (
            {"edges": {**GOOD["edges"], ("done", "new"): "again"}},
            "done is final if and only if",
        ),
        ({"limits": {"busy": Limit(minutes=5, then="new")}}, "way out of busy, to new, is not an edge"),
    ],
)
def test_a_table_that_contradicts_itself_does_not_import(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        table(**changed)


def test_a_state_without_a_way_out_is_fine_where_a_person_is_told() -> None:
    assert table(limits={"busy": Limit(minutes=5, then=None)}).limits["busy"].then is None


# -- reasons ------------------------------------------------------------------------------------------


def test_every_reason_of_every_app_can_be_worded() -> None:
    for code, sentence in catalogue().items():
        named = [name for _, name, *_ in string.Formatter().parse(sentence) if name]
        text = str(because(code, **dict.fromkeys(named, 1.5)))
        assert text
        assert "{" not in text, f"{code} is not worded: {text}"


def test_a_reason_that_could_not_be_worded_is_refused_at_birth() -> None:
    with pytest.raises(UnknownReason, match="no sentence"):
        because("never_heard_of")
    with pytest.raises(UnknownReason, match="needs the parameter"):
        because("asked")


def test_a_stored_code_of_another_version_is_shown_as_it_is() -> None:
    assert words("from_the_future", {"a": 1}) == "from_the_future {'a': 1}"
    assert words("asked", {}) == "asked {}"
    assert words("asked", {"by": "alice"}, translate=lambda text: "pedido por {by}") == "pedido por alice"


def test_one_code_has_one_sentence() -> None:
    register({"created": "created"})
    with pytest.raises(ValueError, match="two sentences"):
        register({"created": "made"})
    assert Reason("created") == Reason("created", {})
    assert str(reasons.because("created")) == "created"
