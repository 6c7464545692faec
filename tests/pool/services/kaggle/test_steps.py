"""Sessions that the control plane starts at Kaggle: once each, whatever is lost, and followed to their end."""

from __future__ import annotations

from datetime import timedelta

import pytest

from core.models import Event
from pool.models import Account, EnrollmentToken, NotebookStart
from pool.services import kaggle_accounts
from pool.services.enrollment import EnrollmentRefused
from pool.services.kaggle_starts import start_request, starts_due
from pool.services.kaggle_steps import CLAIM, session_timeout_s, start_step
from tests.pool.conftest import NOON
from tests.pool.services.kaggle.conftest import REF, S, join, look

pytestmark = pytest.mark.django_db


def test_start_runs_from_the_request_to_the_end(start, kaggle):
    assert (start.state, start.reason) == ("pushing", "asked for by alice; the provider will be asked next")
    row = look(start)
    assert (row.state, row.version, row.url) == ("queued", 1, f"https://www.kaggle.com/code/{REF}")
    version = kaggle.latest(REF)
    assert 'SERVER_URL = "http://127.0.0.1:8000"' in version.source

    row = look(row, NOON + 30 * S)
    assert (row.state, row.reason) == ("queued", "the provider looks for a machine")
    version.status = "RUNNING"
    row = look(row, NOON + 60 * S)
    assert (row.state, row.reason) == ("running", "the provider runs it")
    worker = join(version)
    row = look(row, NOON + 180 * S)
    assert (row.worker, row.reason) == (worker, "it has joined as Night 1")
    version.says("The agent has ended.\n")
    version.status = "COMPLETE"
    row = look(row, NOON + 8 * 3600 * S)
    assert (row.state, row.next_at) == ("ended", None)
    assert row.output.startswith("The agent has ended.\n")
    codes = Event.objects.filter(subject_type="start").order_by("id").values_list("code", flat=True)
    assert list(codes) == ["start_asked", "start_queued", "start_running", "start_ended"]


def test_token_in_the_notebook_is_good_once(start, kaggle):
    look(start)
    version = kaggle.latest(REF)
    join(version)
    with pytest.raises(EnrollmentRefused, match="used already"):
        join(version)


def test_next_start_of_the_same_name_is_the_next_version_and_the_next_epoch(start, account, kaggle):
    look(start)
    first = join(kaggle.latest(REF))
    kaggle.latest(REF).status = "COMPLETE"
    for seconds in (300, 420):
        look(start, NOON + seconds * S)
    again = look(start_request(account=account, name="Night 1", by="alice", now=NOON))
    assert again.version == 2
    second = join(kaggle.latest(REF))
    assert (second.pk, second.epoch) == (first.pk, 2)


def test_push_whose_answer_was_lost_is_found_and_not_repeated(start, kaggle):
    kaggle.fail("SaveKernel", lost=True)
    row = look(start)
    assert row.state == "pushing" and "it is looked for before anything is repeated" in row.reason
    row = look(row, NOON + 70 * S)
    assert (row.state, row.version) == ("queued", 1)
    assert "its push had arrived" in row.reason
    assert len(kaggle.kernels[REF]) == 1
    assert join(kaggle.latest(REF)).name == "Night 1"


def test_push_that_never_arrived_is_made_again_with_a_new_token(start, kaggle):
    kaggle.fail("SaveKernel", status=502)
    row = look(start)
    first = row.token
    for seconds in (60, 120, 180):  # a notebook that is not to be seen may be one all the same
        row = look(row, NOON + seconds * S)
        assert (row.state, row.token) == ("pushing", first)
        assert "it is looked for before anything is repeated" in row.reason
    row = look(row, NOON + 241 * S)
    assert (row.state, row.version, len(kaggle.kernels[REF])) == ("queued", 1, 1)
    first.refresh_from_db()
    assert first.uses_left == 0 and row.token != first


def test_no_such_notebook_is_not_believed_at_once_of_a_push_whose_answer_was_lost(start, kaggle):
    kaggle.fail("SaveKernel", lost=True)
    kaggle.fail("GetKernel", status=404)  # as it is before the push
    row = look(start)
    kaggle.fail("GetKernel", status=403, times=2)
    for seconds in (60, 120):
        row = look(row, NOON + seconds * S)
        assert row.state == "pushing"
    row = look(row, NOON + 180 * S)
    assert (row.state, row.version, len(kaggle.kernels[REF])) == ("queued", 1, 1)
    assert row.denied_since is None


