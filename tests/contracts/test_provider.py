"""What every provider promises, on each of them: local, and whichever comes next (one more line in MARKETS)."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from core.errors import Busy
from hibernation.providers import vast, vast_pace
from hibernation.providers.base import (
    CreateUnknown,
    ListingIncomplete,
    Offer,
    OfferGone,
    OfferQuery,
    Phase,
    ProviderBusy,
    ProviderError,
    ProviderRefused,
    gpu_key,
    with_label,
)
from tests.hibernation.providers.hosts import LocalHost, eventually
from tests.hibernation.providers.markets import LocalMarket, Market, VastMarket
from tests.simulators.vast.running import Simulator

DISK_BYTES = 40 * 10**9
ANY = OfferQuery(disk_bytes=DISK_BYTES)


@pytest.fixture(scope="module")
def local_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHost]:
    host = LocalHost(tmp_path_factory.mktemp("contract") / "host", boxes=32).start()
    yield host
    host.clean_up()


@pytest.fixture(scope="module")
def vast_simulator(tmp_path_factory: pytest.TempPathFactory, _valkey: object) -> Iterator[Simulator]:
    """Without its rate limits: they have tests of their own, and would make this suite one of minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vast_pace, "LIMITS", {})
        patch.setattr(vast, "OFFERS_LIFE_S", 0.0)
        simulator = Simulator(tmp_path_factory.mktemp("vast") / "simulator").start()
        yield simulator
        simulator.stop()


MARKETS = {"local": ("local_host", LocalMarket), "vast": ("vast_simulator", VastMarket)}


@pytest.fixture(params=sorted(MARKETS))
def market(request: pytest.FixtureRequest) -> Iterator[Market]:
    fixture, kind = MARKETS[request.param]
    found = kind(request.getfixturevalue(fixture))
    yield found
    found.clean_up()


def rent(market: Market, label: str) -> tuple[str, Offer]:
    offer = market.provider.offers(ANY)[0]
    return market.provider.create(offer.id, market.spec(label)), offer


def refs(market: Market) -> set[str]:
    return {box.ref for box in market.provider.listing()}


# -- offers ---------------------------------------------------------------------------------------


def test_an_offer_says_what_it_is_and_what_it_costs(market: Market) -> None:
    offers = market.provider.offers(ANY)
    assert len({offer.id for offer in offers}) == len(offers) > 0
    for offer in offers:
        assert offer.id and offer.machine_id and offer.gpu_name and offer.region
        assert isinstance(offer.price_usd_per_h, Decimal) and offer.price_usd_per_h > 0
        assert offer.gpu_count == 1 and offer.gpu_mem_bytes > 2**30
        assert offer.reliability is None or 0 <= offer.reliability <= 1


def test_offers_fulfil_the_query(market: Market) -> None:
    gpu = market.provider.offers(OfferQuery(gpu_type=market.gpu_type, disk_bytes=DISK_BYTES))
    assert gpu and {gpu_key(offer.gpu_name) for offer in gpu} == {gpu_key(market.gpu_type)}
    here = market.provider.offers(OfferQuery(region=market.region, disk_bytes=DISK_BYTES))
    assert here and {offer.region for offer in here} == {market.region}
    pairs = market.provider.offers(OfferQuery(gpu_count=2, disk_bytes=DISK_BYTES))
    assert pairs and {offer.gpu_count for offer in pairs} == {2}


def test_the_price_cap_holds_for_the_whole_price_with_its_disk(market: Market) -> None:
    cheapest = min(offer.price_usd_per_h for offer in market.provider.offers(ANY))
    at_cap = market.provider.offers(OfferQuery(disk_bytes=DISK_BYTES, price_cap_usd_per_h=cheapest))
    assert at_cap and all(offer.price_usd_per_h == cheapest for offer in at_cap)
    below = OfferQuery(disk_bytes=DISK_BYTES, price_cap_usd_per_h=cheapest - Decimal("0.0001"))
    assert market.provider.offers(below) == []
    more_disk = OfferQuery(disk_bytes=20 * DISK_BYTES, price_cap_usd_per_h=cheapest)
    assert market.provider.offers(more_disk) == []


