"""The instance routes: what they answer, to whom, and what they refuse."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from core.models import Chain, Event
from core.transitions import advance
from hibernation.api import examples
from hibernation.api.serializers import InstanceCreateSerializer, InstanceSerializer
from hibernation.models import Box
from hibernation.policy import parse
from hibernation.reasons import because
from hibernation.states import BoxState, InstanceState
from pool.models import Dispatch
from tests.hibernation.api.answers import POLICY, Client, refused
from tests.hibernation.rows import (
    asleep_of,
    box_of,
    instance_of,
    person,
    snapshot_of,
    work_of,
)

pytestmark = pytest.mark.django_db


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
        "auto_hibernation.pause_after_idle_minutes": ["must be more than 0 and at most 720, not 0"],
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
