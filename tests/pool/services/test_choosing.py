"""The statement chooses what the pure function chooses: random pools, on whichever database the tests run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pool.labels import packed
from pool.models import Account, Choice, Dispatch, Worker
from pool.select import Candidate, Group, Need, groups_of, is_open, refuse, select, why_waiting
from pool.services import choosing
from pool.services.accounts import account_create
from pool.services.choosing import workers_in_turn
from pool.services.waiting import candidates, groups_read
from tests.pool.conftest import GIB, NOON

KINDS = ("colab", "kaggle", "local")
HOURS = (None, 0.5, 3.0)

moments = st.one_of(
    st.none(), st.integers(-120, 600).map(lambda minutes: NOON + timedelta(minutes=minutes, seconds=30))
)
label_sets = st.sampled_from(
    [{}, {"gpu": "a100"}, {"gpu": "t4"}, {"gpu": "a100", "disk": "nvme"}, {"gpu": "a100-80"}]
)
workers = st.fixed_dictionaries(
    {
        "account": st.integers(0, 5),
        "state": st.sampled_from(["online"] * 6 + ["draining", "suspect", "lost", "offline", "revoked"]),
        "slots": st.integers(0, 3),
        "taken": st.integers(0, 3),
        "gpu_mem_bytes": st.sampled_from([0, 16 * GIB, 80 * GIB]),
        "used_percent": st.sampled_from([0.0, 20.0, 60.0, 60.5]),
        "safe_until": moments,
        "ends_at": moments,
        "labels": label_sets.map(packed),
        "owner": st.sampled_from([None, None, None, 0, 1]),
        "chosen_min": st.one_of(st.none(), st.integers(-3, 3)),
        "named": st.sampled_from([False] * 8 + [True]),
    }
)
needs = st.fixed_dictionaries(
    {
        "gpu_mem_bytes": st.sampled_from([0, 0, 16 * GIB, 40 * GIB]),
        "provider": st.sampled_from(["", "", *KINDS]),
        "expected_hours": st.sampled_from(HOURS),
        "labels": label_sets.map(packed),
        "named": st.sampled_from([None] * 5 + [0]),
    }
)
pools = st.lists(workers, max_size=14)


@pytest.fixture
def accounts(alice: User, bob: User) -> list[Account]:
    return [
        account_create(owner=alice, kind=kind, label=f"{kind} {enabled}", enabled=enabled)
        for kind in KINDS
        for enabled in (True, False)
    ]


@contextmanager
def made(pool: list[dict[str, Any]], accounts: list[Account], people: list[User]) -> Iterator[None]:
    """The pool as rows, for as long as the block lasts. What each was chosen for is Alice's turn."""
    with transaction.atomic():
        rows = Worker.objects.bulk_create(
            Worker(
                **{k: v for k, v in spec.items() if k not in ("account", "owner", "chosen_min", "named")},
                id=f"w_{number}",
                name=f"w{number}",
                account=accounts[0 if spec["account"] > 3 else spec["account"]],
                owner=None if spec["owner"] is None else people[spec["owner"]],
                instance_ref=f"i_{number}" if spec["named"] else "",
            )
            for number, spec in enumerate(pool)
        )
        Choice.objects.bulk_create(
            Choice(tenant=people[0], worker=row, chosen_at=NOON + timedelta(minutes=spec["chosen_min"]))
            for row, spec in zip(rows, pool, strict=True)
            if spec["chosen_min"] is not None
        )
        yield
        transaction.set_rollback(True)


def need_of(spec: dict[str, Any], pool: list[dict[str, Any]], tenant: User) -> Need:
    named = [f"i_{number}" for number, one in enumerate(pool) if one["named"]]
    fields = {key: value for key, value in spec.items() if key != "named"}
    wanted = named[0] if named and spec["named"] is not None else ""
    return Need(tenant_id=tenant.pk, instance_ref=wanted, **fields)


def in_turn(pool: list[Candidate], need: Need, how_many: int) -> list[str]:
    """Whom the pure function would choose one after the other, each taken at once."""
    chosen_at: dict[str, datetime] = dict(
        Choice.objects.filter(tenant=need.tenant_id).values_list("worker_id", "chosen_at")
    )
    left = list(pool)
    names = []
    for _ in range(how_many):
        choice = select(left, need, chosen_at=chosen_at).choice
        if choice is None:
            break
        names.append(choice.worker_id)
        left.remove(choice)
    return names


PER_EXAMPLE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(suppress_health_check=PER_EXAMPLE)
@given(pool=pools, spec=needs, who=st.integers(0, 1), limit=st.integers(1, 5))
def test_the_statement_and_the_pure_function_choose_the_same_workers(
    accounts: list[Account], alice: User, bob: User, pool: Any, spec: Any, who: int, limit: int
) -> None:
    people = [alice, bob]
    with made(pool, accounts, people):
        need = need_of(spec, pool, people[who])
        seen = candidates(instances={need.instance_ref}, now=NOON)
        expected = in_turn(seen, need, limit)
        for few in (True, False):
            chosen = workers_in_turn(need, now=NOON, limit=limit, few=few)
            assert [one.worker_id for one in chosen] == expected, f"few={few}"


