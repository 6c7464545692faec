"""What sleeping saved, as JSON and in sentences: what was measured apart from what is estimated."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.utils.dateparse import parse_date, parse_datetime
from django.utils.timezone import is_naive
from rest_framework import serializers

from core.errors import Invalid
from hibernation.models import Instance
from hibernation.savings import Ledger
from hibernation.services.ledger import Figures, Paid, figures_of

DEFAULT_PERIOD = timedelta(days=30)
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
"""Nothing here is older; far from the end of the calendar, beyond which nothing can be reckoned."""


class Money(serializers.DecimalField):
    """US dollars, to a hundredth of a cent."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_digits=20, decimal_places=4, **options)


class GpuSerializer(serializers.Serializer):
    basis = serializers.CharField(
        help_text="measured: the seconds that its boxes were billed, times their prices"
    )
    hours = serializers.FloatField()
    usd = Money()


class StorageSerializer(serializers.Serializer):
    basis = serializers.CharField(
        help_text="estimated: the bytes of its snapshots, times the store's list price"
    )
    gb_months = serializers.FloatField()
    usd = Money()


class AlwaysOnSerializer(serializers.Serializer):
    basis = serializers.CharField(help_text="estimated: the price of its first box, as if it had never slept")
    hours = serializers.FloatField()
    unserved_hours = serializers.FloatField(help_text="lost by the provider: neither counted nor saved")
    usd = Money()


class PaidInTimeSerializer(serializers.Serializer):
    wakes = serializers.IntegerField()
    failed_wakes = serializers.IntegerField()
    hibernations = serializers.IntegerField()
    stopped_hibernations = serializers.IntegerField()
    waiting_s = serializers.FloatField()


class SavingsSerializer(serializers.Serializer):
    gpu = GpuSerializer()
    storage = StorageSerializer()
    always_on = AlwaysOnSerializer()
    gpu_saved_usd = Money(help_text="always on less the GPU's cost")
    gpu_saved_percent = serializers.FloatField(allow_null=True)
    saved_usd = Money(help_text="with storage counted; negative where sleeping cost more than it saved")
    saved_percent = serializers.FloatField(allow_null=True)
    paid_in_time = PaidInTimeSerializer()
    lines = serializers.ListField(child=serializers.CharField(), help_text="the same for a person to read")


class InstanceSavingsSerializer(SavingsSerializer):
    instance = serializers.CharField()
    name = serializers.CharField()


class PeriodSavingsSerializer(SavingsSerializer):
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()


class AllSavingsSerializer(PeriodSavingsSerializer):
    instances = InstanceSavingsSerializer(many=True)


def period(query: Any, *, now: datetime) -> tuple[datetime, datetime]:
    """`start` and `end` of the query, dates or times in UTC; the last 30 days where they are left out. Never the future."""
    end = min(_moment(query, "end") or now, now)
    start = _moment(query, "start") or end - DEFAULT_PERIOD
    if start >= end:
        raise Invalid(
            f"the period from {start} to {end} is empty", hint="start lies before end, and in the past"
        )
    return start, end


def savings_json(money: Ledger, time: Paid) -> dict[str, Any]:
    return {
        "gpu": {"basis": "measured", "hours": _short(money.gpu_h), "usd": money.gpu_usd},
        "storage": {
            "basis": "estimated",
            "gb_months": _short(money.storage_gb_months),
            "usd": money.storage_usd,
        },
        "always_on": {
            "basis": "estimated",
            "hours": _short(money.always_on_h),
            "unserved_hours": _short(money.unserved_h),
            "usd": money.always_on_usd,
        },
        "gpu_saved_usd": money.gpu_saved_usd,
        "gpu_saved_percent": _percent(money.gpu_saved_percent),
        "saved_usd": money.saved_usd,
        "saved_percent": _percent(money.saved_percent),
        "paid_in_time": vars(time),
        "lines": list(_lines(money, time)),
    }


def savings_of_instance(instance: Instance, *, start: datetime, end: datetime) -> dict[str, Any]:
    found = figures_of([instance], start=start, end=end)[instance.pk]
    return {"start": start, "end": end, **savings_json(found.money, found.time)}


def savings_of_all(instances: list[Instance], *, start: datetime, end: datetime) -> dict[str, Any]:
    found = figures_of(instances, start=start, end=end)
    total = sum((item.money for item in found.values()), Ledger())
    waited = sum((item.time for item in found.values()), Paid())
    return {
        "start": start,
        "end": end,
        **savings_json(total, waited),
        "instances": [_of_one(instance, found[instance.pk]) for instance in instances],
    }


def _of_one(instance: Instance, found: Figures) -> dict[str, Any]:
    return {"instance": instance.pk, "name": instance.name, **savings_json(found.money, found.time)}


def _lines(money: Ledger, time: Paid) -> Iterable[str]:
    yield f"GPU: {money.gpu_h:.3f} h, ${money.gpu_usd:.4f} (measured)"
    yield f"snapshot storage: {money.storage_gb_months:.4f} GB-months, ${money.storage_usd:.4f} (estimated)"
    yield f"always on it would have been {money.always_on_h:.3f} h, ${money.always_on_usd:.4f} (estimated)"
    if money.unserved_h:
        yield f"lost by the provider for {money.unserved_h:.3f} h: neither counted nor saved"
    if money.saved_percent is not None:
        word = "saved" if money.saved_usd >= 0 else "lost by sleeping"
        yield f"{word}: ${abs(money.saved_usd):.4f}, {abs(money.saved_percent):.1f} %"
    yield (
        f"paid in time: wakes {time.wakes} ({time.waiting_s:.0f} s of waiting), failed {time.failed_wakes}; "
        f"hibernations stopped {time.stopped_hibernations}"
    )


def _short(value: Decimal) -> float:
    return round(float(value), 6)


def _percent(value: Decimal | None) -> float | None:
    return None if value is None else round(float(value), 2)


def _moment(query: Any, name: str) -> datetime | None:
    text = query.get(name)
    if not text:
        return None
    try:
        day = parse_date(text)
        found = parse_datetime(f"{day}T00:00:00Z" if day else text)
        if found is not None and not is_naive(found):
            return max(found.astimezone(UTC), EARLIEST)
    except (ValueError, OverflowError):
        pass
    raise Invalid(
        f"{name} {text!r} is not a time",
        hint="use a date, 2026-11-01, or a time with its zone, 2026-11-01T09:00:00Z",
    )
