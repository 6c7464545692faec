"""Durable chains: claimed by one, run, settled by whoever still holds the fence."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import IntegrityError, transaction

from core import chains
from core.chain_states import ChainState
from core.chains import Again, FenceLost, Goto, Next, Run, Stop
from core.errors import Busy, Invalid, TransitionRefused
from core.models import Chain, ChainStep, Event
from core.reasons import because
from tests.core.conftest import NOON, Story

Tell = Callable[..., Story]
pytestmark = pytest.mark.usefixtures("valkey")


def enter(chain: Chain, *, later_s: float = 0) -> bool:
    return chains.chain_enter(chain.pk, now=NOON + timedelta(seconds=later_s))


def due(chain: Chain) -> None:
    """As if the time had come for whatever it waits for."""
    Chain.objects.filter(pk=chain.pk, next_at__isnull=False).update(next_at=NOON)


def now_is(chain: Chain) -> Chain:
    chain.refresh_from_db()
    return chain


def test_steps_run_one_after_the_other_and_the_chain_ends(story: Tell) -> None:
    told = story("one", "two")
    chain = told.start()
    assert enter(chain)
    due(chain)
    assert now_is(chain).step == "two"
    assert enter(chain)
    assert now_is(chain).state == ChainState.SUCCEEDED
    assert chain.next_at is None and chain.ended_at is not None
    assert told.entered == ["one", "two"]
    assert told.ended == [(ChainState.SUCCEEDED, "every step is done")]
    assert list(ChainStep.objects.values_list("step", "outcome", "runs")) == [
        ("one", "next", 1),
        ("two", "next", 1),
    ]
    assert list(Event.objects.order_by("id").values_list("code", flat=True)) == [
        "chain_started",
        "chain_succeeded",
    ]


def test_a_subject_has_one_active_chain(story: Tell) -> None:
    told = story("one")
    chain = told.start()
    with pytest.raises(IntegrityError), transaction.atomic():
        told.start()
    enter(chain)
    assert told.start().pk != chain.pk
    assert chains.chain_active(subject_type="thing", subject_id="t1") is not None


def test_of_two_workers_one_enters(story: Tell) -> None:
    told = story("one")
    chain = told.start()
    first = chains.claim(chain.pk, now=NOON)
    assert first is not None
    assert chains.claim(chain.pk, now=NOON) is None
    assert not enter(chain)
    assert told.entered == []
    assert (first.fence, now_is(chain).runs) == (1, 1)
    assert chain.lease_until == NOON + timedelta(seconds=settings.CHAIN_LEASE_S)


def test_two_that_read_the_same_row_do_not_both_claim_it(
    story: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one wins between this one's look and its claim."""
    told = story("one")
    chain = told.start()
    definition_of = chains.definition_of

    def meanwhile(kind: str) -> Any:
        Chain.objects.filter(pk=chain.pk, fence=0).update(fence=1, lease_until=NOON + timedelta(minutes=1))
        return definition_of(kind)

    monkeypatch.setattr(chains, "definition_of", meanwhile)
    assert chains.claim(chain.pk, now=NOON) is None


def test_a_chain_that_is_not_due_is_not_entered(story: Tell) -> None:
    told = story("one")
    told.does["one"] = lambda run: Again(30, because("created"))
    chain = told.start()
    enter(chain)
    assert not chains.chain_enter(chain.pk, now=now_is(chain).next_at - timedelta(seconds=1))
    assert chains.chain_enter(chain.pk, now=chain.next_at)
    assert chains.chain_enter("c_nothing", now=NOON) is False


# -- outcomes -----------------------------------------------------------------------------------------


def test_again_waits_and_says_for_what(story: Tell) -> None:
    told = story("one", "two")
    told.does["one"] = lambda run: Again(30, because("asked", by="the test"))
    chain = told.start()
    enter(chain)
    now_is(chain)
    assert (chain.step, chain.reason, chain.lease_until) == ("one", "asked for by the test", None)
    assert chain.next_at > NOON
    assert not ChainStep.objects.exists()


def test_a_nudge_makes_a_waiting_chain_due_and_leaves_an_ended_one_alone(story: Tell) -> None:
    told = story("one")
    told.does["one"] = lambda run: Again(3600, because("created"))
    chain = told.start()
    enter(chain)
    moment = NOON + timedelta(seconds=1)
    assert chains.chain_nudge(chain.pk, now=moment)
    assert now_is(chain).next_at == moment
    chains.chain_stop(chain, ChainState.ABORTED, reason=because("created"))
    assert not chains.chain_nudge(chain.pk, now=moment)


def test_goto_goes_back_and_keeps_the_reason(story: Tell) -> None:
    told = story("one", "two")
    told.does["two"] = lambda run: Goto("one", because("asked", by="two"))
    chain = told.start()
    enter(chain)
    due(chain)
    enter(chain)
    now_is(chain)
    assert (chain.step, chain.reason, chain.attempts, chain.runs) == ("one", "asked for by two", 0, 0)


