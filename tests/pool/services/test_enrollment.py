"""Enrolment: join tokens, identities, epochs, rotating secrets, the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from agent import wire
from core import broker
from core.agents import AgentIdentity, identify
from core.errors import Forbidden, Invalid, StandDown
from core.models import Event
from core.reasons import because
from core.transitions import advance
from gateway import keys
from pool import signals
from pool.models import Account, EnrollmentToken, Session, Worker
from pool.services import enrollment, workers
from pool.services.accounts import account_create
from pool.services.enrollment import EnrollmentRefused, enrollment_token_issue, token_refresh, worker_enroll
from pool.services.intake import intake_drain
from pool.states import WorkerState
from tests.pool.conftest import GIB, NOON, acknowledged, gpu

LATER = NOON + timedelta(minutes=10)


def join(token: str, **fields: Any) -> wire.Credentials:
    return worker_enroll(post=wire.EnrollPost(token=token, **fields), now=fields.pop("now", NOON))


def refresh(given: wire.Credentials, secret: str | None = None) -> wire.Credentials:
    post = wire.TokenPost(worker_id=given.worker_id, secret=secret or given.secret)
    return token_refresh(post=post, now=LATER)


def test_a_token_makes_a_worker_with_a_session_and_a_token_for_its_epoch(account: Account) -> None:
    given = join(
        enrollment_token_issue(account=account, now=NOON),
        name="rack-1",
        gpus=(gpu(24), gpu(16)),
        agent_version="1.2",
        session_runtime_hours=2.0,
    )
    worker = Worker.objects.get(pk=given.worker_id)
    assert (worker.name, worker.account, worker.epoch, worker.state) == ("rack-1", account, 1, "offline")
    assert (worker.gpu_count, worker.gpu_name, worker.gpu_mem_bytes) == (2, "Tesla T4", 16 * GIB)
    session = Session.objects.get(worker=worker)
    assert session.started_at == NOON - timedelta(hours=2)
    assert given.epoch == 1
    assert given.instance_id is None
    assert given.settings.check_interval_s == account.check_interval_s


def test_the_access_token_proves_worker_and_epoch(account: Account) -> None:
    given = worker_enroll(post=wire.EnrollPost(token=enrollment_token_issue(account=account)))
    assert identify(given.access_token) == AgentIdentity(worker_id=given.worker_id, epoch=1)


def test_notebooks_are_told_when_to_end_their_session(alice: User) -> None:
    colab = acknowledged(account_create(owner=alice, kind="colab", label="c"))
    given = join(enrollment_token_issue(account=colab, now=NOON))
    assert (given.settings.max_session_hours, given.settings.check_interval_s) == (11.5, 60)


def test_a_token_is_used_once_and_only_its_hash_is_kept(account: Account) -> None:
    token = enrollment_token_issue(account=account, now=NOON)
    assert not EnrollmentToken.objects.filter(sha256=token).exists()
    join(token)
    with pytest.raises(EnrollmentRefused, match="used already"):
        join(token)


def test_a_token_of_three_uses_makes_three_workers(account: Account) -> None:
    token = enrollment_token_issue(account=account, uses=3, now=NOON)
    names = {Worker.objects.get(pk=join(token).worker_id).name for _ in range(3)}
    assert names == {"rack-1", "rack-2", "rack-3"}
    with pytest.raises(EnrollmentRefused):
        join(token)


def test_an_expired_or_unknown_token_is_refused(account: Account) -> None:
    token = enrollment_token_issue(account=account, life=timedelta(minutes=1), now=NOON - timedelta(hours=1))
    with pytest.raises(EnrollmentRefused, match="expired"):
        join(token)
    with pytest.raises(EnrollmentRefused, match="unknown"):
        join("dj_nothing")
    assert not Worker.objects.exists()


@pytest.mark.parametrize(
    ("place", "kind"), [("colab", "local"), ("kaggle", "vast"), ("colab", "kaggle"), ("kaggle", "colab")]
)
def test_a_notebook_joins_only_an_account_of_its_own_kind(alice: User, place: str, kind: str) -> None:
    """The account carries the provider's terms and the session's limit: any other has neither, or another's."""
    other = acknowledged(account_create(owner=alice, kind=kind, label="other"))
    token = enrollment_token_issue(account=other, now=NOON)
    with pytest.raises(EnrollmentRefused, match=f"which is a {kind} account") as refused:
        join(token, provider=place)
    assert f"make a join token of a {place} account" in refused.value.hint
    assert not Worker.objects.exists()
    assert EnrollmentToken.objects.get().uses_left == 1