@settings(suppress_health_check=PER_EXAMPLE)
@given(pool=pools, spec=needs, who=st.integers(0, 1))
def test_counted_by_the_database_or_one_by_one_the_reason_is_the_same(
    accounts: list[Account], alice: User, bob: User, pool: Any, spec: Any, who: int
) -> None:
    people = [alice, bob]
    with made(pool, accounts, people):
        need = need_of({**spec, "named": None}, pool, people[who])
        hours = {need.expected_hours} - {None}
        seen = candidates(instances={""}, now=NOON)
        counted = groups_read(hours=hours, now=NOON)
        assert sorted(map(_comparable, counted)) == sorted(
            map(_comparable, groups_of(seen, hours=sorted(hours)))
        )
        if select(seen, need).choice is None:
            assert str(why_waiting(counted, need))
        open_kinds = choosing.kinds_open(now=NOON)
        assert all(
            any(kind.suits(need) for kind in open_kinds) for one in seen if refuse(one, need) is None
        ), "a line that somebody could take is never passed over"
        assert bool(choosing.workers_open()) >= any(map(is_open, seen))


def _comparable(group: Group) -> tuple[object, ...]:
    left = -1.0 if group.most_left_h is None else round(group.most_left_h, 6)
    who = (group.kind, group.gpu_mem_bytes, group.labels, group.owner_id or 0)
    counts = (group.workers, group.online, group.safe, group.free_slots, left)
    return (*who, *counts, *sorted(group.long_enough.items()))


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("how_many", [14, 10, 5, 1])
def test_fourteen_ten_five_or_one_take_turns_by_use(
    alice: User, account: Account, how_many: int, few: bool
) -> None:
    for number in range(how_many):
        Worker.objects.create(
            id=f"w_{number:02}", name=f"w{number}", account=account, state="online", used_percent=5.0 * number
        )
    need = Need(tenant_id=alice.pk)
    chosen = []
    for turn in range(2 * how_many):
        (one,) = workers_in_turn(need, now=NOON, few=few)
        Choice.objects.update_or_create(
            tenant=alice, worker_id=one.worker_id, defaults={"chosen_at": NOON + timedelta(seconds=turn)}
        )
        chosen.append(one.name)
    assert chosen == [f"w{number}" for number in range(how_many)] * 2


def test_who_joins_is_next_and_who_leaves_is_passed_over(alice: User, account: Account) -> None:
    need = Need(tenant_id=alice.pk)
    old = Worker.objects.create(name="old", account=account, state="online", used_percent=1)
    Choice.objects.create(tenant=alice, worker=old, chosen_at=NOON)
    new = Worker.objects.create(name="new", account=account, state="online", used_percent=80)
    assert [one.name for one in workers_in_turn(need, now=NOON, limit=9)] == ["new", "old"]
    Worker.objects.filter(pk=new.pk).update(state="draining")
    assert [one.name for one in workers_in_turn(need, now=NOON, limit=9)] == ["old"]


def test_a_label_is_found_whole_and_not_as_the_beginning_of_another(alice: User, account: Account) -> None:
    Worker.objects.create(
        name="w", account=account, state="online", labels=packed({"gpu": "a100-80", "xgpu": "a100"})
    )
    for labels, found in [({"gpu": "a100"}, 0), ({"gpu": "a100-80"}, 1), ({"gpu": "A100-80"}, 0)]:
        need = Need(tenant_id=alice.pk, labels=packed(labels))
        assert len(workers_in_turn(need, now=NOON)) == found, labels


def test_a_silent_hour_is_not_safe(alice: User, account: Account) -> None:
    """The posts are late, the worker is still thought online, its column says what it last said: time has passed."""
    Worker.objects.create(
        name="w",
        account=account,
        state="online",
        used_percent=85,
        safe_until=NOON + timedelta(minutes=30),
        ends_at=NOON + timedelta(hours=2),
    )
    need = Need(tenant_id=alice.pk)
    assert workers_in_turn(need, now=NOON + timedelta(minutes=29))
    assert not workers_in_turn(need, now=NOON + timedelta(minutes=30))
    long = Need(tenant_id=alice.pk, expected_hours=1.9)
    assert workers_in_turn(long, now=NOON)
    assert not workers_in_turn(long, now=NOON + timedelta(minutes=7))


def test_no_part_of_the_statement_reads_the_whole_pool(alice: User, account: Account) -> None:
    """Whatever the planner thinks of a small table, the indexes are there for it: neither table is read end to end."""
    from django.db import connection

    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL reads a small table end to end because that is faster")
    for few in (True, False):
        sql, parameters = choosing.statement(Need(tenant_id=alice.pk), now=NOON, limit=1, few=few)
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
            plan = [str(row[3]) for row in cursor.fetchall()]
        assert "SEARCH w USING INDEX worker_open (instance_ref=?)" in plan, plan
        assert not [step for step in plan if step.startswith(("SCAN w", "SCAN c", "SCAN a"))], plan
        assert few or any("USING INDEX choice_turn (tenant_id=?)" in step for step in plan), plan


def test_the_schema_knows_what_the_dispatcher_counts(alice: User) -> None:
    assert {index.name for index in Dispatch._meta.indexes} >= {"dispatch_counted"}
