"""What an account's money has gone into: asked of whoever rents, which is not the pool."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Spend:
    """What was spent on an account's rentals, in USD, since the beginning of the present day and month (UTC)."""

    usd_day: float = 0.0
    usd_month: float = 0.0


Source = Callable[[Collection[str], datetime], Mapping[str, Spend]]
_sources: list[Source] = []


def register_spend(source: Source) -> None:
    """`source(account_ids, now)` returns the spend of those accounts that it knows. Called in an app's ready()."""
    if source not in _sources:
        _sources.append(source)


def spend_of(account_ids: Collection[str], *, now: datetime) -> dict[str, Spend]:
    """Account id -> what was spent; accounts on which nothing was spent may be left out."""
    spent: dict[str, Spend] = {}
    for source in _sources:
        for account_id, part in source(account_ids, now).items():
            so_far = spent.get(account_id, Spend())
            spent[account_id] = Spend(
                usd_day=so_far.usd_day + part.usd_day, usd_month=so_far.usd_month + part.usd_month
            )
    return spent