@pytest.mark.parametrize(
    ("place", "kind"),
    [("", "colab"), ("local", "kaggle"), ("vast", "local"), ("local", "vast"), ("kaggle", "kaggle")],
)
def test_other_machines_are_held_to_what_their_account_says(alice: User, place: str, kind: str) -> None:
    owned = acknowledged(account_create(owner=alice, kind=kind, label="own"))
    given = join(enrollment_token_issue(account=owned, now=NOON), provider=place)
    assert given.settings.max_session_hours == owned.session_shutdown_h


def test_an_account_that_is_switched_off_takes_no_new_worker_and_the_token_stays_good(
    account: Account,
) -> None:
    token = enrollment_token_issue(account=account, now=NOON)
    Account.objects.update(enabled=False)
    with pytest.raises(EnrollmentRefused, match="is switched off"):
        join(token)
    Account.objects.update(enabled=True)
    assert join(token).epoch == 1


def test_a_rented_box_joins_also_while_its_account_is_switched_off(account: Account) -> None:
    """It is paid for and holds a workspace: without its agent nobody could put it to sleep."""
    worker = Worker.objects.get(pk=join(enrollment_token_issue(account=account, now=NOON)).worker_id)
    token = enrollment_token_issue(account=account, worker=worker, now=NOON)
    Account.objects.update(enabled=False)
    assert join(token).worker_id == worker.pk


def test_a_token_must_be_worth_something(account: Account) -> None:
    with pytest.raises(Invalid):
        enrollment_token_issue(account=account, uses=0)
    with pytest.raises(Invalid):
        enrollment_token_issue(account=account, life=timedelta(0))


def test_the_same_request_again_is_the_same_enrolment(account: Account) -> None:
    token = enrollment_token_issue(account=account, now=NOON)
    first = join(token, request_id="r1")
    again = join(token, request_id="r1")
    assert (again.worker_id, again.epoch, again.secret) == (first.worker_id, first.epoch, first.secret)
    assert Worker.objects.count() == 1
    with pytest.raises(EnrollmentRefused, match="used already"):
        join(token, request_id="r2")


def test_an_enrolment_cannot_be_replayed_once_its_secret_has_moved_on(account: Account) -> None:
    token = enrollment_token_issue(account=account, now=NOON)
    first = join(token, request_id="r1")
    refresh(first, refresh(first).secret)
    with pytest.raises(EnrollmentRefused, match="in use"):
        join(token, request_id="r1")


def test_a_known_name_is_the_next_epoch_and_ends_the_session_before(
    account: Account, enrol: Callable[..., Worker]
) -> None:
    old = enrol("rack-1")
    again = join(enrollment_token_issue(account=account, now=NOON), name="rack-1")
    assert (again.worker_id, again.epoch) == (old.pk, 2)
    assert Session.objects.get(worker=old, epoch=1).ended_at == NOON
    old.refresh_from_db()
    assert old.state == WorkerState.OFFLINE


def test_a_new_session_is_not_under_the_order_to_drain_of_the_one_before(
    enrol: Callable[..., Worker],
) -> None:
    worker = enrol("one")
    workers.worker_drain(worker, reason=because("operator", note="x"), now=NOON)
    assert enrol("one").state == WorkerState.ONLINE


