"""The end begins early enough for all that it has to do, and never so early that a session would hardly work."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.draining import MARGIN_S, Owed, first_checkpoint_s, lead_s, near_end

HOUR_S = 3600.0


def test_a_session_with_nothing_to_end_has_no_drain() -> None:
    assert lead_s([], limit_s=11.5 * HOUR_S) == 0
    assert near_end([], runtime_s=20 * HOUR_S, limit_s=11.5 * HOUR_S) is None


def test_it_begins_one_grace_the_checkpoints_and_a_margin_before_the_limit() -> None:
    owed = [Owed(grace_s=15), Owed(grace_s=120, checkpoint_s=40), Owed(grace_s=5, checkpoint_s=20)]
    limit_s = 8.5 * HOUR_S
    assert lead_s(owed, limit_s=limit_s) == 120 + 60 + MARGIN_S
    assert near_end(owed, runtime_s=limit_s - 211, limit_s=limit_s) is None
    ending = near_end(owed, runtime_s=limit_s - 210, limit_s=limit_s)
    assert ending is not None and ending.reason == "the session's limit of 8.5 h is near"
    assert (ending.grace_s, ending.checkpoint_by_s) == (120, 180)


def test_work_that_would_need_most_of_a_session_gets_a_quarter() -> None:
    owed = [Owed(grace_s=3600, checkpoint_s=600)]
    assert lead_s(owed, limit_s=40) == 10
    ending = near_end(owed, runtime_s=31, limit_s=40)
    assert ending is not None
    assert ending.grace_s + 0.6 * ending.checkpoint_by_s <= ending.checkpoint_by_s + 1e-9 < 9


def test_a_first_checkpoint_of_much_is_thought_to_take_long() -> None:
    assert first_checkpoint_s(files=10, size_bytes=100_000_000) == 60
    assert first_checkpoint_s(files=10, size_bytes=20 * 1024**3) > 2_500
    assert first_checkpoint_s(files=500_000, size_bytes=0) == 1_000


@given(
    st.lists(
        st.builds(Owed, grace_s=st.floats(0, 3600), checkpoint_s=st.just(0.0) | st.floats(0.001, 3600)),
        max_size=8,
    ),
    st.floats(1, 12 * HOUR_S),
    st.floats(0, 13 * HOUR_S),
)
def test_whatever_runs_its_end_lies_within_the_session(
    owed: list[Owed], limit_s: float, runtime_s: float
) -> None:
    ending = near_end(owed, runtime_s=runtime_s, limit_s=limit_s)
    if ending is None:
        assert not owed or limit_s - runtime_s > lead_s(owed, limit_s=limit_s)
        return
    left_s = max(0.0, limit_s - runtime_s)
    assert 0 <= ending.grace_s <= ending.checkpoint_by_s + 1e-6
    assert ending.checkpoint_by_s <= left_s
    if sum(one.checkpoint_s for one in owed) and left_s:
        assert ending.grace_s < ending.checkpoint_by_s, "something is left for the checkpoint"