@pytest.mark.parametrize("state", [ChainState.ABORTED, ChainState.FAILED])
def test_stop_ends_the_chain_as_it_says(story: Tell, state: ChainState) -> None:
    told = story("one", "two")
    told.does["one"] = lambda run: Stop(state, because("asked", by="one"))
    chain = told.start()
    enter(chain)
    assert (now_is(chain).state, chain.reason) == (state, "asked for by one")
    assert told.ended == [(state, "asked for by one")]
    assert told.entered == ["one"]


def test_what_a_step_keeps_the_next_entry_finds(story: Tell) -> None:
    told = story("one")
    seen: list[dict[str, Any]] = []

    def run(run: Run) -> chains.Outcome:
        seen.append(dict(run.data))
        run.keep(box=len(seen))
        return Again(0, because("created"))

    told.does["one"] = run
    chain = told.start()
    for _ in range(2):
        due(chain)
        enter(chain)
    assert seen == [{}, {"box": 1}]
    assert now_is(chain).data == {"box": 2}


# -- failures -----------------------------------------------------------------------------------------


def fails(run: Run) -> chains.Outcome:
    raise ZeroDivisionError("the step's own fault")


def test_a_step_that_raises_is_tried_again_later_and_later_up_to_its_cap(story: Tell) -> None:
    told = story("one", "two", attempts=3)
    told.does["one"] = fails
    chain = told.start()
    waits = []
    for _ in range(3):
        due(chain)
        enter(chain)
        now_is(chain)
        if chain.next_at is not None:
            waits.append(round((chain.next_at - chains.timezone.now()).total_seconds()))
            assert chain.reason == "one will be tried again: ZeroDivisionError: the step's own fault"
    assert waits == [2, 5]
    assert chain.state == ChainState.FAILED
    assert chain.reason == "one failed 3 times: ZeroDivisionError: the step's own fault"
    assert told.entered == ["one"] * 3


def test_a_success_forgets_the_failures_before_it(story: Tell) -> None:
    told = story("one", attempts=2)
    outcomes = iter([fails, lambda run: Again(0, because("created")), fails, lambda run: Next()])
    told.does["one"] = lambda run: next(outcomes)(run)
    chain = told.start()
    for _ in range(4):
        due(chain)
        enter(chain)
    assert now_is(chain).state == ChainState.SUCCEEDED


def test_instead_of_failing_a_definition_may_take_back_what_was_begun(story: Tell) -> None:
    told = story("one", "undo", attempts=1)
    told.does["one"] = fails
    told.instead = Goto("undo", because("asked", by="the definition"))
    chain = told.start()
    enter(chain)
    assert (now_is(chain).state, chain.step) == (ChainState.ACTIVE, "undo")


def test_busy_puts_a_step_off_and_uses_no_attempt_up(story: Tell) -> None:
    told = story("one", attempts=1)

    def busy(run: Run) -> chains.Outcome:
        raise Busy("the provider asks us to wait", retry_after_s=40)

    told.does["one"] = busy
    chain = told.start()
    for _ in range(5):
        due(chain)
        enter(chain)
    assert (now_is(chain).state, chain.attempts) == (ChainState.ACTIVE, 0)
    assert chain.reason == "one will be tried again: the provider asks us to wait"
    assert (chain.next_at - chains.timezone.now()).total_seconds() > 35


def test_a_domain_error_is_told_in_its_own_words(story: Tell) -> None:
    told = story("one")

    def refuse(run: Run) -> chains.Outcome:
        raise Invalid("no such offer")

    told.does["one"] = refuse
    chain = told.start()
    enter(chain)
    assert now_is(chain).reason == "one will be tried again: no such offer"


def test_a_lease_that_ran_out_counts_as_an_attempt(story: Tell) -> None:
    """Its worker was killed in the step, three times: that ends at the cap like a step that raises."""
    told = story("one", attempts=3)
    chain = told.start()
    later = 0.0
    for _ in range(3):
        assert chains.claim(chain.pk, now=NOON + timedelta(seconds=later)) is not None
        later += settings.CHAIN_LEASE_S + 1
    assert enter(chain, later_s=later)
    assert (now_is(chain).state, chain.reason) == (
        ChainState.FAILED,
        "one failed 3 times: its worker died",
    )
    assert told.entered == []


def test_a_step_without_a_cap_never_gives_up_and_tells_a_person(story: Tell) -> None:
    told = story("one", attempts=None, limit_minutes=None)
    told.does["one"] = fails
    chain = told.start()
    for minutes in range(24):
        due(chain)
        enter(chain, later_s=60 * minutes)
    assert now_is(chain).state == ChainState.ACTIVE
    assert len(told.alarms) == 2, "at the fifth failure, and once every ten minutes from then on"