def test_a_free_token_never_takes_up_an_instances_worker(account: Account, alice: User) -> None:
    workers.worker_create(account=account, name="mine", instance_ref="i_1", owner=alice)
    with pytest.raises(EnrollmentRefused, match="rented instance"):
        join(enrollment_token_issue(account=account, now=NOON), name="mine")


def test_names_of_one_account_say_nothing_about_another(account: Account, bob: User) -> None:
    mine = join(enrollment_token_issue(account=account, now=NOON), name="w")
    other = account_create(owner=bob, kind="local", label="rack")
    assert join(enrollment_token_issue(account=other, now=NOON), name="w").worker_id != mine.worker_id


def test_a_revoked_workers_name_is_free_again(account: Account, enrol: Callable[..., Worker]) -> None:
    old = enrol("rack-1")
    workers.worker_revoke(old, reason=because("operator", note="stolen"), now=NOON)
    assert enrol("rack-1").pk != old.pk


# -- rented boxes ---------------------------------------------------------------------------------------


@pytest.fixture
def boxed(account: Account, alice: User) -> Worker:
    return workers.worker_create(account=account, name="i_1", instance_ref="i_1", owner=alice)


def test_a_box_takes_up_its_instances_identity_in_its_own_epoch(account: Account, boxed: Worker) -> None:
    given = join(enrollment_token_issue(account=account, worker=boxed, epoch=7, now=NOON), name="whatever")
    assert (given.worker_id, given.epoch, given.instance_id) == (boxed.pk, 7, "i_1")
    boxed.refresh_from_db()
    assert (boxed.epoch, boxed.name) == (7, "i_1")


def test_an_older_boxs_token_is_told_to_stand_down(account: Account, boxed: Worker) -> None:
    old = enrollment_token_issue(account=account, worker=boxed, epoch=3, now=NOON)
    join(enrollment_token_issue(account=account, worker=boxed, epoch=4, now=NOON))
    with pytest.raises(StandDown):
        join(old)
    boxed.refresh_from_db()
    assert boxed.epoch == 4


def test_two_boxes_of_one_epoch_are_one_too_many(account: Account, boxed: Worker) -> None:
    tokens = [enrollment_token_issue(account=account, worker=boxed, epoch=4, now=NOON) for _ in range(2)]
    join(tokens[0])
    with pytest.raises(StandDown):
        join(tokens[1])


def test_a_retired_box_has_no_say_and_the_next_one_has(account: Account, boxed: Worker) -> None:
    old = join(enrollment_token_issue(account=account, worker=boxed, epoch=1, now=NOON))
    workers.worker_retire(boxed, reason=because("session_ended"), now=NOON)
    workers.worker_retire(boxed, reason=because("session_ended"), now=NOON)
    with pytest.raises(StandDown):
        refresh(old)
    with pytest.raises(StandDown):
        enrollment.gate(AgentIdentity(worker_id=boxed.pk, epoch=1))
    join(enrollment_token_issue(account=account, worker=boxed, epoch=2, now=NOON))
    enrollment.gate(AgentIdentity(worker_id=boxed.pk, epoch=2))


# -- secrets ------------------------------------------------------------------------------------------


@pytest.fixture
def given(account: Account) -> wire.Credentials:
    return join(enrollment_token_issue(account=account, now=NOON), name="w")


def test_a_lost_answer_locks_nobody_out(given: wire.Credentials) -> None:
    lost = refresh(given)
    again = refresh(given)
    assert again.secret == lost.secret
    assert refresh(given, lost.secret).worker_id == given.worker_id


def test_a_secret_that_was_replaced_and_used_again_revokes_the_worker(given: wire.Credentials) -> None:
    second = refresh(given)
    refresh(given, second.secret)
    with pytest.raises(StandDown, match="revoked"):
        refresh(given, given.secret)
    worker = Worker.objects.get(pk=given.worker_id)
    assert (worker.state, worker.reason_code) == (WorkerState.REVOKED, "secret_reused")
    with pytest.raises(StandDown):
        refresh(given, second.secret)


