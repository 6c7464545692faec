"""The instance routes: what they answer, to whom, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from core.models import Chain, Event
from core.transitions import advance
from hibernation.api import examples
from hibernation.api.serializers import InstanceCreateSerializer, InstanceSerializer
from hibernation.models import Box, Instance
from hibernation.policy import parse
from hibernation.reasons import because
from hibernation.services.schedules import schedule_set
from hibernation.services.verdicts import verdicts_tick
from hibernation.states import BoxState, InstanceState
from pool.models import Account, Dispatch
from tests.hibernation.rows import (
    account_of,
    asleep_of,
    box_of,
    instance_of,
    person,
    snapshot_of,
    work_of,
)

pytestmark = pytest.mark.django_db

Client = Callable[..., Any]

POLICY = {
    "auto_hibernation": {
        "enabled": True,
        "pause_after_idle_minutes": 3,
        "delete_after_pause_minutes": 30,
        "gpu_usage_threshold": 5,
        "check_interval_seconds": 30,
        "wake_method": "manual",
        "schedule": {
            "wake_time": "09:00",
            "sleep_time": "18:00",
            "timezone": "America/Sao_Paulo",
            "weekdays": [0, 1, 2, 3, 4, 5, 6],
        },
    }
}


@pytest.fixture
def alice() -> Any:
    return person("alice")


@pytest.fixture
def api(api_client: Client, alice: Any) -> Any:
    return api_client(alice)


def refused(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.content
    body = answer.json()
    assert body["code"] and body["message"]
    assert "hint" in body
    return dict(body)


# -- whose ----------------------------------------------------------------------------------------------------------------

ROUTES = [
    ("get", ""),
    ("delete", ""),
    ("post", "/wake"),
    ("post", "/hibernate"),
    ("post", "/keep-awake"),
    ("put", "/config"),
    ("get", "/config"),
    ("put", "/schedule"),
    ("get", "/events"),
    ("get", "/samples"),
    ("get", "/chains"),
    ("get", "/savings"),
    ("get", "/why"),
]


@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_another_owners_instance_is_not_there(api: Any, method: str, route: str) -> None:
    theirs = instance_of(person("bob"))
    refused(getattr(api, method)(f"/api/instances/{theirs.pk}{route}", {"minutes": 5}), 404)
    assert not Event.objects.exists()
    theirs.refresh_from_db()
    assert theirs.state == InstanceState.RUNNING


@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_nobody_gets_in_without_a_token_and_nothing_changes_with_one_that_only_reads(
    api_client: Client, alice: Any, method: str, route: str
) -> None:
    instance = instance_of(alice)
    path = f"/api/instances/{instance.pk}{route}"
    refused(getattr(api_client(), method)(path, {"minutes": 5}), 401)
    answer = getattr(api_client(alice, "read"), method)(path, {"minutes": 5})
    if method == "get":
        assert answer.status_code == 200
    else:
        refused(answer, 403)
        assert not Event.objects.exists()


def test_lists_show_ones_own_and_staff_sees_all(api_client: Client, alice: Any) -> None:
    instance_of(alice, name="mine")
    instance_of(person("bob"), name="theirs")
    assert [row["name"] for row in api_client(alice).get("/api/instances").json()["results"]] == ["mine"]
    everybody = api_client(person("root", is_staff=True)).get("/api/instances").json()
    assert {row["name"] for row in everybody["results"]} == {"mine", "theirs"}


def test_lists_are_narrowed_by_status_and_name(api: Any, alice: Any) -> None:
    instance_of(alice, name="awake")
    asleep_of(alice, name="asleep")

    def names(**query: str) -> list[str]:
        return [row["name"] for row in api.get("/api/instances", query).json()["results"]]

    assert names(status="hibernated") == ["asleep"]
    assert names(name="awake") == ["awake"]
    assert "status:" in refused(api.get("/api/instances", {"status": "snoring"}), 400)["message"]


# -- looking ------------------------------------------------------------------------------------------------------------


def test_an_instance_shows_its_state_its_policy_its_box_and_its_price(api: Any, alice: Any) -> None:
    instance = instance_of(alice, price="0.42", config={"gpu_usage_threshold": 7}, gpu_util=3.0)
    body = api.get(f"/api/instances/{instance.pk}").json()
    assert body["id"] == instance.pk
    assert (body["status"], body["owner"], body["gpu_util"]) == ("running", "alice", 3.0)
    assert body["price_usd_per_h"] == "0.4200"
    assert body["box"]["provider_ref"] == "ref-1"
    assert body["auto_hibernation"]["gpu_usage_threshold"] == 7
    assert body["auto_hibernation"]["pause_after_idle_minutes"] == 3
    assert (body["progress"], body["snapshot"], body["idle_since"]) == (None, None, None)


def test_the_price_is_of_all_boxes_that_are_still_billed(api: Any, alice: Any) -> None:
    instance = instance_of(alice, price="0.42", epoch=2)
    snapshot = snapshot_of(instance)
    box_of(instance, epoch=1, price="0.30", state=BoxState.DESTROYING, safe_snapshot=snapshot, safe_epoch=1)
    assert api.get(f"/api/instances/{instance.pk}").json()["price_usd_per_h"] == "0.7200"
    Box.objects.filter(instance=instance).update(state=BoxState.GONE, gone_at=timezone.now())
    asleep = api.get(f"/api/instances/{instance.pk}").json()
    assert (asleep["price_usd_per_h"], asleep["box"]) == ("0.0000", None)


def test_a_chain_shows_its_phase_its_bytes_and_the_time_left(api: Any, alice: Any) -> None:
    instance = instance_of(alice)
    api.post(f"/api/instances/{instance.pk}/hibernate")
    Chain.objects.update(step="snapshot")
    now = timezone.now()
    work = work_of(instance, kind=Dispatch.Kind.SNAPSHOT)
    Dispatch.objects.filter(pk=work.pk).update(
        claimed_at=now - timedelta(seconds=10),
        progress_at=now,
        progress={
            "phase": "upload",
            "bytes_done": 400,
            "bytes_total": 1000,
            "files_done": 4,
            "files_total": 9,
        },
    )
    progress = api.get(f"/api/instances/{instance.pk}").json()["progress"]
    assert progress["steps"] == ["drain", "snapshot", "verify", "recheck", "destroy", "confirm"]
    assert (progress["kind"], progress["step"], progress["phase"]) == ("hibernate", "snapshot", "upload")
    assert (progress["bytes_done"], progress["bytes_total"], progress["files_total"]) == (400, 1000, 9)
    assert (progress["bytes_per_s"], progress["left_s"]) == (40, 15)
    assert progress["percent"] == pytest.approx(100 * 1.4 / 6, abs=0.1)


def test_work_of_an_earlier_box_is_no_progress_of_this_chain(api: Any, alice: Any) -> None:
    instance = instance_of(alice)
    api.post(f"/api/instances/{instance.pk}/hibernate")
    Chain.objects.update(step="snapshot")
    work = work_of(instance, kind=Dispatch.Kind.SNAPSHOT)
    Dispatch.objects.filter(pk=work.pk).update(epoch=0, progress={"bytes_done": 400, "bytes_total": 1000})
    progress = api.get(f"/api/instances/{instance.pk}").json()["progress"]
    assert (progress["bytes_total"], progress["phase"], progress["left_s"]) == (0, "snapshot", None)


def test_a_list_costs_as_many_queries_for_many_as_for_one(api: Any, alice: Any) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert api.get("/api/instances").status_code == 200
        return len(captured)

    instance_of(alice, name="first")
    queries()  # the first use of a token is written down
    few = queries()
    for number in range(6):
        instance_of(alice, name=str(number))
    assert queries() == few


def test_events_say_what_was_billed_and_go_on_after_an_id(api: Any, alice: Any) -> None:
    instance = instance_of(alice, price="0.42")
    advance(instance, InstanceState.IDLE, reason=because("awake_no_reading"))
    advance(instance, InstanceState.RUNNING, reason=because("awake_no_reading"))
    page = api.get(f"/api/instances/{instance.pk}/events").json()
    assert [row["code"] for row in page["results"]] == ["active_again", "idle_detected"]
    assert page["results"][0]["usd_per_h"] == 0.42
    assert page["results"][0]["reason"].startswith("its agent has sent no reading")
    after = page["results"][1]["id"]
    later = api.get(f"/api/instances/{instance.pk}/events", {"after": after}).json()
    assert [row["code"] for row in later["results"]] == ["active_again"]
    assert (
        "not the id of an event"
        in refused(api.get(f"/api/instances/{instance.pk}/events", {"after": "x"}), 400)["message"]
    )


def test_samples_and_chains_page_from_the_newest(api: Any, alice: Any) -> None:
    instance = instance_of(alice)
    now = timezone.now()
    for second in range(3):
        instance.worker.samples.create(
            epoch=1, at=now + timedelta(seconds=second), gpu_util=second, readings={"cpu_util": 1.0}
        )
    page = api.get(f"/api/instances/{instance.pk}/samples", {"limit": 2}).json()
    assert (page["count"], [row["gpu_util"] for row in page["results"]]) == (3, [2, 1])
    assert page["results"][0]["readings"] == {"cpu_util": 1.0}
    api.post(f"/api/instances/{instance.pk}/hibernate")
    (chain,) = api.get(f"/api/instances/{instance.pk}/chains").json()["results"]
    assert (chain["kind"], chain["status"], chain["step"], chain["steps"]) == (
        "hibernate",
        "active",
        "drain",
        [],
    )


# -- renting and giving up ------------------------------------------------------------------------------------------------


def test_an_instance_is_rented_with_a_policy_of_its_own(api: Any, alice: Any) -> None:
    account = account_of(alice)
    answer = api.post(
        "/api/instances",
        {
            "name": "llm-dev",
            "account": account.pk,
            "gpu_type": "RTX 4090",
            "price_cap_usd_per_h": "0.60",
            "config": POLICY,
        },
    )
    assert answer.status_code == 201, answer.content
    body = answer.json()
    assert (body["status"], body["gpu_type"], body["price_cap_usd_per_h"]) == (
        "provisioning",
        "RTX 4090",
        "0.6000",
    )
    assert body["auto_hibernation"]["schedule"]["timezone"] == "America/Sao_Paulo"
    assert body["progress"]["kind"] == "provision"


def test_the_account_may_be_left_out_where_there_is_only_one_that_rents(api: Any, alice: Any) -> None:
    assert "no account" in refused(api.post("/api/instances", {"name": "a"}), 400)["message"]
    account_of(alice, kind=Account.Kind.COLAB, label="colab")
    account = account_of(alice)
    assert api.post("/api/instances", {"name": "a"}).json()["account"] == account.pk
    account_of(alice, label="second")
    assert "several accounts" in refused(api.post("/api/instances", {"name": "b"}), 400)["message"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": ""}, "name:"),
        ({"disk_bytes": 1}, "disk_bytes:"),
        ({"price_cap_usd_per_h": "0"}, "price_cap_usd_per_h:"),
        (
            {"config": {"auto_hibernation": {"gpu_usage_threshold": 300}}},
            "must be more than 0 and at most 100, not 300",
        ),
        ({"config": {"enabled": True}}, 'enabled belongs inside "auto_hibernation"'),
        ({"config": [1]}, "must be a JSON object"),
        (
            {"config": {"auto_hibernation": {"pause_after_idle_minutes": 0.1}}},
            "shorter than one check interval of 30 s",
        ),
    ],
)
def test_what_cannot_be_rented_is_refused_whole(
    api: Any, alice: Any, fields: dict[str, Any], sentence: str
) -> None:
    account = account_of(alice)
    body = refused(api.post("/api/instances", {"name": "x", "account": account.pk, **fields}), 400)
    assert sentence in body["message"]
    assert not Instance.objects.exists()


def test_another_persons_account_cannot_be_rented_from(api: Any) -> None:
    theirs = account_of(person("bob"))
    assert (
        "you have no account"
        in refused(api.post("/api/instances", {"name": "x", "account": theirs.pk}), 400)["message"]
    )


def test_one_that_is_awake_is_given_up_only_in_so_many_words(api: Any, alice: Any) -> None:
    instance = instance_of(alice)
    body = refused(api.delete(f"/api/instances/{instance.pk}"), 409)
    assert "?discard=workspace" in body["hint"]
    refused(api.delete(f"/api/instances/{instance.pk}?discard=yes"), 400)
    instance.refresh_from_db()
    assert instance.state == InstanceState.RUNNING
    answer = api.delete(f"/api/instances/{instance.pk}?discard=workspace")
    assert answer.status_code == 202
    assert answer.json()["chain"]["kind"] == "discard"


def test_one_that_sleeps_is_given_up_and_its_snapshot_stays(api: Any, alice: Any) -> None:
    instance = asleep_of(alice)
    assert api.delete(f"/api/instances/{instance.pk}").status_code == 204
    instance.refresh_from_db()
    assert (instance.state, instance.snapshot.state) == (InstanceState.DELETED, "verified")


def test_one_that_is_on_its_way_is_not_given_up_in_the_middle(api: Any, alice: Any) -> None:
    instance = asleep_of(alice)
    api.post(f"/api/instances/{instance.pk}/wake")
    assert (
        "its wake chain is at reserve" in refused(api.delete(f"/api/instances/{instance.pk}"), 409)["message"]
    )
    instance.refresh_from_db()
    assert instance.state == InstanceState.WAKING


def test_one_that_its_policy_deleted_is_given_up_for_good_by_its_owner(api: Any, alice: Any) -> None:
    instance = asleep_of(alice, state=InstanceState.DELETED, reason_code="paused_long_enough")
    for _ in range(2):
        assert api.delete(f"/api/instances/{instance.pk}").status_code == 204
    instance.refresh_from_db()
    assert instance.reason_code == "discard_asked", "its schedule will not wake it any more"
    assert Event.objects.filter(subject_id=instance.pk).count() == 1


# -- waking and sleeping ----------------------------------------------------------------------------------------------------


def test_a_wake_answers_at_once_with_its_chain_and_an_estimate(api: Any, alice: Any) -> None:
    instance = asleep_of(alice)
    answer = api.post(f"/api/instances/{instance.pk}/wake", {"gpu_type": "RTX 5090", "region": "eu"})
    assert answer.status_code == 202, answer.content
    body = answer.json()
    assert (body["status"], body["chain"]["kind"], body["chain"]["status"]) == ("waking", "wake", "active")
    assert set(body["estimate"]) == {"rent_s", "restore_s", "total_s", "bytes", "basis"}
    chain = Chain.objects.get()
    assert (chain.data["gpu_type"], chain.data["region"], chain.by) == ("RTX 5090", "eu", "alice")
    assert str(chain.reason) == "alice asked to wake it"


def test_one_wake_request_a_minute_and_instance(api: Any, alice: Any) -> None:
    first, second = asleep_of(alice, name="first"), asleep_of(alice, name="second")
    assert api.post(f"/api/instances/{first.pk}/wake").status_code == 202
    answer = api.post(f"/api/instances/{first.pk}/wake")
    assert refused(answer, 429)["code"] == "too_soon"
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert api.post(f"/api/instances/{second.pk}/wake").status_code == 202
    assert Chain.objects.filter(kind="wake").count() == 2


def test_one_that_is_awake_cannot_be_woken(api: Any, alice: Any) -> None:
    instance = instance_of(alice)
    assert "it is running" in refused(api.post(f"/api/instances/{instance.pk}/wake"), 409)["message"]


def test_it_is_put_to_sleep_when_its_owner_asks(api: Any, alice: Any) -> None:
    instance = instance_of(alice)
    answer = api.post(f"/api/instances/{instance.pk}/hibernate")
    assert answer.status_code == 202
    assert answer.json()["status"] == "hibernating"
    assert Chain.objects.get().data["asked"]
    refused(api.post(f"/api/instances/{instance.pk}/hibernate"), 409)


def test_keep_awake_holds_and_zero_lifts_the_hold(api: Any, alice: Any) -> None:
    instance = instance_of(alice)
    held = api.post(f"/api/instances/{instance.pk}/keep-awake", {"minutes": 30}).json()
    assert held["keep_awake_until"] is not None
    lifted = api.post(f"/api/instances/{instance.pk}/keep-awake", {"minutes": 0}).json()
    assert lifted["keep_awake_until"] is None
    for minutes in (-1, 10_081, "long", None):
        refused(api.post(f"/api/instances/{instance.pk}/keep-awake", {"minutes": minutes}), 400)


# -- policy and schedule --------------------------------------------------------------------------------------------------------


def test_the_configuration_of_the_design_is_taken_and_shown_with_its_origins(api: Any, alice: Any) -> None:
    instance = instance_of(alice)
    answer = api.put(f"/api/instances/{instance.pk}/config", POLICY)
    assert answer.status_code == 200, answer.content
    body = api.get(f"/api/instances/{instance.pk}/config").json()
    assert body == answer.json()
    assert body["own"] == POLICY
    own = POLICY["auto_hibernation"]
    assert {key: body["auto_hibernation"][key] for key in own} == own
    assert body["origins"]["schedule.timezone"] == "instance"
    assert body["origins"]["verify_share"] == "default"


def test_a_wrong_configuration_is_refused_by_field(api: Any, alice: Any) -> None:
    instance = instance_of(alice)
    wrong = {"auto_hibernation": {"gpu_usage_threshold": 300, "pause_after_idle_minutes": 0}}
    body = refused(api.put(f"/api/instances/{instance.pk}/config", wrong), 400)
    assert body["fields"] == {
        "auto_hibernation.gpu_usage_threshold": ["must be more than 0 and at most 100, not 300"],
        "auto_hibernation.pause_after_idle_minutes": ["must be more than 0 and at most 10080, not 0"],
    }
    for junk in ([], [1], "x"):
        refused(api.put(f"/api/instances/{instance.pk}/config", junk), 400)
    instance.refresh_from_db()
    assert instance.config == {}


def test_a_schedule_answers_its_next_moments(api: Any, alice: Any) -> None:
    instance = instance_of(alice)
    schedule = {
        "wake_time": "09:00",
        "sleep_time": "18:00",
        "timezone": "America/Sao_Paulo",
        "weekdays": [0, 1],
    }
    answer = api.put(f"/api/instances/{instance.pk}/schedule", schedule)
    assert answer.status_code == 200, answer.content
    body = answer.json()
    assert {key: body[key] for key in schedule} == schedule
    assert body["next_wake_at"].endswith("T12:00:00Z")
    assert body["next_sleep_at"].endswith("T21:00:00Z")
    shown = api.get(f"/api/instances/{instance.pk}").json()
    assert shown["schedule"]["next_wake_at"] == body["next_wake_at"]
    assert shown["auto_hibernation"]["wake_method"] == "scheduled"


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        ({"wake_time": "9am"}, "must be a time as HH:MM"),
        ({"wake_time": "09:00", "timezone": "Nowhere"}, "is not a time zone"),
        ({"wake": "09:00"}, "a schedule is an object of"),
        ([], "a schedule is an object of"),
    ],
)
def test_a_wrong_schedule_is_refused(api: Any, alice: Any, schedule: Any, sentence: str) -> None:
    instance = instance_of(alice)
    assert sentence in refused(api.put(f"/api/instances/{instance.pk}/schedule", schedule), 400)["message"]


def test_the_examples_of_the_document_are_what_the_routes_take_and_answer() -> None:
    assert examples.CONFIG.value == POLICY
    parse(examples.CONFIG.value)
    parse({"auto_hibernation": examples.RESOLVED.value["auto_hibernation"]})
    assert set(examples.INSTANCE.value) == set(InstanceSerializer().fields)
    assert InstanceCreateSerializer(data=examples.CREATE.value).is_valid(raise_exception=True)


# -- why, savings -----------------------------------------------------------------------------------------------------------


def test_why_says_what_keeps_it_awake_and_what_comes_next(api: Any, alice: Any) -> None:
    now = timezone.now()
    instance = instance_of(alice, awake_since=now - timedelta(hours=1))
    for ago in (90, 60, 30, 1):
        instance.worker.samples.create(epoch=1, at=now - timedelta(seconds=ago), gpu_util=2.0)
    verdicts_tick(timezone.now())
    schedule_set(instance, wake_time=None, sleep_time="18:00", timezone="UTC", by="alice")
    body = api.get(f"/api/instances/{instance.pk}/why").json()
    assert (body["status"], body["code"]) == ("idle", "idle_counting")
    assert "below 5 % since" in body["why"]
    assert {item["what"] for item in body["next"]} == {"hibernate", "sleep"}
    assert len(body["verdict"]["samples"]) == 4
    assert body["verdict"]["idle"]
    assert (body["slept"], body["woke"], body["progress"]) == (None, None, None)


def test_why_says_why_it_stopped_and_when_it_will_wake(api: Any, alice: Any) -> None:
    instance = asleep_of(alice)
    Instance.objects.filter(pk=instance.pk).update(state=InstanceState.RUNNING)
    api.post(f"/api/instances/{instance.pk}/hibernate")
    Chain.objects.all().delete()
    Instance.objects.filter(pk=instance.pk).update(state=InstanceState.HIBERNATED)
    instance.refresh_from_db()
    schedule_set(instance, wake_time="09:00", sleep_time=None, timezone="UTC", by="alice")
    body = api.get(f"/api/instances/{instance.pk}/why").json()
    assert body["slept"]["reason"] == "alice asked for it"
    assert body["slept"]["by"] == "alice"
    assert [item["what"] for item in body["next"]] == ["delete", "wake"]
    assert body["verdict"] is None


def test_savings_show_measured_and_estimated_apart(api: Any, alice: Any) -> None:
    now = timezone.now()
    hours = timedelta(hours=1)
    instance = asleep_of(alice, price="0.50")
    Box.objects.filter(instance=instance).update(rented_at=now - 10 * hours, gone_at=now - 8 * hours)
    snapshot = instance.snapshot
    type(snapshot).objects.filter(pk=snapshot.pk).update(
        committed_at=now - 8 * hours, stored_bytes=90 * 10**9
    )
    body = api.get(f"/api/instances/{instance.pk}/savings").json()
    assert body["gpu"] == {"basis": "measured", "hours": 2.0, "usd": "1.0000"}
    assert body["storage"]["basis"] == "estimated"
    assert Decimal(body["storage"]["usd"]) == Decimal("0.0150")
    assert float(body["always_on"]["usd"]) == pytest.approx(5.0, abs=0.01)
    assert float(body["saved_usd"]) == pytest.approx(3.985, abs=0.01)
    assert body["saved_percent"] == pytest.approx(79.7, abs=0.1)
    assert body["lines"][0] == "GPU: 2.000 h, $1.0000 (measured)"


def test_savings_of_all_are_the_sum_and_only_of_ones_own(api: Any, alice: Any) -> None:
    now = timezone.now()
    for number in range(2):
        instance = instance_of(alice, name=str(number), price="0.50")
        Box.objects.filter(instance=instance).update(rented_at=now - timedelta(hours=2))
    Box.objects.filter(instance=instance_of(person("bob"))).update(rented_at=now - timedelta(hours=2))
    body = api.get("/api/savings").json()
    assert [row["name"] for row in body["instances"]] == ["0", "1"]
    assert float(body["gpu"]["usd"]) == pytest.approx(2.0, abs=0.01)
    assert body["saved_percent"] == pytest.approx(0, abs=0.01)


def test_a_period_is_checked(api: Any, alice: Any) -> None:
    instance = instance_of(alice)
    path = f"/api/instances/{instance.pk}/savings"
    today = f"{timezone.now():%Y-%m-%d}"
    assert api.get(path, {"start": "2026-11-01", "end": today}).json()["start"] == "2026-11-01T00:00:00Z"
    assert "is not a time" in refused(api.get(path, {"start": "yesterday"}), 400)["message"]
    assert "is not a time" in refused(api.get(path, {"start": "2026-13-01"}), 400)["message"]
    assert "is not a time" in refused(api.get(path, {"start": "2026-11-01T00:00:00"}), 400)["message"]
    assert "is empty" in refused(api.get(path, {"start": "2020-02-01", "end": "2020-01-01"}), 400)["message"]
    whole = api.get(path, {"start": "2020-01-01", "end": "2999-01-01"}).json()
    assert whole["end"] < "2999", "the future is not counted"


def test_time_paid_for_sleeping_is_counted(api: Any, alice: Any) -> None:
    now = timezone.now()
    instance = asleep_of(alice)
    steps = (
        (InstanceState.WAKING, 100, because("wake_asked", by="alice")),
        (InstanceState.HIBERNATED, 90, because("awake_no_reading")),
        (InstanceState.WAKING, 80, because("wake_asked", by="alice")),
        (InstanceState.RUNNING, 50, because("awake_no_reading")),
    )
    for state, ago, reason in steps:
        advance(instance, state, reason=reason, now=now - timedelta(seconds=ago))
    time = api.get(f"/api/instances/{instance.pk}/savings").json()["paid_in_time"]
    assert time == {
        "wakes": 1,
        "failed_wakes": 1,
        "hibernations": 0,
        "stopped_hibernations": 0,
        "waiting_s": 40.0,
    }
