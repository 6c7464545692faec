"""Instances and policies in the console."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.test import Client
from django.urls import reverse

from core.models import Chain, Event
from core.reasons import because
from hibernation.models import Box, Instance, Policy
from hibernation.states import BoxState, InstanceState
from tests.hibernation.rows import account_of, asleep_of, box_of, instance_of, person

pytestmark = pytest.mark.django_db

SENT = {"_form_submitted": "on"}


@pytest.fixture
def alice() -> Any:
    return person("alice")


@pytest.fixture
def console() -> Client:
    client = Client(headers={"accept-language": "en"})
    client.force_login(
        person("root", is_staff=True, is_superuser=True), backend="django.contrib.auth.backends.ModelBackend"
    )
    return client


def do(console: Client, action: str, row: Instance | None = None, /, **fields: Any) -> Any:
    path = reverse(f"admin:hibernation_instance_{action}", args=[quote(row.pk)] if row else [])
    return console.post(path, {**SENT, **fields})


def said(console: Client) -> str:
    """What the next page says above its list."""
    answer = console.get(reverse("admin:hibernation_instance_changelist"))
    return " | ".join(str(message) for message in answer.context["messages"])


def change(console: Client, row: Instance, **fields: Any) -> Any:
    path = reverse("admin:hibernation_instance_change", args=[quote(row.pk)])
    form = {
        "name": row.name,
        "gpu_type": row.gpu_type,
        "region": row.region,
        "price_cap_usd_per_h": "",
        "on_wake": row.on_wake,
        "config": json.dumps(row.config),
        "boxes-TOTAL_FORMS": 0,
        "boxes-INITIAL_FORMS": 0,
    }
    return console.post(path, {**form, **fields})


# -- actions ------------------------------------------------------------------------------------------------------------


def test_wake_starts_one_chain_with_what_was_chosen(console: Client, alice: Any) -> None:
    instance = asleep_of(alice)
    assert do(console, "wake", instance, gpu_type="RTX 5090", region="eu").status_code == 302
    chain = Chain.objects.get()
    assert (chain.kind, chain.by, chain.data["gpu_type"], chain.data["region"]) == (
        "wake",
        "root",
        "RTX 5090",
        "eu",
    )
    assert said(console) == "studio is waking."


def test_the_wake_dialog_says_how_long_it_will_take(console: Client, alice: Any) -> None:
    answer = console.get(reverse("admin:hibernation_instance_wake", args=[asleep_of(alice).pk]))
    assert "About 2 min to rent and start a machine" in answer.content.decode()


def test_a_dialog_that_htmx_sends_is_answered_with_where_to_go(console: Client, alice: Any) -> None:
    path = reverse("admin:hibernation_instance_hibernate", args=[instance_of(alice).pk])
    answer = console.post(path, SENT, headers={"hx-request": "true"})
    assert answer.headers["HX-Redirect"] == reverse("admin:hibernation_instance_changelist")
    assert Instance.objects.get().state == InstanceState.HIBERNATING


def test_what_makes_no_sense_is_said_in_the_dialog(console: Client, alice: Any) -> None:
    awake = instance_of(alice)
    answer = do(console, "wake", awake)
    assert "Only one that sleeps can be woken: it is running." in answer.content.decode()
    assert (
        "Only one that is awake can be put to sleep"
        in do(console, "hibernate", asleep_of(alice, name="b")).content.decode()
    )
    assert not Chain.objects.exists()


def test_what_a_service_refuses_is_said_on_the_next_page(console: Client, alice: Any) -> None:
    instance = instance_of(alice, restore_incomplete=True)
    assert do(console, "hibernate", instance).status_code == 302
    assert "its last restore was incomplete" in said(console)


def test_a_stranded_box_goes_when_somebody_types_its_label(console: Client, alice: Any) -> None:
    instance = instance_of(alice, epoch=2)
    live, stranded = Box.objects.get(), box_of(instance, epoch=1, state=BoxState.STRANDED)

    def discard(box: Box, label: str) -> str:
        path = reverse("admin:hibernation_box_discard", args=[box.pk])
        answer = console.post(path, {**SENT, "confirm": label})
        box.refresh_from_db()
        return str(answer.content.decode())

    assert "Only a stranded box" in discard(live, live.label)
    assert "This is not its label." in discard(stranded, "another")
    assert (live.state, stranded.state) == (BoxState.RUNNING, BoxState.STRANDED)
    discard(stranded, stranded.label)
    assert (stranded.state, stranded.discarded_by) == (BoxState.DESTROYING, "root")


def test_keep_awake_holds_for_the_minutes_that_were_entered(console: Client, alice: Any) -> None:
    instance = instance_of(alice)
    do(console, "keep_awake", instance, minutes="90")
    assert said(console) == "studio is kept awake for 90 minutes."
    instance.refresh_from_db()
    assert instance.keep_awake_until is not None
    assert (
        "Ensure this value is less than"
        in do(console, "keep_awake", instance, minutes="99999").content.decode()
    )


def test_giving_up_needs_the_name_and_for_one_that_is_awake_the_word(console: Client, alice: Any) -> None:
    instance = instance_of(alice)
    assert (
        "This is not its name."
        in do(console, "give_up", instance, confirm="x", discard="on").content.decode()
    )
    assert "its work may be lost" in do(console, "give_up", instance, confirm="studio").content.decode()
    assert not Chain.objects.exists()
    do(console, "give_up", instance, confirm="studio", discard="on")
    assert Chain.objects.get().kind == "discard"


def test_an_instance_is_rented_for_the_owner_of_the_account(console: Client, alice: Any) -> None:
    account = account_of(alice)
    do(
        console,
        "rent",
        name="llm-dev",
        account=account.pk,
        gpu_type="RTX 4090",
        price_cap_usd_per_h="0.6",
        disk_gb="80",
    )
    instance = Instance.objects.get()
    assert (instance.owner, instance.disk_bytes, instance.state) == (
        alice,
        80 * 10**9,
        InstanceState.PROVISIONING,
    )
    assert Chain.objects.get().by == "root"
    again = do(console, "rent", name="llm-dev", account=account.pk, disk_gb="80")
    assert "another instance of this name" in again.content.decode()


# -- pages ----------------------------------------------------------------------------------------------------------------


def test_what_the_engine_owns_cannot_be_typed(console: Client, alice: Any) -> None:
    instance = instance_of(alice)
    page = console.get(reverse("admin:hibernation_instance_change", args=[quote(instance.pk)]))
    assert set(page.context["adminform"].form.fields) == {
        "name",
        "gpu_type",
        "region",
        "price_cap_usd_per_h",
        "on_wake",
        "config",
    }
    answer = change(console, instance, name="renamed", state="hibernated", epoch=9, owner=1)
    assert answer.status_code == 302, answer.context["adminform"].form.errors
    instance.refresh_from_db()
    assert (instance.name, instance.state, instance.epoch, instance.owner) == ("renamed", "running", 1, alice)


def test_saving_the_page_does_not_bring_back_what_the_engine_wrote_meanwhile(
    console: Client, alice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hibernation.admin.instances import InstanceAdmin

    instance = instance_of(alice)
    real = InstanceAdmin.save_model

    def late(self: Any, request: Any, obj: Instance, form: Any, change: bool) -> None:
        Instance.objects.filter(pk=obj.pk).update(state=InstanceState.IDLE, gpu_util=1.5)
        real(self, request, obj, form, change)

    monkeypatch.setattr(InstanceAdmin, "save_model", late)
    change(console, instance, on_wake="run")
    instance.refresh_from_db()
    assert (instance.on_wake, instance.state, instance.gpu_util) == ("run", InstanceState.IDLE, 1.5)


def test_a_configuration_is_checked_with_sentences_and_set_with_an_event(console: Client, alice: Any) -> None:
    instance = instance_of(alice)
    wrong = change(console, instance, config='{"auto_hibernation": {"gpu_usage_threshold": 300}}')
    assert "must be more than 0 and at most 100, not 300" in wrong.content.decode()
    change(console, instance, config='{"auto_hibernation": {"gpu_usage_threshold": 7}}')
    instance.refresh_from_db()
    assert instance.config == {"auto_hibernation": {"gpu_usage_threshold": 7}}
    assert Event.objects.get(code="config_changed").by == "root"
    assert change(console, instance, config="").status_code == 302
    instance.refresh_from_db()
    assert instance.config == {}


def test_a_name_that_its_owner_has_already_is_refused(console: Client, alice: Any) -> None:
    instance_of(alice, name="taken")
    answer = change(console, instance_of(alice, name="free"), name="taken")
    assert "another instance of this name" in answer.content.decode()


def test_the_list_shows_price_and_reason_of_each_in_as_many_queries_for_many(
    console: Client, alice: Any, django_assert_max_num_queries: Any
) -> None:
    for number in range(8):
        instance_of(alice, name=f"n{number}", price="0.42")
    path = reverse("admin:hibernation_instance_changelist")
    console.get(path)
    with django_assert_max_num_queries(14):
        page = console.get(path).content.decode()
    assert page.count("US$ 0.4200/h") == 8


def test_the_list_says_what_a_wake_waits_for(console: Client, alice: Any) -> None:
    do(console, "wake", asleep_of(alice), gpu_type="RTX 5090")
    path = reverse("admin:hibernation_instance_changelist")
    assert "no offer fits" not in console.get(path).content.decode()
    waits = because("waiting_for_offer", gpu="RTX 5090", region="any", cap="any price")
    Chain.objects.update(**Chain.reason_columns(waits))
    assert "no offer fits yet: GPU RTX 5090" in console.get(path).content.decode()


# -- policies ---------------------------------------------------------------------------------------------------------------


def policy_add(console: Client, **fields: Any) -> Any:
    return console.post(reverse("admin:hibernation_policy_add"), fields)


def test_a_policy_takes_effect_when_it_is_saved_changed_and_deleted(console: Client, alice: Any) -> None:
    instance = instance_of(alice)
    added = policy_add(
        console, scope="owner", owner=alice.pk, config='{"auto_hibernation": {"check_interval_seconds": 5}}'
    )
    assert added.status_code == 302, added.context["adminform"].form.errors
    instance.worker.refresh_from_db()
    assert instance.worker.check_interval_s == 5
    row = Policy.objects.get()
    console.post(
        reverse("admin:hibernation_policy_change", args=[row.pk]),
        {"config": '{"auto_hibernation": {"check_interval_seconds": 6}}'},
    )
    instance.worker.refresh_from_db()
    assert instance.worker.check_interval_s == 6
    console.post(reverse("admin:hibernation_policy_delete", args=[row.pk]), {"post": "yes"})
    instance.worker.refresh_from_db()
    assert instance.worker.check_interval_s == 30
    assert not Policy.objects.exists()
    assert list(Event.objects.filter(subject_type="policy").values_list("by", flat=True)) == ["root"] * 3


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"scope": "owner", "config": "{}"}, "Whose policy is it?"),
        ({"scope": "site", "owner": "ALICE", "config": '{"auto_hibernation": {}}'}, "has no owner"),
        (
            {"scope": "gpu_type", "owner": "ALICE", "config": '{"auto_hibernation": {}}'},
            "Which GPU type is it for?",
        ),
        (
            {
                "scope": "owner",
                "owner": "ALICE",
                "config": '{"auto_hibernation": {"pause_after_idle_minutes": 0}}',
            },
            "must be more than 0 and at most 720, not 0",
        ),
        (
            {
                "scope": "owner",
                "owner": "ALICE",
                "config": '{"auto_hibernation": {"schedule": {"timezone": "X"}}}',
            },
            "is not a time zone of the IANA list",
        ),
        (
            {
                "scope": "gpu_type",
                "owner": "ALICE",
                "gpu_type": "rtx_4090",
                "config": '{"auto_hibernation": {}}',
            },
            "There is one for this already",
        ),
    ],
)
def test_a_wrong_policy_is_refused_with_its_sentence(
    console: Client, alice: Any, fields: dict[str, str], sentence: str
) -> None:
    Policy.objects.create(scope="gpu_type", owner=alice, gpu_type="NVIDIA RTX 4090", config={})
    answer = policy_add(
        console, **{key: str(alice.pk) if value == "ALICE" else value for key, value in fields.items()}
    )
    assert answer.status_code == 200
    assert sentence in answer.content.decode()
    assert Policy.objects.count() == 1