def test_secrets_go_on_for_as_long_as_they_are_traded(given: wire.Credentials) -> None:
    secret, seen = given.secret, set()
    for _ in range(5):
        seen.add(secret)
        secret = refresh(given, secret).secret
    assert len(seen) == 5


def test_a_secret_that_was_never_given_is_refused_and_changes_nothing(given: wire.Credentials) -> None:
    with pytest.raises(Forbidden, match="not the secret"):
        refresh(given, "1.guess")
    assert refresh(given).worker_id == given.worker_id


def test_an_older_boxs_secret_is_told_to_stand_down(account: Account, given: wire.Credentials) -> None:
    join(enrollment_token_issue(account=account, now=NOON), name="w")
    with pytest.raises(StandDown, match="epoch 2"):
        refresh(given)
    assert Worker.objects.get(pk=given.worker_id).state != WorkerState.REVOKED


def test_secrets_are_kept_as_hashes_only(given: wire.Credentials) -> None:
    row = Worker.objects.filter(pk=given.worker_id).values().get()
    assert given.secret not in json.dumps(row, default=str)


# -- the gate -----------------------------------------------------------------------------------------


def test_the_gate_refuses_the_unknown_the_old_and_the_revoked(given: wire.Credentials) -> None:
    mine = AgentIdentity(worker_id=given.worker_id, epoch=1)
    enrollment.gate(mine)
    for wrong in (AgentIdentity(worker_id="w_x", epoch=1), AgentIdentity(worker_id=given.worker_id, epoch=2)):
        with pytest.raises(StandDown):
            enrollment.gate(wrong)
    workers.worker_revoke(
        Worker.objects.get(pk=given.worker_id), reason=because("operator", note="gone"), now=NOON
    )
    with pytest.raises(StandDown):
        enrollment.gate(mine)


def gate_entry(worker_id: str) -> dict[str, Any] | None:
    raw = broker.client().hget(keys.GATE, worker_id)
    return json.loads(raw) if raw else None


