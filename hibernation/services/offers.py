"""Which offer a wake takes: the machine it knows, its region, another region, the next GPU type; cheapest first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from hibernation.models import Box, Instance, MachineBan
from hibernation.providers.base import Offer, OfferQuery, Provider, gpu_key
from hibernation.services.boxes import provider_of


def price_cap(instance: Instance) -> Decimal | None:
    """The lowest of the instance's and its account's caps, in $ per hour; None where neither has one."""
    caps = [
        cap for cap in (instance.price_cap_usd_per_h, instance.account.price_cap_usd_per_h) if cap is not None
    ]
    return min(caps, default=None)


def offers_ranked(
    instance: Instance, *, gpu_type: str = "", region: str = "", tried: Collection[str] = (), now: datetime
) -> list[Offer]:
    """Offers within the price cap, best first. gpu_type and region are wishes of this wake, else the instance's own.

    tried: machines that this wake has tried already; banned ones are left out as well. Another region, and then
    another GPU type, come after everything that fits better, and never above the cap. Without a cap the GPU type is
    never changed: nobody has said what another one may cost.
    """
    provider = provider_of(instance.account)
    banned = MachineBan.objects.filter(account_kind=instance.account.kind, until__gt=now)
    excluded = frozenset(tried) | frozenset(banned.values_list("machine_id", flat=True))
    query = OfferQuery(
        gpu_type=gpu_type or instance.gpu_type,
        price_cap_usd_per_h=price_cap(instance),
        disk_bytes=instance.disk_bytes,
        exclude_machines=excluded,
    )
    wanted_region = region or instance.region
    found = _offers(provider, query)
    if query.gpu_type and query.price_cap_usd_per_h is not None:
        seen = {offer.id for offer in found}
        found += [offer for offer in _offers(provider, replace(query, gpu_type="")) if offer.id not in seen]
    last = Box.objects.filter(instance=instance).exclude(machine_id="").order_by("-created_at").first()
    return sorted(
        found, key=lambda offer: rank(offer, query.gpu_type, wanted_region, last.machine_id if last else "")
    )


def rank(
    offer: Offer, gpu_type: str, region: str, last_machine: str
) -> tuple[bool, bool, bool, Decimal, str]:
    """Sort key: the right GPU, then the right region, then the machine that may still hold caches, then the price."""
    return (
        bool(gpu_type) and gpu_key(gpu_type) != gpu_key(offer.gpu_name),
        bool(region) and region.casefold() != offer.region.casefold(),
        not last_machine or offer.machine_id != last_machine,
        offer.price_usd_per_h,
        offer.id,
    )


def _offers(provider: Provider, query: OfferQuery) -> Sequence[Offer]:
    return list(provider.offers(query))