def test_an_overdue_step_ends_the_chain_or_tells_a_person(story: Tell) -> None:
    told = story("one", limit_minutes=10)
    chain = told.start()
    assert enter(chain, later_s=601)
    assert (now_is(chain).state, chain.reason) == (ChainState.FAILED, "one took longer than 10 minutes")
    patient = story("one", limit_minutes=None)
    patient.start()
    (other,) = chains.chains_due(now=NOON + timedelta(hours=1))
    enter(other, later_s=3600)
    assert patient.alarms == ["one took longer than 10 minutes"]
    assert patient.entered == ["one"]


# -- fences -------------------------------------------------------------------------------------------


def overtaken(chain: Chain) -> tuple[Run, Run]:
    """Two runs of the same step: the second entered after the first one's lease ran out."""
    first = chains.claim(chain.pk, now=NOON)
    second = chains.claim(chain.pk, now=NOON + timedelta(seconds=settings.CHAIN_LEASE_S + 1))
    assert first is not None and second is not None
    return first, second


@pytest.mark.parametrize(
    "outcome", [Next(), Again(1, because("created")), Stop(ChainState.ABORTED, because("created"))]
)
def test_whoever_was_overtaken_writes_nothing(story: Tell, outcome: chains.Outcome) -> None:
    told = story("one", "two")
    chain = told.start()
    slow, _ = overtaken(chain)
    before = Chain.objects.filter(pk=chain.pk).values().get()
    with pytest.raises(FenceLost):
        chains.settle(slow, outcome)
    with pytest.raises(FenceLost):
        slow.keep(box=1)
    assert Chain.objects.filter(pk=chain.pk).values().get() == before
    assert (told.ended, ChainStep.objects.count()) == ([], 0)


def test_the_one_that_overtook_goes_on(story: Tell) -> None:
    told = story("one", "two")
    chain = told.start()
    slow, fast = overtaken(chain)
    chains.settle(fast, chains.perform(fast))
    assert now_is(chain).step == "two"
    with pytest.raises(FenceLost):
        chains.settle(slow, Next())
    assert now_is(chain).step == "two"


def test_losing_the_fence_within_a_step_is_no_failure_of_the_step(story: Tell) -> None:
    told = story("one")

    def slow(run: Run) -> chains.Outcome:
        Chain.objects.filter(pk=run.chain.pk).update(fence=run.fence + 1)
        run.keep(box=1)
        raise AssertionError("keep must have refused")

    told.does["one"] = slow
    chain = told.start()
    assert enter(chain)
    assert (now_is(chain).attempts, chain.data) == (0, {})


def test_a_chain_that_is_stopped_while_its_step_runs_stays_stopped(story: Tell) -> None:
    told = story("one", "two")
    chain = told.start()

    def stopped(run: Run) -> chains.Outcome:
        chains.chain_stop(chain, ChainState.ABORTED, reason=because("asked", by="ops"), by="ops")
        return Next()

    told.does["one"] = stopped
    assert enter(chain)
    assert (now_is(chain).state, chain.step) == (ChainState.ABORTED, "one")
    assert told.ended == [(ChainState.ABORTED, "asked for by ops")]
    with pytest.raises(TransitionRefused):
        chains.chain_stop(chain, ChainState.ABORTED, reason=because("created"))


def test_the_end_and_what_it_means_for_the_subject_are_one(story: Tell) -> None:
    told = story("one")

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("the subject cannot take it")

    object.__setattr__(told.definition, "ended", refuse)
    chain = told.start()
    assert enter(chain)
    assert (now_is(chain).state, chain.step, chain.lease_until) == (ChainState.ACTIVE, "one", None)
    assert chain.reason == "one will be tried again: RuntimeError: the subject cannot take it"
    assert not ChainStep.objects.exists()


# -- the tick -----------------------------------------------------------------------------------------


def test_the_tick_finds_what_is_due_and_free_the_longest_waiting_first(story: Tell) -> None:
    told = story("one")
    rows = []
    for number, wait_s in enumerate((5, 30, -5)):
        chain = told.start()
        Chain.objects.filter(pk=chain.pk).update(
            subject_id=f"t{number + 2}", next_at=NOON + timedelta(seconds=wait_s)
        )
        rows.append(chain)
    held = told.start()
    chains.claim(held.pk, now=NOON)
    found = [one.pk for one in chains.chains_due(now=NOON + timedelta(seconds=10))]
    assert found == [rows[2].pk, rows[0].pk]
    later = NOON + timedelta(seconds=settings.CHAIN_LEASE_S + 40)
    assert {one.pk for one in chains.chains_due(now=later)} == {held.pk, *(row.pk for row in rows)}


def test_the_schema_refuses_an_active_chain_that_is_never_due(story: Tell) -> None:
    chain = story("one").start()
    with pytest.raises(IntegrityError), transaction.atomic():
        Chain.objects.filter(pk=chain.pk).update(next_at=None)