def test_excluded_machines_are_not_offered(market: Market) -> None:
    machines = {offer.machine_id for offer in market.provider.offers(ANY)}
    out = min(machines)
    found = market.provider.offers(OfferQuery(disk_bytes=DISK_BYTES, exclude_machines=frozenset({out})))
    assert {offer.machine_id for offer in found} == machines - {out}


def test_nothing_that_fits_is_an_empty_list(market: Market) -> None:
    assert market.provider.offers(OfferQuery(gpu_type="Abacus 9000", disk_bytes=DISK_BYTES)) == []


# -- create ---------------------------------------------------------------------------------------


def test_a_created_box_is_listed_under_its_label_when_create_returns(market: Market) -> None:
    ref, offer = rent(market, "dm-listed")
    [listed] = market.provider.listing()
    read = market.provider.read(ref)
    assert read is not None and (listed.ref, read.ref) == (ref, ref)
    assert listed.label == read.label == "dm-listed"
    assert (read.machine_id, read.gpu_name, read.region) == (offer.machine_id, offer.gpu_name, offer.region)
    assert read.created_at is not None and read.created_at.tzinfo is not None
    found = market.provider.find("dm-listed")
    assert found is not None and found.ref == ref
    assert market.provider.find("dm-liste") is None


def test_a_box_costs_what_was_offered(market: Market) -> None:
    offer = market.provider.offers(OfferQuery(disk_bytes=market.spec("dm-price").disk_bytes))[0]
    ref = market.provider.create(offer.id, market.spec("dm-price"))
    read = market.provider.read(ref)
    assert read is not None and read.price_usd_per_h == offer.price_usd_per_h


def test_a_box_runs_some_time_after_create_returned(market: Market) -> None:
    ref, _ = rent(market, "dm-runs")
    seen = set()

    def runs() -> bool:
        facts = market.provider.read(ref)
        assert facts is not None and not facts.failed
        seen.add(facts.phase)
        return facts.phase is Phase.RUNNING

    eventually(runs)
    assert seen <= {Phase.LOADING, Phase.RUNNING}


def test_an_unknown_offer_is_gone(market: Market) -> None:
    with pytest.raises(OfferGone):
        market.provider.create("never-was", market.spec("dm-no"))
    assert market.provider.listing() == []


def test_an_offer_is_rented_once(market: Market) -> None:
    _, offer = rent(market, "dm-first")
    assert offer.id not in {other.id for other in market.provider.offers(ANY)}
    with pytest.raises(OfferGone):
        market.provider.create(offer.id, market.spec("dm-second"))
    assert {box.label for box in market.provider.listing()} == {"dm-first"}


def test_two_boxes_with_one_label_are_both_seen_and_the_oldest_is_found(market: Market) -> None:
    first, _ = rent(market, "dm-twice")
    second, _ = rent(market, "dm-twice")
    twins = with_label(market.provider.listing(), "dm-twice")
    assert [box.ref for box in twins] == [first, second]
    found = market.provider.find("dm-twice")
    assert found is not None and found.ref == first


def test_busy_means_that_nothing_was_rented_and_when_to_come_back(market: Market) -> None:
    market.next_create_is_busy(retry_after_s=17)
    with pytest.raises(ProviderBusy) as busy:
        rent(market, "dm-busy")
    assert busy.value.retry_after_s == 17 and isinstance(busy.value, Busy)
    assert market.provider.listing() == []
    rent(market, "dm-busy")


def test_refused_is_for_good_and_says_what_to_do(market: Market) -> None:
    market.next_create_is_refused()
    with pytest.raises(ProviderRefused) as refused:
        rent(market, "dm-refused")
    assert refused.value.hint and not isinstance(refused.value, Busy)
    assert market.provider.listing() == []


def test_a_create_that_broke_off_is_found_by_its_label_if_it_rented(market: Market) -> None:
    market.next_create_breaks_off(rents=True)
    with pytest.raises(CreateUnknown) as unknown:
        rent(market, "dm-unknown")
    assert not isinstance(unknown.value, Busy), "putting the step off and creating again would rent twice"
    box = eventually(lambda: market.provider.find("dm-unknown"))
    assert refs(market) == {box.ref}


