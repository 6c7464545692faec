"""The pool in the console: what is shown, and that nothing happens without a confirmed POST by somebody who may."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.html import escape

from agent import wire
from pool.models import Account, EnrollmentToken, Job, NotebookStart, Sample, TermsAcknowledgement, Worker
from pool.services.accounts import account_create
from pool.services.job_spec import FileSpec, JobSpec
from pool.services.jobs import jobs_dispatch
from pool.services.reports import dispatch_claim
from pool.services.submission import array_submit, job_submit
from pool.states import JobState, WorkerState
from pool.terms import COLAB, KAGGLE
from tests.pool.conftest import NOON, acknowledged
from tests.pool.services.jobs import identity
from tests.pool.services.test_artifacts import kept, piece, plan, report
from tests.pool.services.test_log_store import says

Enrol = Callable[..., Worker]
pytestmark = pytest.mark.usefixtures("valkey")


@pytest.fixture
def console(ops: User) -> Client:
    client = Client()
    client.force_login(ops)
    return client


def staff(name: str, *codenames: str) -> Client:
    person = User.objects.create_user(name, is_staff=True)
    person.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(person)
    return client


def page(model: str, verb: str = "changelist", *args: str) -> str:
    return reverse(f"admin:pool_{model}_{verb}", args=[quote(each) for each in args])


def confirm(client: Client, place: str, **fields: Any) -> Any:
    return client.post(place, {"_form_submitted": "true", **fields})


def test_every_page_of_the_pool_opens(console: Client, alice: User, enrol: Enrol) -> None:
    worker = enrol("w")
    job = job_submit(owner=alice, spec=JobSpec(command=["true"], env={"A": "hush"}))
    jobs_dispatch()
    sample = Sample.objects.create(worker=worker, epoch=1, at=NOON)
    rows = {
        "account": worker.account.pk,
        "worker": worker.pk,
        "job": job.pk,
        "dispatch": job.attempts.get().pk,
        "session": worker.sessions.get().pk,
        "sample": sample.pk,
        "enrollmenttoken": EnrollmentToken.objects.first().pk,
    }
    for model, pk in rows.items():
        for place in (page(model), page(model, "change", str(pk))):
            answer = console.get(place)
            assert answer.status_code == 200, place
            assert b"hush" not in answer.content


def test_a_page_opens_by_the_key_as_it_is_and_as_django_writes_it(console: Client, alice: User) -> None:
    job = Job.objects.create(pk="j_24abcdefghjkmnpq", owner=alice, name="hexadecimal", state=JobState.QUEUED)
    written = page("job", "change", job.pk)
    for place in (written, written.replace("_5F", "_"), written.replace("/change/", "/history/")):
        answer = console.get(place)
        assert (answer.status_code, b"hexadecimal" in answer.content) == (200, True), place


def test_a_jobs_page_shows_what_is_around_it_and_what_it_left(
    console: Client, alice: User, enrol: Enrol
) -> None:
    enrol("w", slots=3, now=timezone.now())
    array = array_submit(owner=alice, spec=JobSpec(script="echo <shared>", count=2, name="sweep"))
    first = job_submit(owner=alice, spec=JobSpec(command=["true"], name="<first>", artifacts=["*"]))
    given = FileSpec(path="in/<x>", data=b"123")
    second = job_submit(
        owner=alice,
        spec=JobSpec(command=["true"], name="second", after=[first.pk], files=[given], workdir="deep"),
    )
    jobs_dispatch()
    row = claimed(first)
    leaves(row, "out/<b>.pt", b"weights")
    says(row, b"hello <world>")

    text = console.get(page("job", "change", first.pk)).content.decode()
    assert f"second ({second.pk})" in text, "what comes after it"
    assert f'href="/api/jobs/{first.pk}/artifacts/out/%3Cb%3E.pt"' in text and "out/&lt;b&gt;.pt" in text
    assert "hello &lt;world&gt;" in text and "<world>" not in text
    text = console.get(page("job", "change", second.pk)).content.decode()
    assert "&lt;first&gt;" in text and "in/&lt;x&gt;" in text and "deep" in text
    assert f"waits for {first.pk} to have succeeded" in text
    member = array.jobs.get(array_index=1)
    text = console.get(page("job", "change", member.pk)).content.decode()
    assert "sweep" in text and "1/2" in text and "echo &lt;shared&gt;" in text
    fetched = console.get(f"/api/jobs/{first.pk}/artifacts/out/%3Cb%3E.pt")
    assert b"".join(Client().get(fetched["Location"]).streaming_content) == b"weights"


def test_an_array_is_cancelled_from_its_page(console: Client, alice: User, account: Account) -> None:
    array = array_submit(owner=alice, spec=JobSpec(command=["true"], count=3))
    for place in (page("jobarray"), page("jobarray", "change", array.pk)):
        assert console.get(place).status_code == 200
    assert "3 queued" in console.get(page("jobarray", "change", array.pk)).content.decode()
    confirm(console, reverse("admin:pool_jobarray_cancel", args=[array.pk]))
    assert array.jobs.filter(state=JobState.CANCELLED).count() == 3
    listed = console.get(f"{page('job')}?array__id__exact={array.pk}")
    assert listed.status_code == 200 and listed.content.decode().count("job_cancelled") == 0


def claimed(job: Job) -> Any:
    row = job.attempts.get()
    dispatch_claim(identity=identity(row.worker), dispatch_id=row.pk)
    row.refresh_from_db()
    return row


def leaves(row: Any, path: str, data: bytes) -> None:
    wish = piece(row, data)
    (signed,) = plan(row, wish).put
    assert Client().put(signed.url, data, content_type="application/octet-stream").status_code < 300
    report(row, kept(path, data, wish))


def test_a_page_of_workers_costs_a_fixed_number_of_queries(
    console: Client, enrol: Enrol, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    for number in range(12):
        enrol(f"w{number}")
    console.get(page("worker"))
    with django_assert_max_num_queries(14):
        console.get(page("worker"))


def test_a_workers_quota_is_shown_as_operators_read_it(console: Client, alice: User, enrol: Enrol) -> None:
    colab = account_create(owner=alice, kind="colab", label="c")
    worker = enrol("c1", into=colab)
    worker.sessions.update(runtime_s=10.8 * 3600)
    text = console.get(page("worker")).content.decode()
    assert "session 10.80h/11.5h (93.9%)" in text
    assert "NEAR LIMIT" in text


@pytest.mark.parametrize(
    ("verb", "state"), [("drain", WorkerState.DRAINING), ("revoke", WorkerState.REVOKED)]
)
def test_an_action_is_a_confirmed_post(console: Client, enrol: Enrol, verb: str, state: str) -> None:
    worker = enrol()
    place = reverse(f"admin:pool_worker_{verb}", args=[worker.pk])
    opened = console.get(place)
    assert opened.status_code == 200 and b"<form" in opened.content
    worker.refresh_from_db()
    assert worker.state == WorkerState.ONLINE

    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(username="ops"))
    assert confirm(strict, place).status_code == 403
    worker.refresh_from_db()
    assert worker.state == WorkerState.ONLINE

    done = confirm(console, place, note="smells of smoke")
    assert done["HX-Redirect"] == page("worker")
    worker.refresh_from_db()
    assert (worker.state, worker.reason) == (state, "an operator decided so: smells of smoke")


def test_whoever_may_only_look_may_not_act(enrol: Enrol) -> None:
    worker = enrol()
    place = reverse("admin:pool_worker_drain", args=[worker.pk])
    looking = staff("looker", "view_worker")
    assert looking.get(page("worker")).status_code == 200
    assert confirm(looking, place).status_code == 403
    assert confirm(staff("driver", "view_worker", "change_worker"), place).status_code == 200
    worker.refresh_from_db()
    assert worker.state == WorkerState.DRAINING


def test_what_a_service_refuses_is_said_and_nothing_changes(console: Client, enrol: Enrol) -> None:
    worker = enrol()
    Worker.objects.filter(pk=worker.pk).update(state=WorkerState.REVOKED)
    confirm(console, reverse("admin:pool_worker_drain", args=[worker.pk]))
    assert "cannot become draining: it is revoked" in console.get(page("worker")).content.decode()


def test_back_is_only_ever_a_page_of_this_console(console: Client, enrol: Enrol) -> None:
    worker = enrol()
    place = reverse("admin:pool_worker_undrain", args=[worker.pk])

    def back(url: str) -> str:
        return console.post(place, {"_form_submitted": "true"}, headers={"HX-Current-URL": url})[
            "HX-Redirect"
        ]

    assert back("http://testserver/pool/worker/?q=1") == "http://testserver/pool/worker/?q=1"
    assert back("https://evil.example/") == page("worker")


def test_a_worker_is_added_with_a_token_that_is_shown_once(
    console: Client, account: Account, api_client: Callable[..., Any]
) -> None:
    place = reverse("admin:pool_worker_join")
    fields = {"account": account.pk, "uses": 1, "minutes": 60}
    shown = confirm(console, place, **fields)
    assert "no-store" in shown["Cache-Control"]
    text = shown.content.decode()
    token = text.split("DORMOUSE_JOIN_TOKEN=")[1].split()[0]
    assert api_client().post(wire.ENROLL, {"token": token}).status_code == 200
    assert token not in console.get(page("enrollmenttoken")).content.decode()
    wrong = confirm(console, place, account="", uses=1, minutes=60)
    assert "This field is required" in wrong.content.decode()
    assert EnrollmentToken.objects.count() == 1


def test_one_joins_machines_to_ones_own_accounts_only(account: Account) -> None:
    driver = staff("driver", "change_worker")
    answer = confirm(driver, reverse("admin:pool_worker_join"), account=account.pk, uses=1, minutes=60)
    assert "Select a valid choice" in answer.content.decode()
    assert not EnrollmentToken.objects.exists()


def test_a_job_is_cancelled_from_its_page(console: Client, alice: User) -> None:
    job = job_submit(owner=alice, spec=JobSpec(command=["true"]))
    place = reverse("admin:pool_job_cancel", args=[job.pk])
    assert console.get(place).status_code == 200
    assert Job.objects.get().state == JobState.QUEUED
    confirm(console, place)
    job.refresh_from_db()
    assert (job.state, job.reason) == (JobState.CANCELLED, "cancelled by ops")


# -- accounts -----------------------------------------------------------------------------------------


def test_a_new_account_begins_with_the_limits_of_its_kind(console: Client, alice: User) -> None:
    fields = {"owner": alice.pk, "kind": "kaggle", "label": "k", "enabled": "on", "secret": ""}
    assert console.post(page("account", "add"), fields).status_code == 302
    account = Account.objects.get(label="k")
    assert (account.weekly_limit_h, account.session_shutdown_h, account.safe_percent) == (30, 8.5, 70)


def account_form(account: Account, **changed: Any) -> dict[str, Any]:
    columns = [
        "owner_id",
        "label",
        "session_limit_h",
        "session_shutdown_h",
        "weekly_limit_h",
        "safe_percent",
        "check_interval_s",
        "reset_weekday",
        "reset_hour",
        "reset_zone",
        "budget_usd_per_day",
        "budget_usd_per_month",
        "price_cap_usd_per_h",
    ]
    fields = {name.removesuffix("_id"): getattr(account, name) for name in columns}
    filled = {name: "" if value is None else value for name, value in fields.items()}
    return {**filled, "enabled": "on", "secret": "", **changed}


def test_a_secret_goes_in_by_a_password_field_and_never_comes_out(console: Client, alice: User) -> None:
    account = account_create(owner=alice, kind="vast", label="v")
    place = page("account", "change", account.pk)
    secret = json.dumps({"api_key": "vast-0123456789abcdef3"})
    assert console.post(place, account_form(account, secret=secret)).status_code == 302
    account.refresh_from_db()
    assert account.credentials == secret
    text = console.get(place).content.decode()
    assert "vast-0123" not in text
    assert "set, ends in …f3" in text
    assert 'type="password"' in text
    assert console.post(place, account_form(account, label="w")).status_code == 302
    account.refresh_from_db()
    assert (account.label, account.credentials) == ("w", secret)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"secret": "not json"}, "credentials must be a JSON object"),
        ({"reset_zone": "Mars"}, "is not a time zone"),
        ({"session_limit_h": "5", "session_shutdown_h": "6"}, "is later than session_limit_h"),
    ],
)
def test_a_wrong_account_is_not_saved(console: Client, alice: User, change: dict[str, str], why: str) -> None:
    account = account_create(owner=alice, kind="kaggle", label="k")
    answer = console.post(page("account", "change", account.pk), account_form(account, **change))
    assert answer.status_code == 200
    assert why in answer.content.decode()
    assert Account.objects.get().credentials == ""


# -- what the providers of notebooks forbid, and their notebooks -----------------------------------------


def test_account_form_says_what_is_forbidden_and_records_who_has_read_it(
    console: Client, alice: User, enrol: Enrol
) -> None:
    new = console.get(page("account", "add")).content.decode()
    for terms in (COLAB, KAGGLE):
        assert all(escape(line) in new for line in terms.sentences)
    account = account_create(owner=alice, kind="colab", label="c")
    place = page("account", "change", account.pk)
    shown = console.get(place).content.decode()
    assert "not yet: until then no worker of this account is enrolled" in shown
    assert escape(KAGGLE.sentences[0]) not in shown
    assert console.post(place, account_form(account)).status_code == 302
    assert not TermsAcknowledgement.objects.exists()
    stale = console.post(place, account_form(account, acknowledged="colab:2020-01-01"))
    assert "The text has changed since" in stale.content.decode()
    assert (
        console.post(place, account_form(account, acknowledged=f"colab:{COLAB.version}")).status_code == 302
    )
    row = TermsAcknowledgement.objects.get()
    assert (row.account, row.owner, row.by, row.version) == (account, alice, "ops", COLAB.version)
    assert f"by ops, the text of {COLAB.version}" in console.get(place).content.decode()


def test_new_account_may_be_acknowledged_at_once(console: Client, alice: User) -> None:
    both = " ".join(f"{kind}:{terms.version}" for kind, terms in (("colab", COLAB), ("kaggle", KAGGLE)))
    fields = {"owner": alice.pk, "kind": "kaggle", "label": "k", "enabled": "on", "secret": ""}
    assert console.post(page("account", "add"), {**fields, "acknowledged": both}).status_code == 302
    assert TermsAcknowledgement.objects.get().account.kind == "kaggle"
    fields["kind"] = "vast"
    assert console.post(page("account", "add"), {**fields, "acknowledged": both}).status_code == 302
    assert TermsAcknowledgement.objects.count() == 1


def test_join_dialog_refuses_an_account_whose_terms_nobody_has_read(console: Client, alice: User) -> None:
    account = account_create(owner=alice, kind="colab", label="c")
    answer = confirm(console, reverse("admin:pool_worker_join"), account=account.pk, uses=1, minutes=60)
    assert "nobody has acknowledged yet" in answer.content.decode()
    assert not EnrollmentToken.objects.exists()


def test_notebook_is_made_with_a_token_that_works(
    console: Client, alice: User, api_client: Callable[..., Any]
) -> None:
    account = account_create(owner=alice, kind="kaggle", label="k")
    place = reverse("admin:pool_account_notebook", args=[account.pk])
    assert "nobody has acknowledged yet" in confirm(console, place, worker_name="w1").content.decode()
    acknowledged(account)
    shown = confirm(console, place, worker_name="w1")
    assert "no-store" in shown["Cache-Control"]
    [data] = re.findall(r"base64,([\w+/=]+)", shown.content.decode())
    cell = "".join(json.loads(base64.b64decode(data))["cells"][1]["source"])
    [token] = re.findall(r'JOIN_TOKEN = "(.*)"', cell)
    assert 'WORKER_NAME = "w1"' in cell
    assert api_client().post(wire.ENROLL, {"token": token}).status_code == 200


def test_notebooks_and_starts_are_offered_where_they_fit(
    console: Client, alice: User, account: Account
) -> None:
    kaggle = account_create(owner=alice, kind="kaggle", label="k")
    colab = account_create(owner=alice, kind="colab", label="c")

    def offered(account: Account) -> list[bool]:
        text = console.get(page("account", "change", account.pk)).content.decode()
        return ["Make its notebook" in text, "Start a session" in text]

    assert (offered(kaggle), offered(colab), offered(account)) == (
        [True, True],
        [True, False],
        [False, False],
    )
    strange = staff("driver", "change_account", "view_account")
    assert confirm(strange, reverse("admin:pool_account_notebook", args=[colab.pk])).status_code == 403
    other = confirm(console, reverse("admin:pool_account_notebook", args=[account.pk]), worker_name="w")
    assert "Only accounts at Colab and Kaggle have a notebook" in other.content.decode()
    fields = {"worker_name": "w", "accelerator": "NvidiaTeslaT4"}
    wrong = confirm(console, reverse("admin:pool_account_start", args=[acknowledged(colab).pk]), **fields)
    assert "started at Kaggle only" in wrong.content.decode()
    gone = confirm(console, reverse("admin:pool_account_start", args=["acc_gone"]), **fields)
    assert "It is not there any more" in gone.content.decode()


@pytest.mark.parametrize(
    ("url", "warned"), [("http://127.0.0.1:8000", True), ("https://pool.example.com", False)]
)
def test_notebook_that_could_not_reach_this_server_is_said_so_before_it_costs_a_session(
    console: Client, alice: User, settings: Any, url: str, warned: bool
) -> None:
    settings.PUBLIC_URL = url
    account = acknowledged(account_create(owner=alice, kind="colab", label="c"))
    place = reverse("admin:pool_account_notebook", args=[account.pk])
    shown = confirm(console, place, worker_name="w1").content.decode()
    assert ("Set DORMOUSE_PUBLIC_URL to the address" in shown) is warned


def test_session_is_started_from_the_accounts_page(
    console: Client, alice: User, valkey: object, settings: Any
) -> None:
    settings.PUBLIC_URL = "https://pool.example.com"
    account = acknowledged(account_create(owner=alice, kind="kaggle", label="k"))
    place = reverse("admin:pool_account_start", args=[account.pk])
    fields = {"worker_name": "night", "accelerator": "NvidiaTeslaT4"}
    assert "hold no Kaggle token" in confirm(console, place, **fields).content.decode()
    account.credentials = json.dumps({"api_token": "KGAT_0123456789"})
    account.save()
    assert confirm(console, place, **fields)["HX-Redirect"] == page("notebookstart")
    start = NotebookStart.objects.get()
    assert (start.name, start.by) == ("night", "ops")
    assert "night" in console.get(page("notebookstart")).content.decode()
    assert console.get(page("notebookstart", "change", start.pk)).status_code == 200
    assert "is being started as" in confirm(console, place, **fields).content.decode()