def test_version_before_is_known_also_where_kaggle_shows_none(start, account, kaggle):
    """A 403 just before the push must not make the version that was there before look like the one that was pushed."""
    look(start)
    kaggle.latest(REF).status = "COMPLETE"
    look(start, NOON + 300 * S)
    again = start_request(account=account, name="Night 1", by="alice", now=NOON)
    kaggle.fail("GetKernel", status=403)
    kaggle.fail("SaveKernel", status=503)
    row = look(again, NOON + 300 * S)
    row = look(row, NOON + 360 * S)
    assert (row.state, row.version_before, row.version) == ("pushing", 1, None)


def test_push_that_kaggle_put_off_leaves_nothing_to_look_for(start, kaggle):
    kaggle.fail("SaveKernel", status=429)
    row = look(start)
    assert (row.state, row.token) == ("pushing", None)
    assert EnrollmentToken.objects.get().uses_left == 0
    assert look(row, NOON + 70 * S).state == "queued"
    assert len(kaggle.kernels[REF]) == 1


def test_tick_that_is_slow_claims_each_row_from_its_own_time_on(start, kaggle, monkeypatch):
    """A tick reads the rows that are due once, and may take minutes for those before this one."""
    late = NOON + timedelta(minutes=4)
    seen = []
    real = kaggle_accounts.Kaggle.push

    def push(self, owner, push):
        seen.append(NotebookStart.objects.get().next_at)
        return real(self, owner, push)

    monkeypatch.setattr(kaggle_accounts.Kaggle, "push", push)
    row = look(start, late)
    assert seen == [late + CLAIM]
    assert (row.state_since, row.next_at) == (late, late + 30 * S)


def test_look_that_is_so_slow_that_another_took_the_row_up_pushes_nothing_more(start, kaggle, monkeypatch):
    time = [NOON]
    real = kaggle_accounts.Kaggle.version

    def version(self, owner, slug):
        found = real(self, owner, slug)
        if time[0] == NOON:
            time[0] = NOON + CLAIM + S
            look(start, time[0])  # the other process, meanwhile
        return found

    monkeypatch.setattr(kaggle_accounts.Kaggle, "version", version)
    start_step(NotebookStart.objects.select_related("account").get(), clock=lambda: time[0])
    assert len(kaggle.called("SaveKernel")) == 1
    row = NotebookStart.objects.get()
    assert row.state == "queued"
    assert join(kaggle.latest(REF)).epoch == 1


def test_process_that_dies_between_its_intent_and_the_answer_leaves_one_session(start, kaggle, monkeypatch):
    class Killed(BaseException):
        pass

    def push_and_die(self, owner, push):
        real(self, owner, push)
        raise Killed

    real = kaggle_accounts.Kaggle.push
    with monkeypatch.context() as patch:
        patch.setattr(kaggle_accounts.Kaggle, "push", push_and_die)
        with pytest.raises(Killed):
            look(start)
    row = NotebookStart.objects.get()
    assert row.state == "pushing" and row.next_at > NOON
    row = look(row, row.next_at)
    assert (row.state, len(kaggle.kernels[REF])) == ("queued", 1)


def test_two_ticks_at_once_push_once(start, kaggle):
    a = NotebookStart.objects.select_related("account").get()
    b = NotebookStart.objects.select_related("account").get()
    start_step(a, clock=lambda: NOON)
    start_step(b, clock=lambda: NOON)
    assert len(kaggle.called("SaveKernel")) == 1


def test_refusal_is_the_end_in_kaggles_words_and_the_token_opens_nothing(start, kaggle):
    kaggle.people["ana"].used_s = kaggle.people["ana"].total_s
    row = look(start)
    assert (row.state, row.next_at) == ("failed", None)
    assert row.reason == "Kaggle did not run the notebook: Maximum weekly GPU quota of 30.00 hours reached."
    assert EnrollmentToken.objects.get().uses_left == 0


def test_kaggle_that_is_away_is_asked_again_until_the_time_is_over(start, kaggle, settings):
    settings.KAGGLE_API_URL = "http://127.0.0.1:9"
    row = look(start)
    assert row.state == "pushing" and "not pushed yet: Kaggle cannot be reached" in row.reason
    assert row.next_at == NOON + 60 * S
    row = look(row, NOON + timedelta(minutes=16))
    assert (row.state, row.reason) == ("failed", "it was pushing for longer than 15 minutes")


def test_machine_that_never_comes_is_given_up_and_may_not_join_later(start, kaggle):
    row = look(look(start), NOON + timedelta(minutes=31))
    assert (row.state, row.reason) == ("failed", "it was queued for longer than 30 minutes")
    with pytest.raises(EnrollmentRefused):
        join(kaggle.latest(REF))


