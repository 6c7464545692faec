"""Over HTTP: rent, give up, wake, put to sleep, keep awake."""

from __future__ import annotations

from typing import Any

import pytest

from core.models import Chain, Event
from hibernation.models import Instance
from hibernation.states import BoxState, InstanceState
from pool.models import Account
from tests.hibernation.api.answers import POLICY, refused
from tests.hibernation.rows import account_of, asleep_of, box_of, instance_of, person

pytestmark = pytest.mark.django_db


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


def test_a_stranded_box_is_shown_with_its_price_and_goes_when_its_owner_says_so(api: Any, alice: Any) -> None:
    instance = instance_of(alice, epoch=2, price="0.42")
    path = f"/api/instances/{instance.pk}"
    refused(api.post(f"{path}/discard-stranded"), 409)
    box = box_of(instance, epoch=1, price="0.30", state=BoxState.STRANDED)
    body = api.get(path).json()
    assert [(row["id"], row["status"]) for row in body["boxes"]] == [
        (box.pk, "stranded"), (body["box"]["id"], "running"),
    ]  # fmt: skip
    body = api.post(f"{path}/discard-stranded").json()
    assert [row["status"] for row in body["boxes"]] == ["destroying", "running"]
    box.refresh_from_db()
    assert (box.discarded_by, box.reason) == ("alice", "discarded by alice")


@pytest.mark.parametrize("awake", [True, False])
def test_whoever_gives_an_instance_up_with_its_work_gives_up_its_stranded_boxes(
    api: Any, alice: Any, awake: bool
) -> None:
    instance = instance_of(alice, epoch=2) if awake else asleep_of(alice, epoch=2)
    box = box_of(instance, epoch=1, state=BoxState.STRANDED)
    assert api.delete(f"/api/instances/{instance.pk}?discard=workspace").status_code < 300
    box.refresh_from_db()
    assert (box.state, box.discarded_by) == (BoxState.DESTROYING, "alice")


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


def test_one_that_is_waking_sleeps_on_when_its_owner_asks(api: Any, alice: Any) -> None:
    instance = asleep_of(alice)
    assert api.post(f"/api/instances/{instance.pk}/wake").status_code == 202
    answer = api.post(f"/api/instances/{instance.pk}/hibernate")
    assert answer.status_code == 202
    assert answer.json()["status"] == "hibernated"
    wake = Chain.objects.get()
    assert (wake.kind, wake.state) == ("wake", "aborted")


def test_keep_awake_holds_and_zero_lifts_the_hold(api: Any, alice: Any) -> None:
    instance = instance_of(alice)
    held = api.post(f"/api/instances/{instance.pk}/keep-awake", {"minutes": 30}).json()
    assert held["keep_awake_until"] is not None
    lifted = api.post(f"/api/instances/{instance.pk}/keep-awake", {"minutes": 0}).json()
    assert lifted["keep_awake_until"] is None
    for minutes in (-1, 10_081, "long", None):
        refused(api.post(f"/api/instances/{instance.pk}/keep-awake", {"minutes": minutes}), 400)
