"""Selection: who is chosen, in which turn, and why the others are not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.quota import DEFAULTS, Reading, reading
from pool.select import Candidate, Need, groups_of, is_open, refuse, select, why_instance, why_waiting

GIB = 1024**3
NOW = datetime(2026, 11, 18, 12, tzinfo=UTC)
NEED = Need(tenant_id=1)


def colab(name: str, runtime_h: float, **fields: object) -> Candidate:
    return candidate(name, "colab", reading(DEFAULTS["colab"], session_runtime_h=runtime_h), **fields)


def kaggle(name: str, week_h: float, **fields: object) -> Candidate:
    return candidate(name, "kaggle", reading(DEFAULTS["kaggle"], week_used_h=week_h), **fields)


def local(name: str, **fields: object) -> Candidate:
    return candidate(name, "local", reading(DEFAULTS["local"]), **fields)


def candidate(name: str, kind: str, used: Reading, **fields: object) -> Candidate:
    base = Candidate(
        worker_id=name, name=name, kind=kind, state="online", reading=used, gpu_mem_bytes=16 * GIB
    )
    return replace(base, **fields)


def turns(candidates: list[Candidate], need: Need, how_many: int) -> list[str | None]:
    """Who is chosen, one after the other, for one tenant, when every chosen worker is free again at once."""
    chosen_at: dict[str, datetime] = {}
    names = []
    for turn in range(how_many):
        choice = select(candidates, need, chosen_at=chosen_at).choice
        names.append(choice.name if choice else None)
        if choice:
            chosen_at[choice.worker_id] = NOW + timedelta(seconds=turn)
    return names


def why(pool: list[Candidate], need: Need) -> str:
    if need.instance_ref:
        named = [one for one in pool if one.instance_ref == need.instance_ref]
        return str(why_instance(named[0] if named else None, need))
    return str(why_waiting(groups_of(pool, hours={need.expected_hours or 0.0}), need))


def test_the_worked_example() -> None:
    pool = [colab("Colab-1", 2.3), colab("Colab-2", 10.8), kaggle("Kaggle-1", 18), kaggle("Kaggle-2", 25)]
    assert [round(one.reading.percent, 1) for one in pool] == [20.0, 93.9, 60.0, 83.3]
    assert turns(pool, NEED, 5) == ["Colab-1", "Kaggle-1", "Colab-1", "Kaggle-1", "Colab-1"]
    refusals = {refusal.worker_id: str(refusal.reason) for refusal in select(pool, NEED).refusals}
    assert refusals == {
        "Colab-2": "near its limit: session 10.80 h of 11.5 h (93.9 %)",
        "Kaggle-2": "near its limit: week 25.00 h of 30 h (83.3 %)",
    }


def test_tenants_take_their_turns_apart() -> None:
    pool = [colab("a", 1), colab("b", 2)]
    first = select(pool, Need(tenant_id=1)).choice
    second = select(pool, Need(tenant_id=2)).choice
    assert first is not None and second is not None
    assert (first.name, second.name) == ("a", "a")


def test_the_least_used_comes_first_and_the_smallest_id_decides_what_is_left() -> None:
    assert turns([colab("x", 5), colab("y", 1), colab("z", 3)], NEED, 3) == ["y", "z", "x"]
    assert turns([local("b"), local("a")], NEED, 2) == ["a", "b"]


@pytest.mark.parametrize(
    ("changed", "need", "reason"),
    [
        ({"state": "draining"}, NEED, "it is draining"),
        ({"state": "suspect"}, NEED, "it is suspect"),
        ({"enabled": False}, NEED, "its account is switched off"),
        ({"taken": 1}, NEED, "all of its slots are taken (1)"),
        (
            {},
            Need(tenant_id=1, gpu_mem_bytes=40 * GIB),
            "it has 16 GiB of GPU memory, the job needs 40 GiB",
        ),
        ({}, Need(tenant_id=1, provider="kaggle"), "it is a colab worker, the job asks for kaggle"),
        (
            {},
            Need(tenant_id=1, expected_hours=11),
            "10.50 h are left of its session, the job expects 11 h",
        ),
        ({"instance_ref": "i_1"}, NEED, "it takes only jobs that name its instance"),
        (
            {},
            Need(tenant_id=1, instance_ref="i_1"),
            "it is not the instance that the job names",
        ),
        (
            {"instance_ref": "i_1", "owner_id": 2},
            Need(tenant_id=1, instance_ref="i_1"),
            "it belongs to somebody else",
        ),
    ],
)
def test_each_refusal_has_its_reason(changed: dict, need: Need, reason: str) -> None:
    assert str(refuse(colab("w", 1, **changed), need)) == reason


def test_an_instances_worker_takes_the_jobs_that_name_it() -> None:
    mine = local("i", instance_ref="i_1", owner_id=1)
    assert select([local("w"), mine], Need(tenant_id=1, instance_ref="i_1")).choice == mine


@pytest.mark.parametrize(
    ("pool", "need", "reason"),
    [
        ([], NEED, "no worker is enrolled"),
        ([local("a")], Need(tenant_id=1, provider="kaggle"), "no kaggle worker is enrolled"),
        (
            [local("a")],
            Need(tenant_id=1, gpu_mem_bytes=40 * GIB),
            "no worker with 40 GiB free: the largest has 16 GiB",
        ),
        ([local("a", state="lost")], NEED, "none of the 1 workers that fit is online"),
        (
            [colab("a", 11), colab("b", 10.9), local("c", state="offline")],
            NEED,
            "all 2 workers that fit and are online are near their limit",
        ),
        (
            [colab("a", 5)],
            Need(tenant_id=1, expected_hours=8),
            "no worker that fits has 8 h left in its session or week",
        ),
        ([local("a", taken=1), local("b", taken=1)], NEED, "all 2 workers that fit and are safe are busy"),
        ([local("a")], Need(tenant_id=1, instance_ref="i_1"), "instance i_1 has no worker"),
        (
            [local("a", instance_ref="i_1", state="offline")],
            Need(tenant_id=1, instance_ref="i_1"),
            "instance asleep",
        ),
        (
            [local("a", instance_ref="i_1", taken=1)],
            Need(tenant_id=1, instance_ref="i_1"),
            "all of its slots are taken (1)",
        ),
    ],
)
def test_a_waiting_job_says_what_is_missing(pool: list[Candidate], need: Need, reason: str) -> None:
    assert select(pool, need).choice is None
    assert why(pool, need) == reason


# -- whatever the pool looks like --------------------------------------------------------------------

candidates = st.lists(
    st.builds(
        lambda number, kind, used, state, taken, gib, owner: candidate(
            f"w{number}",
            kind,
            reading(DEFAULTS[kind], session_runtime_h=used, week_used_h=2 * used),
            state=state,
            taken=taken,
            gpu_mem_bytes=gib * GIB,
            owner_id=owner,
        ),
        number=st.integers(0, 10_000),
        kind=st.sampled_from(["colab", "kaggle", "local"]),
        used=st.floats(0, 13),
        state=st.sampled_from(["online", "online", "online", "draining", "lost"]),
        taken=st.integers(0, 1),
        gib=st.sampled_from([0, 16, 80]),
        owner=st.sampled_from([None, None, 1, 2]),
    ),
    unique_by=lambda one: one.worker_id,
    max_size=14,
)
needs = st.builds(
    Need,
    tenant_id=st.sampled_from([1, 2]),
    gpu_mem_bytes=st.sampled_from([0, 16 * GIB, 40 * GIB]),
    provider=st.sampled_from(["", "colab", "kaggle"]),
    expected_hours=st.sampled_from([None, 1, 9]),
)


@given(pool=candidates, need=needs)
def test_a_choice_is_always_allowed_and_everybody_else_has_a_reason(
    pool: list[Candidate], need: Need
) -> None:
    got = select(pool, need)
    if got.choice is not None:
        assert refuse(got.choice, need) is None
        assert is_open(got.choice)
        assert got.choice.reading.safe
    refused = {refusal.worker_id for refusal in got.refusals}
    assert all((refuse(one, need) is not None) == (one.worker_id in refused) for one in pool)
    assert got.choice is not None or len(got.refusals) == len(pool)
    if got.choice is None:
        assert why(pool, need)


@given(pool=candidates, need=needs)
def test_the_order_in_which_workers_are_listed_changes_nothing(pool: list[Candidate], need: Need) -> None:
    assert select(pool, need).choice == select(pool[::-1], need).choice


@given(pool=candidates, need=needs)
def test_everybody_who_may_is_chosen_once_before_anybody_is_chosen_twice(
    pool: list[Candidate], need: Need
) -> None:
    able = sum(refuse(one, need) is None for one in pool)
    names = turns(pool, need, 2 * able)
    assert len(set(names[:able])) == able
    assert names[:able] == names[able:]
