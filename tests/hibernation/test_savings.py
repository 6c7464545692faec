"""The ledger: paid against always on, storage apart, losses shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibernation.savings import GB, History, Ledger, Rental, Span, Stored, ledger, total

START = datetime(2026, 11, 1, tzinfo=UTC)
END = START + timedelta(days=30)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def month_of(hours_a_day: int, *, price: str, stored_gb: int) -> History:
    price_usd_per_h = Decimal(price)
    return History(
        exists=Span(START),
        rentals=tuple(
            Rental(Span(at(24 * day), at(24 * day + hours_a_day)), price_usd_per_h) for day in range(30)
        ),
        stored=(Stored(Span(START), stored_gb * GB),),
    )


@pytest.mark.parametrize(
    ("hours_a_day", "price", "stored_gb", "always_on", "paid", "storage"),
    [(6, "1.50", 70, 1080, 270, "1.05"), (4, "0.30", 6, 216, 36, "0.09")],
)
def test_the_worked_examples_of_a_month(
    hours_a_day: int, price: str, stored_gb: int, always_on: int, paid: int, storage: str
) -> None:
    book = ledger(month_of(hours_a_day, price=price, stored_gb=stored_gb), start=START, end=END)
    assert (book.always_on_usd, book.gpu_usd) == (always_on, paid)
    assert book.storage_usd == Decimal(storage), "apart, and not hidden in the GPU's cost"
    assert book.gpu_saved_usd == always_on - paid
    assert book.saved_usd == always_on - paid - Decimal(storage)
    assert book.always_on_h == 720


def test_percentages_are_of_what_always_on_would_have_cost() -> None:
    book = ledger(month_of(6, price="1.50", stored_gb=70), start=START, end=END)
    assert book.gpu_saved_percent == 75
    assert round(book.saved_percent or 0, 2) == Decimal("74.90")


def test_a_loss_is_shown_as_one() -> None:
    history = History(
        exists=Span(START),
        rentals=(Rental(Span(START, at(1)), Decimal("0.10")), Rental(Span(at(1)), Decimal("0.50"))),
    )
    book = ledger(history, start=START, end=at(10))
    assert book.saved_usd == 10 * Decimal("0.10") - Decimal("0.10") - 9 * Decimal("0.50")
    assert (book.saved_percent or 0) < 0


def test_what_lies_outside_the_period_does_not_count() -> None:
    history = month_of(6, price="1.50", stored_gb=70)
    day = ledger(history, start=at(24), end=at(48))
    assert (day.gpu_h, day.always_on_h, day.gpu_usd) == (6, 24, 9)
    assert ledger(history, start=at(-48), end=START) == Ledger()


def test_a_box_that_still_runs_is_billed_up_to_the_end_of_the_period() -> None:
    history = History(exists=Span(START), rentals=(Rental(Span(START), Decimal(1)),))
    assert ledger(history, start=START, end=at(5)).gpu_h == 5


def test_time_in_which_the_provider_had_lost_it_is_unserved_and_not_saved() -> None:
    history = History(
        exists=Span(START), rentals=(Rental(Span(START, at(2)), Decimal(1)),), lost=(Span(at(2), at(8)),)
    )
    book = ledger(history, start=START, end=at(10))
    assert (book.unserved_h, book.always_on_h, book.saved_usd) == (6, 4, 2)


def test_after_its_owner_gave_it_up_nothing_is_saved_any_more() -> None:
    history = History(exists=Span(START, at(4)), rentals=(Rental(Span(START, at(4)), Decimal(1)),))
    assert ledger(history, start=START, end=END).saved_usd == 0


def test_an_instance_that_never_had_a_box_costs_and_saves_nothing() -> None:
    book = ledger(History(), start=START, end=END)
    assert book == Ledger()
    assert book.saved_percent is None


spans = st.builds(
    lambda start, length: Span(at(start), None if length is None else at(start + length)),
    st.floats(-100, 100),
    st.none() | st.floats(0, 100),
)
histories = st.builds(
    History,
    exists=st.none() | spans,
    rentals=st.lists(st.builds(Rental, spans, st.decimals("0.01", 5, places=2)), max_size=4).map(tuple),
    stored=st.lists(st.builds(Stored, spans, st.integers(0, 10**12)), max_size=3).map(tuple),
)


@given(histories, st.floats(1, 49))
def test_the_parts_of_a_period_add_up_to_the_whole(history: History, cut: float) -> None:
    whole = ledger(history, start=START, end=at(50))
    parts = total([ledger(history, start=START, end=at(cut)), ledger(history, start=at(cut), end=at(50))])
    for name, value in vars(whole).items():
        assert abs(value - getattr(parts, name)) < Decimal("1e-6"), name
