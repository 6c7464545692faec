"""What sleeping saved: what was paid, beside what an instance would have cost that never sleeps. Pure.

Paid: the seconds that each box was billed times its price (measured), and the bytes that its snapshots occupy times
the store's list price (estimated). The other side is *always on*: the price of its first box for as long as the
instance has existed, less the time in which the provider had lost it, which is unserved and not saved. A loss is shown
as one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

STORAGE_USD_PER_GB_MONTH = Decimal("0.015")
"""Cloudflare R2, standard class. Its free tier and its rounding up are left out: the estimate errs upwards."""

GB = 10**9
MONTH = timedelta(days=30)
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Span:
    """From start, up to end; None: it goes on."""

    start: datetime
    end: datetime | None = None

    def within(self, start: datetime, end: datetime) -> timedelta:
        """How much of it lies between start and end."""
        last = end if self.end is None else min(self.end, end)
        return max(last - max(self.start, start), timedelta(0))


@dataclass(frozen=True)
class Rental:
    """A box, for as long as it was billed."""

    billed: Span
    price_usd_per_h: Decimal


@dataclass(frozen=True)
class Stored:
    """Bytes in the store, for as long as they were there."""

    kept: Span
    stored_bytes: int


@dataclass(frozen=True)
class History:
    """All that the ledger needs to know of an instance. exists: from its first box until its owner gave it up; None
    where it never had one. lost: when the provider no longer had its box. rentals: in the order of their start."""

    exists: Span | None = None
    rentals: tuple[Rental, ...] = ()
    stored: tuple[Stored, ...] = ()
    lost: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Ledger:
    """Hours and dollars of a period. gpu: measured. storage, always_on: estimated. Ledgers add up."""

    gpu_h: Decimal = Decimal(0)
    gpu_usd: Decimal = Decimal(0)
    storage_gb_months: Decimal = Decimal(0)
    storage_usd: Decimal = Decimal(0)
    always_on_h: Decimal = Decimal(0)
    always_on_usd: Decimal = Decimal(0)
    unserved_h: Decimal = Decimal(0)

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def gpu_saved_usd(self) -> Decimal:
        return self.always_on_usd - self.gpu_usd

    @property
    def gpu_saved_percent(self) -> Decimal | None:
        return self._percent(self.gpu_saved_usd)

    @property
    def cost_usd(self) -> Decimal:
        return self.gpu_usd + self.storage_usd

    @property
    def saved_usd(self) -> Decimal:
        """With storage counted; negative where sleeping cost more than it saved."""
        return self.always_on_usd - self.cost_usd

    @property
    def saved_percent(self) -> Decimal | None:
        """Of what always on would have cost; None where that is nothing."""
        return self._percent(self.saved_usd)

    def _percent(self, usd: Decimal) -> Decimal | None:
        return 100 * usd / self.always_on_usd if self.always_on_usd else None


def ledger(history: History, *, start: datetime, end: datetime) -> Ledger:
    """The ledger of one instance for the time between start and end; end is not in the future."""
    gpu_h = gpu_usd = Decimal(0)
    for rental in history.rentals:
        hours = _hours(rental.billed.within(start, end))
        gpu_h += hours
        gpu_usd += hours * rental.price_usd_per_h
    gb_months = sum(
        (item.stored_bytes * _ratio(item.kept.within(start, end), MONTH) / GB for item in history.stored),
        Decimal(0),
    )
    existed_h = _hours(history.exists.within(start, end)) if history.exists else Decimal(0)
    unserved_h = min(existed_h, sum((_hours(span.within(start, end)) for span in history.lost), Decimal(0)))
    price = history.rentals[0].price_usd_per_h if history.rentals else Decimal(0)
    return Ledger(
        gpu_h=gpu_h,
        gpu_usd=gpu_usd,
        storage_gb_months=gb_months,
        storage_usd=gb_months * STORAGE_USD_PER_GB_MONTH,
        always_on_h=existed_h - unserved_h,
        always_on_usd=(existed_h - unserved_h) * price,
        unserved_h=unserved_h,
    )


def total(ledgers: Iterable[Ledger]) -> Ledger:
    """All of them together."""
    return sum(ledgers, Ledger())


def _hours(length: timedelta) -> Decimal:
    return _ratio(length, HOUR)


def _ratio(length: timedelta, unit: timedelta) -> Decimal:
    return Decimal(length // timedelta(microseconds=1)) / Decimal(unit // timedelta(microseconds=1))
