"""Policies as rows: resolved per field, set with sentences, and carried out at once on what depends on them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from core.models import Event
from hibernation.models import Instance, Policy, Schedule
from hibernation.policy import PolicyInvalid
from hibernation.services import policies
from hibernation.services.policies import config_check, config_set, policy_remove, policy_resolved, policy_set
from hibernation.services.verdicts import verdicts_tick
from hibernation.states import InstanceState
from pool.models import Worker
from tests.hibernation.rows import T0, asleep_of, at, instance_of, person, post

pytestmark = pytest.mark.django_db

SITE, OWNER, GPU_TYPE = Policy.Scope.SITE, Policy.Scope.OWNER, Policy.Scope.GPU_TYPE


def said(**fields: Any) -> dict[str, Any]:
    return {"auto_hibernation": fields}


@pytest.fixture
def alice() -> Any:
    return person("alice")


def test_each_field_comes_from_the_innermost_level_that_names_it(alice: Any) -> None:
    policy_set(scope=SITE, config=said(pause_after_idle_minutes=10, gpu_usage_threshold=9), by="root")
    policy_set(
        scope=OWNER, owner=alice, config=said(pause_after_idle_minutes=8, wake_method="auto"), by="alice"
    )
    policy_set(
        scope=GPU_TYPE, owner=alice, gpu_type="RTX 4090", config=said(wake_method="manual"), by="alice"
    )
    instance = instance_of(alice, gpu_type="NVIDIA GeForce RTX 4090", config={"minimum_awake_minutes": 1})
    policy, origins = policy_resolved(instance)
    assert (policy.gpu_usage_threshold, origins["gpu_usage_threshold"]) == (9, "site")
    assert (policy.pause_after_idle_minutes, origins["pause_after_idle_minutes"]) == (8, "owner")
    assert (policy.wake_method, origins["wake_method"]) == ("manual", "gpu_type")
    assert (policy.minimum_awake_minutes, origins["minimum_awake_minutes"]) == (1, "instance")
    assert origins["enabled"] == "default"


def test_another_owner_and_another_gpu_are_not_concerned(alice: Any) -> None:
    policy_set(scope=OWNER, owner=alice, config=said(pause_after_idle_minutes=8), by="alice")
    policy_set(scope=GPU_TYPE, owner=alice, gpu_type="A100", config=said(gpu_usage_threshold=1), by="alice")
    bobs = instance_of(person("bob"), gpu_type="A100")
    assert policy_resolved(bobs).policy.pause_after_idle_minutes == 3
    assert policy_resolved(instance_of(alice, gpu_type="H100")).policy.gpu_usage_threshold == 5


def test_an_instance_that_takes_any_gpu_follows_the_policy_of_the_one_it_has(alice: Any) -> None:
    policy_set(
        scope=GPU_TYPE, owner=alice, gpu_type="rtx 4090", config=said(gpu_usage_threshold=1), by="alice"
    )
    assert policy_resolved(instance_of(alice)).policy.gpu_usage_threshold == 1


def test_the_same_gpu_in_another_spelling_is_the_same_policy(alice: Any) -> None:
    policy_set(
        scope=GPU_TYPE, owner=alice, gpu_type="RTX 4090", config=said(gpu_usage_threshold=1), by="alice"
    )
    policy_set(
        scope=GPU_TYPE, owner=alice, gpu_type="rtx_4090", config=said(gpu_usage_threshold=2), by="alice"
    )
    assert Policy.objects.get().config == said(gpu_usage_threshold=2)


def test_a_configuration_is_stored_with_an_event_that_says_who(alice: Any) -> None:
    instance = instance_of(alice)
    resolved = config_set(instance, said(gpu_usage_threshold=7), by="alice", now=T0)
    assert resolved.policy.gpu_usage_threshold == 7
    instance.refresh_from_db()
    assert instance.config == said(gpu_usage_threshold=7)
    event = Event.objects.get(subject_id=instance.pk)
    assert (event.code, event.by, event.at, event.reason) == (
        "config_changed",
        "alice",
        T0,
        "alice changed its configuration",
    )
    assert event.data["before"] == {}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (said(gpu_usage_threshold=300), "more than 0 and at most 100"),
        (said(pause_after_idle_minutes=0.1), "shorter than one check interval of 30 s"),
        (said(wake_method="scheduled"), "needs a wake_time or a sleep_time"),
    ],
)
def test_a_wrong_configuration_changes_nothing(alice: Any, config: dict[str, Any], sentence: str) -> None:
    instance = instance_of(alice, config={"gpu_usage_threshold": 7})
    with pytest.raises(PolicyInvalid, match=sentence):
        config_set(instance, config, by="alice")
    assert instance.config == said(gpu_usage_threshold=7), "the copy that was given is not left half changed"
    instance.refresh_from_db()
    assert instance.config == said(gpu_usage_threshold=7)
    assert not Event.objects.exists()


def test_a_level_is_checked_together_with_the_levels_around_it(alice: Any) -> None:
    with pytest.raises(PolicyInvalid, match="shorter than one check interval"):
        config_check(said(pause_after_idle_minutes=0.1), owner=alice)
    policy_set(scope=OWNER, owner=alice, config=said(check_interval_seconds=1), by="alice")
    config_check(said(pause_after_idle_minutes=0.1), owner=alice)
    with pytest.raises(PolicyInvalid, match="shorter than one check interval"):
        policy_set(scope=SITE, config=said(pause_after_idle_minutes=0.1), by="root")
    assert Policy.objects.count() == 1


def test_a_running_window_gets_its_new_end(alice: Any) -> None:
    instance = instance_of(alice)
    post(instance, (0, 2.0))
    verdicts_tick(at(1))
    config_set(instance, said(pause_after_idle_minutes=10), by="alice", now=at(5))
    assert (instance.idle_since, instance.idle_due_at) == (T0, at(600))


def test_a_changed_threshold_judges_the_window_again_from_its_readings(alice: Any) -> None:
    instance = instance_of(alice)
    for second, util in ((0, 4.0), (30, 1.0), (60, 1.0)):
        post(instance, (second, util))
        verdicts_tick(at(second))
    instance.refresh_from_db()
    assert instance.idle_since == T0
    config_set(instance, said(gpu_usage_threshold=3), by="alice", now=at(61))
    verdicts_tick(at(62))
    instance.refresh_from_db()
    assert instance.idle_since == at(30)


def test_a_policy_that_is_switched_off_ends_the_window_at_once(alice: Any) -> None:
    instance = instance_of(alice)
    post(instance, (0, 2.0))
    verdicts_tick(at(1))
    policy_set(scope=OWNER, owner=alice, config=said(enabled=False), by="alice", now=at(2))
    verdicts_tick(at(2))
    instance.refresh_from_db()
    assert instance.state == InstanceState.RUNNING


def test_a_hibernated_one_gets_the_new_end_of_its_pause(alice: Any) -> None:
    instance = asleep_of(alice)
    policy_set(scope=SITE, config=said(delete_after_pause_minutes=60), by="root", now=at(10))
    instance.refresh_from_db()
    assert instance.delete_due_at == at(3600)


def test_agents_are_told_how_often_to_post(alice: Any) -> None:
    instance = instance_of(alice)
    policy_set(scope=OWNER, owner=alice, config=said(check_interval_seconds=5), by="alice")
    instance.worker.refresh_from_db()
    assert instance.worker.check_interval_s == 5
    policy_remove(Policy.objects.get(), by="alice")
    instance.worker.refresh_from_db()
    assert instance.worker.check_interval_s == 30


def test_a_policy_and_its_end_leave_their_trace(alice: Any) -> None:
    row = policy_set(scope=OWNER, owner=alice, config=said(enabled=False), by="root", now=T0)
    policy_remove(row, by="alice", now=at(1))
    events = Event.objects.filter(subject_type="policy").order_by("id")
    assert [(event.code, event.by, event.owner_id) for event in events] == [
        ("policy_changed", "root", alice.pk),
        ("policy_removed", "alice", alice.pk),
    ]
    assert str(events[0].reason) == "root changed the policy of owner alice"


def test_an_owners_schedule_reaches_all_her_instances(alice: Any) -> None:
    instances = [instance_of(alice, name=name) for name in ("a", "b")]
    schedule = {"wake_time": "09:00", "sleep_time": "18:00", "timezone": "America/Sao_Paulo"}
    policy_set(
        scope=OWNER, owner=alice, config=said(wake_method="scheduled", schedule=schedule), by="alice", now=T0
    )
    rows = Schedule.objects.filter(instance__in=instances)
    assert {row.next_sleep_at for row in rows} == {at(6.5 * 3600)}
    assert len(rows) == 2
    config_set(instances[0], said(wake_method="manual"), by="alice", now=T0)
    assert Schedule.objects.get(instance=instances[0]).next_wake_at is None
    assert Schedule.objects.get(instance=instances[1]).next_wake_at is not None


def test_a_stored_level_that_cannot_be_read_stops_only_those_that_need_it(alice: Any) -> None:
    Policy.objects.create(scope=OWNER, owner=person("bob"), config=said(later_version=1))
    bobs, mine = instance_of(Policy.objects.get().owner), instance_of(alice)
    levels = policies.levels_of([bobs, mine])
    assert levels.of(mine).policy.enabled
    with pytest.raises(PolicyInvalid):
        levels.of(bobs)


def test_many_instances_cost_as_many_queries_as_one(alice: Any, django_assert_num_queries: Any) -> None:
    policy_set(scope=GPU_TYPE, owner=alice, gpu_type="A100", config=said(gpu_usage_threshold=1), by="alice")
    for number in range(5):
        instance_of(alice, name=str(number))
    instances = list(Instance.objects.all())
    with django_assert_num_queries(2):
        assert len(policies.policies_resolved(instances)) == 5


def locked_in_order(queries: CaptureQueriesContext) -> list[str]:
    """Whose rows each statement locks (also on SQLite, which has one lock for all and no words for it)."""
    found = []
    for query in queries:
        words = re.match(r'(UPDATE|SELECT .* FROM) "(pool_worker|hibernation_instance)"', query["sql"])
        if words and (words[1] == "UPDATE" or "FOR UPDATE" in query["sql"]):
            found.append(words[2])
    return found


def test_workers_are_locked_before_instances_as_everywhere(alice: Any) -> None:
    """The intake and the chains take them in this order: the other way round the two could lock each other up."""
    idle = {"state": InstanceState.IDLE, "idle_since": T0, "idle_due_at": at(180)}
    first, second = instance_of(alice, name="a", **idle), instance_of(alice, name="b", **idle)
    Worker.objects.filter(pk=first.worker_id).update(check_interval_s=20)
    with CaptureQueriesContext(connection) as queries:
        policy_set(scope=OWNER, owner=alice, config=said(check_interval_seconds=20), by="alice")
    locked = locked_in_order(queries)
    assert locked == sorted(locked, reverse=True) and len(set(locked)) == 2
    if connection.features.has_select_for_update:
        with CaptureQueriesContext(connection) as queries:
            config_set(second, said(gpu_usage_threshold=7), by="alice")
        assert locked_in_order(queries)[0] == "pool_worker"
