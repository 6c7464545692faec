"""How long a job's files wait for a store that is away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from agent import store_away, wire
from agent.client import Client
from agent.hold import Hold
from agent.store_away import AWAY_AT_MOST_S, StoreAway


class Told(Client):
    """Remembers the phases."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def post(self, path: str, body: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        self.phases.append(body["phase"])
        return {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000.0]
    monkeypatch.setattr(store_away.time, "monotonic", lambda: now[0])
    return now


def away(told: Told) -> StoreAway:
    claim = wire.Claimed(dispatch_id="d_1", kind="job", fence=1, lease_s=60, work={})
    return StoreAway(told, Hold(claim), phase="artifacts")


def test_an_outage_is_waited_for_an_hour_and_told_once(clock: list[float]) -> None:
    told = Told()
    patience = away(told)
    assert patience.goes_on(0.0) and told.phases == []
    clock[0] += 5
    assert patience.goes_on(5.0) and patience.goes_on(5.0)
    assert told.phases == [wire.STORE_AWAY]
    clock[0] += AWAY_AT_MOST_S - 6
    assert patience.goes_on(0.0)
    clock[0] += 1
    assert not patience.goes_on(0.0), "the files that come after do not wait another hour each"
    patience.answered()
    assert told.phases == [wire.STORE_AWAY, "artifacts"]
    assert patience.goes_on(0.0)


def test_an_object_that_is_never_taken_ends_although_others_are(clock: list[float]) -> None:
    patience = away(Told())
    for _ in range(10):
        assert patience.goes_on(AWAY_AT_MOST_S - 1)
        patience.answered()
    assert not patience.goes_on(AWAY_AT_MOST_S)