@pytest.mark.parametrize(
    ("status", "failure", "log", "state", "reason"),
    [
        (
            "ERROR",
            "Your notebook ran out of memory",
            "",
            "failed",
            "it ended in error: Your notebook ran out of memory",
        ),
        ("ERROR", "", "one\nDormouse: no.\ntwo\n", "failed", "it ended in error: Dormouse: no."),
        ("ERROR", "", "ValueError: no\n", "failed", "it ended in error: ValueError: no"),
        ("ERROR", "", "", "failed", "it ended in error: Kaggle does not say why"),
        (
            "COMPLETE",
            "",
            "",
            "failed",
            "its session is over, and no worker has joined from it: it printed nothing",
        ),
        ("CANCEL_ACKNOWLEDGED", "", "", "ended", "it was cancelled at the provider"),
    ],
)
def test_each_end_has_its_reason(start, kaggle, status, failure, log, state, reason):
    row = look(start)
    version = kaggle.latest(REF)
    version.status = "RUNNING"
    row = look(row, NOON + 60 * S)
    version.status, version.failure = status, failure
    if log:
        version.says(log)
    row = look(row, NOON + 120 * S)
    assert (row.state, row.reason) == (state, reason)


def test_end_of_the_version_before_is_not_taken_for_the_end_of_this_one(start, kaggle):
    row = look(start)
    kaggle.latest(REF).status = "COMPLETE"  # as Kaggle says until it has taken the new version up
    assert look(row, NOON + 30 * S).state == "queued"
    kaggle.latest(REF).status = "RUNNING"
    assert look(row, NOON + 60 * S).state == "running"


def test_state_that_cannot_be_read_changes_nothing(start, kaggle):
    row = look(start)
    kaggle.fail("GetKernelSessionStatus", status=503, times=2)
    row = look(row, NOON + 30 * S)
    assert row.state == "queued" and "cannot be read at present" in row.reason
    assert row.next_at == NOON + 90 * S


def test_output_that_cannot_be_read_does_not_hold_up_the_end(start, kaggle):
    row = look(start)
    kaggle.latest(REF).status = "RUNNING"
    row = look(row, NOON + 60 * S)
    kaggle.latest(REF).status = "CANCEL_ACKNOWLEDGED"
    kaggle.fail("ListKernelSessionOutput", status=500)
    row = look(row, NOON + 120 * S)
    assert (row.state, row.output[:36]) == ("ended", "what it printed could not be read: K")


def test_text_that_changed_before_the_push_stops_it(start, account, kaggle):
    account.acknowledgements.all().delete()
    row = look(start)
    assert row.state == "failed" and "nobody has acknowledged yet" in row.reason
    assert kaggle.called("SaveKernel") == []


def test_notebook_that_somebody_deleted_is_the_end_when_it_has_been_away_for_long(start, kaggle):
    row = look(start)
    kaggle.kernels.clear()
    for seconds in (30, 120, 200):
        row = look(row, NOON + seconds * S)
        assert (row.state, row.reason[:47]) == ("queued", "the provider says that there is no such noteboo")
    row = look(row, NOON + 211 * S)
    assert (row.state, row.reason) == ("failed", "the provider has no such notebook any more")
    assert row.token.uses_left == 0


@pytest.mark.parametrize("status", [401, 403, 404])
def test_one_no_is_no_end_and_the_machine_that_comes_is_let_in(start, kaggle, status):
    row = look(start)
    kaggle.fail("GetKernelSessionStatus", status=status)
    row = look(row, NOON + 30 * S)
    assert row.state == "queued"
    kaggle.latest(REF).status = "RUNNING"
    row = look(row, NOON + 60 * S)
    assert (row.state, row.denied_since) == ("running", None)
    assert join(kaggle.latest(REF)).name == "Night 1"


def test_account_that_was_switched_off_meanwhile_gets_no_session(start, kaggle):
    Account.objects.update(enabled=False)
    row = look(start)
    assert row.state == "failed" and "is switched off" in row.reason
    assert kaggle.called("SaveKernel") == []


def test_what_is_due_is_found_by_its_time(start):
    assert list(starts_due(now=NOON)) == [start]
    row = look(start)
    assert list(starts_due(now=NOON + 29 * S)) == []
    assert list(starts_due(now=NOON + 30 * S)) == [row]


def test_timeout_at_kaggle_comes_after_the_agents_own_end(account):
    assert (account.session_limit_h, account.session_shutdown_h) == (9.0, 8.5)
    assert session_timeout_s(account) == 8.75 * 3600
    account.session_shutdown_h = 8.9
    assert session_timeout_s(account) == 9 * 3600
    account.session_limit_h = account.session_shutdown_h = None
    assert session_timeout_s(account) == 9 * 3600