def test_the_gateway_learns_of_enrolment_and_of_revocation_after_the_commit(
    valkey: object, account: Account, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        given = join(enrollment_token_issue(account=account, now=NOON))
        assert gate_entry(given.worker_id) is None
    assert gate_entry(given.worker_id) == {"epoch": 1, "next_in_s": 30.0}
    listener = broker.client().pubsub(ignore_subscribe_messages=True)
    listener.subscribe(keys.REVOKED)
    listener.get_message(timeout=5)
    with django_capture_on_commit_callbacks(execute=True):
        worker = Worker.objects.get(pk=given.worker_id)
        workers.worker_revoke(worker, reason=because("operator", note="gone"), now=NOON)
    assert gate_entry(given.worker_id) == {"epoch": -1, "next_in_s": 30.0}
    message = listener.get_message(timeout=5)
    assert message is not None and message["data"] == given.worker_id
    listener.close()


def test_others_hear_of_an_enrolment(account: Account) -> None:
    heard: list[Worker] = []

    def hear(worker: Worker, **_: Any) -> None:
        heard.append(worker)

    signals.worker_online.connect(hear)
    try:
        given = join(enrollment_token_issue(account=account, now=NOON))
    finally:
        signals.worker_online.disconnect(hear)
    assert [worker.pk for worker in heard] == [given.worker_id]
    assert heard[0].epoch == 1
    assert Event.objects.filter(subject_id=given.worker_id, code="worker_enrolled").exists()


def test_a_machine_that_enrols_twice_is_counted_once(account: Account) -> None:
    def again(runtime_h: float, at: Any) -> Session:
        token = enrollment_token_issue(account=account, now=at)
        post = wire.EnrollPost(token=token, name="w", session_runtime_hours=runtime_h)
        got = worker_enroll(post=post, now=at)
        return Session.objects.get(worker_id=got.worker_id, epoch=got.epoch)

    first = again(1.0, NOON)
    Session.objects.filter(pk=first.pk).update(runtime_s=3600, counted_s=3600)
    same = again(2.0, NOON + timedelta(hours=1))
    assert same.counted_s == 3600
    other = again(0.1, NOON + timedelta(hours=3))
    assert other.counted_s == 0


def test_what_agents_say_of_themselves_is_cut_to_what_can_be_stored(account: Account) -> None:
    given = join(
        enrollment_token_issue(account=account, now=NOON),
        name="na\x00me" + "x" * 200,
        platform="p" * 500,
        agent_version="v" * 100,
        gpus=(wire.Gpu(index=0, name="G\x00" * 200),),
    )
    worker = Worker.objects.get(pk=given.worker_id)
    assert worker.name.startswith("name") and len(worker.name) == 80
    assert worker.gpu_mem_bytes == 0


# -- notebooks without a name -----------------------------------------------------------------------


@pytest.fixture
def colab(alice: User) -> Account:
    return account_create(owner=alice, kind="colab", label="c")


@pytest.mark.parametrize("how", ["ended", "lost"])
def test_a_notebook_without_a_name_takes_up_the_worker_that_has_gone(
    enrol: Callable[..., Worker], colab: Account, how: str
) -> None:
    first = enrol(into=colab)
    if how == "ended":
        workers.worker_offline(first, reason=because("session_ended"), now=LATER)
    else:
        advance(first, WorkerState.SUSPECT, reason=because("worker_posted"), now=LATER)
        workers.worker_lost(first, reason=because("worker_posted"), now=LATER)
    again = enrol(into=colab, now=LATER)
    assert (again.pk, again.epoch, again.name) == (first.pk, 2, "c-1")
    assert Worker.objects.count() == 1


def test_a_place_is_taken_by_one_and_only_where_nobody_is(
    enrol: Callable[..., Worker], colab: Account
) -> None:
    first = enrol(into=colab)
    beside = enrol(into=colab)
    workers.worker_offline(first, reason=because("session_ended"), now=LATER)
    joining = enrol(into=colab, now=LATER, online=False)
    assert joining.pk == first.pk
    assert enrol(into=colab, now=LATER).pk not in (
        first.pk,
        beside.pk,
    )  # the first has joined and not posted yet
    assert enrol(into=colab, now=LATER + timedelta(hours=2)).pk == first.pk  # and never did


def test_named_workers_and_ones_own_machines_are_nobodys_place(
    enrol: Callable[..., Worker], colab: Account, account: Account
) -> None:
    named, called, rack = enrol("mine", into=colab), enrol(into=colab), enrol(into=account)
    enrol(called.name, into=colab)  # from now on somebody calls it so
    for worker in (named, called, rack):
        worker.refresh_from_db()
        workers.worker_offline(worker, reason=because("session_ended"), now=LATER)
    assert enrol(into=colab, now=LATER).pk not in (named.pk, called.pk)
    assert enrol(into=account, now=LATER).pk != rack.pk


# -- what is said of the session ----------------------------------------------------------------------


def test_hours_of_silence_that_end_with_joining_again_are_a_gap(
    enrol: Callable[..., Worker], stream: Callable[..., str], colab: Account
) -> None:
    worker = enrol("w", into=colab)
    stream(worker, at=NOON + timedelta(minutes=30), session_runtime_hours=0.5)
    intake_drain(now=NOON + timedelta(minutes=30))
    back = NOON + timedelta(hours=3)
    worker = enrol("w", into=colab, runtime_h=3.0, now=back)
    stream(worker, at=back + timedelta(minutes=1), session_runtime_hours=3 + 1 / 60)
    intake_drain(now=back + timedelta(minutes=1))
    gap = Event.objects.get(code="session_gap")
    assert gap.reason == "nothing was heard for 2.50 h; its session went on and was counted"
    enrol("w", into=colab, runtime_h=3.5, now=back + timedelta(minutes=30))
    assert Event.objects.filter(code="session_gap").count() == 1