def test_a_create_that_broke_off_and_rented_nothing_leaves_nothing(market: Market) -> None:
    market.next_create_breaks_off(rents=False)
    with pytest.raises(CreateUnknown):
        rent(market, "dm-lost")
    assert market.provider.listing() == []
    assert market.provider.create_settles_s > 0


# -- destroy --------------------------------------------------------------------------------------


def test_destroy_is_true_when_the_listing_and_a_read_say_so(market: Market) -> None:
    ref, _ = rent(market, "dm-destroy")
    kept, _ = rent(market, "dm-kept")
    market.provider.destroy(ref)
    eventually(lambda: market.provider.read(ref) is None and ref not in refs(market))
    assert refs(market) == {kept}


def test_destroying_twice_or_what_never_was_is_success(market: Market) -> None:
    ref, _ = rent(market, "dm-again")
    for _ in range(3):
        market.provider.destroy(ref)
    eventually(lambda: market.provider.read(ref) is None)
    market.provider.destroy(ref)
    market.provider.destroy("never-was")


def test_a_destroy_that_does_nothing_is_seen_as_such(market: Market) -> None:
    ref, _ = rent(market, "dm-stays")
    market.next_destroy_does_nothing()
    market.provider.destroy(ref)
    read = market.provider.read(ref)
    assert read is not None and read.label == "dm-stays" and refs(market) == {ref}
    market.provider.destroy(ref)
    eventually(lambda: market.provider.read(ref) is None and not refs(market))


def test_a_box_that_is_gone_leaves_its_place_free(market: Market) -> None:
    before = sorted(offer.machine_id for offer in market.provider.offers(ANY))
    ref, _ = rent(market, "dm-place")
    assert sorted(offer.machine_id for offer in market.provider.offers(ANY)) != before
    market.provider.destroy(ref)
    eventually(lambda: sorted(offer.machine_id for offer in market.provider.offers(ANY)) == before)


# -- read and listing -----------------------------------------------------------------------------


def test_a_box_that_never_was_is_not_there(market: Market) -> None:
    assert market.provider.read("never-was") is None
    assert market.provider.listing() == []
    assert market.provider.find("never-was") is None


@pytest.mark.parametrize("boxes", [0, 1, 3])
def test_a_listing_that_came_short_raises_and_is_never_a_shorter_list(market: Market, boxes: int) -> None:
    for index in range(boxes):
        rent(market, f"dm-{index}")
    for ask in (market.provider.listing, lambda: market.provider.find("dm-0")):
        market.next_listing_is_short()
        with pytest.raises(ListingIncomplete):
            ask()
    assert len(market.provider.listing()) == boxes
    assert issubclass(ListingIncomplete, Busy), "a chain that waits for absence waits on"


def test_a_box_that_a_listing_lacks_is_still_read(market: Market) -> None:
    ref, _ = rent(market, "dm-hidden")
    market.next_listing_lacks("dm-hidden")
    assert refs(market) == set()
    assert market.provider.read(ref) is not None
    assert refs(market) == {ref}


def test_a_provider_out_of_reach_is_busy_and_never_an_empty_list(market: Market) -> None:
    away = market.out_of_reach()
    calls: list[Any] = [
        away.listing,
        lambda: away.read("b1"),
        lambda: away.destroy("b1"),
        lambda: away.offers(ANY),
        lambda: away.find("dm"),
        lambda: away.create("o1", market.spec("dm")),
    ]
    for call in calls:
        with pytest.raises(ProviderBusy) as busy:
            call()
        assert busy.value.hint and busy.value.retry_after_s > 0


def test_an_account_sees_and_destroys_its_own_boxes_only(market: Market) -> None:
    ref, _ = rent(market, "dm-mine")
    assert market.stranger.listing() == []
    assert market.stranger.read(ref) is None
    market.stranger.destroy(ref)
    read = market.provider.read(ref)
    assert read is not None and read.phase in (Phase.LOADING, Phase.RUNNING)
    assert refs(market) == {ref}


def test_every_error_is_one_of_the_port() -> None:
    for kind in (ProviderBusy, ListingIncomplete, OfferGone, ProviderRefused, CreateUnknown):
        assert issubclass(kind, ProviderError)
