from __future__ import annotations

from gateway.pace import BURST_S, FORGET_ABOVE, Pace


def allowed(pace: Pace, key: str, *, now: float, tries: int) -> int:
    return sum(pace.wait_s(key, now=now) == 0 for _ in range(tries))


def test_burst_then_the_sustained_rate() -> None:
    pace = Pace(5)
    assert allowed(pace, "w_a", now=100, tries=50) == 5 * BURST_S
    assert allowed(pace, "w_a", now=101, tries=50) == 5
    assert allowed(pace, "w_a", now=101.1, tries=50) == 0
    assert allowed(pace, "w_b", now=101.1, tries=50) == 5 * BURST_S, "each key has its own"


def test_refusal_says_how_long_to_wait_and_that_is_enough() -> None:
    pace = Pace(0.5)
    while not (wait_s := pace.wait_s("w_a", now=7)):
        pass
    assert 0 < wait_s <= 2
    assert pace.wait_s("w_a", now=7 + wait_s - 0.01) > 0
    assert pace.wait_s("w_a", now=7 + wait_s) == 0


def test_slow_rate_still_lets_the_first_through() -> None:
    assert allowed(Pace(0.01), "w_a", now=5, tries=3) == 1


def test_keys_at_rest_are_forgotten() -> None:
    pace = Pace(5)
    for n in range(10 * FORGET_ABOVE):
        pace.wait_s(f"w_{n}", now=n)
    assert len(pace._full_at) <= FORGET_ABOVE + 1
