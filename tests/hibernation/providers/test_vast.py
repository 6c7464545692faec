"""vast.ai's own ways, on its simulator: which offers, which words mean what, how often it may be asked, what a box starts with."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from core.errors import Invalid
from hibernation.providers import vast, vast_pace
from hibernation.providers.base import (
    BoxSpec,
    CreateUnknown,
    OfferQuery,
    Phase,
    ProviderBusy,
    ProviderRefused,
    StartQueued,
)
from hibernation.providers.registry import AgentWheel, ProviderAccount, ProviderSettings
from hibernation.providers.vast_pace import Pace
from hibernation.providers.vast_start import create_body, onstart
from tests.hibernation.providers.hosts import box_spec, eventually
from tests.hibernation.providers.markets import WHEEL, vast_at
from tests.simulators.vast.catalogue import GOOD, MACHINES
from tests.simulators.vast.faults import FaultKind as K
from tests.simulators.vast.running import Simulator

GB = 10**9
ANY = OfferQuery(disk_bytes=40 * GB)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    made = Simulator(tmp_path_factory.mktemp("vast") / "simulator").start()
    yield made
    made.stop()


@pytest.fixture
def unpaced(monkeypatch: pytest.MonkeyPatch, valkey: object) -> None:
    monkeypatch.setattr(vast_pace, "LIMITS", {})
    monkeypatch.setattr(vast, "OFFERS_LIFE_S", 0.0)


@pytest.fixture
def provider(simulator: Simulator, unpaced: None) -> Iterator[vast.VastProvider]:
    made = vast_at(simulator.url, "sim-mine")
    yield made
    simulator.faults_clear()
    for box in made.listing():
        made.destroy(box.ref)


def rent(provider: vast.VastProvider, label: str = "dm-1", **spec: Any) -> str:
    return provider.create(provider.offers(ANY)[0].id, box_spec(label, **spec))


# -- offers -----------------------------------------------------------------------------------------------------------


def test_only_machines_that_are_good_enough_are_offered(provider: vast.VastProvider) -> None:
    """Unreliable, leaving soon, dear traffic, unverified, external, no disk, old CUDA, slow: each one is in the catalogue."""
    found = {offer.machine_id for offer in [*provider.offers(ANY), *provider.offers(OfferQuery(gpu_count=2))]}
    assert found == {str(machine_id) for machine_id in GOOD} and len(MACHINES) - len(GOOD) == 9


def test_the_owners_gpu_is_asked_for_in_vast_ais_own_spelling(provider: vast.VastProvider) -> None:
    for wish in ("RTX_3090", "rtx 3090", "NVIDIA GeForce RTX 3090"):
        assert {offer.gpu_name for offer in provider.offers(OfferQuery(gpu_type=wish))} == {"RTX 3090"}
    assert {offer.region for offer in provider.offers(OfferQuery(region="de"))} == {"DE"}


def test_an_offer_is_remembered_for_a_while_and_forgotten_when_one_was_rented(
    simulator: Simulator, valkey: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vast_pace, "LIMITS", {})
    provider = vast_at(simulator.url, "sim-memory")

    def searches() -> int:
        calls = simulator.books()["calls"]
        return sum(call["endpoint"] == "search" and call.get("tenant") == "sim-memory" for call in calls)

    for _ in range(3):
        offers = provider.offers(ANY)
        other = provider.offers(
            OfferQuery(disk_bytes=40 * GB, exclude_machines=frozenset({offers[0].machine_id}))
        )
        assert len(other) < len(offers) and searches() == 1
    ref = provider.create(offers[0].id, box_spec("dm-1"))
    assert offers[0].id not in {offer.id for offer in provider.offers(ANY)} and searches() == 2
    provider.destroy(ref)


# -- the key ----------------------------------------------------------------------------------------------------------


def test_a_key_that_is_refused_is_said_and_not_shown(
    simulator: Simulator, unpaced: None, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    provider = vast_at(simulator.url, "wrong-secret-key")
    for call in (
        provider.listing,
        lambda: provider.offers(ANY),
        lambda: provider.read("7"),
        lambda: provider.destroy("7"),
    ):
        with pytest.raises(ProviderRefused) as refused:
            call()
        assert (
            "does not take the account's key" in refused.value.message
            and "docs/providers.md" in refused.value.hint
        )
        assert "wrong-secret-key" not in refused.value.message
    assert "wrong-secret-key" not in caplog.text and "wrong-secret-key" not in repr(provider)


@pytest.mark.parametrize(
    "credentials", [{}, {"api_key": ""}, {"api_key": 7}, {"api_key": "schlüssel"}, {"key": "k"}]
)
def test_credentials_without_a_key_are_refused_with_how_to_write_them(
    credentials: Any, tmp_path: Path
) -> None:
    account = ProviderAccount(id="a", kind="vast", credentials=credentials)
    with pytest.raises(ProviderRefused) as refused:
        vast.vast_provider(account, ProviderSettings(data_dir=tmp_path))
    assert '{"api_key": "…"}' in refused.value.hint


# -- create -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "order",
    [
        {"kind": K.SUCCESS_FALSE, "endpoint": "create"},
        {"kind": K.SERVER_ERROR, "endpoint": "create"},
        {"kind": K.GARBLED, "endpoint": "create"},
        {"kind": K.CREATE_FALSE_BUT_RENTS},
    ],
)
def test_an_answer_that_could_mean_either_is_unknown_and_never_a_refusal(
    simulator: Simulator, provider: vast.VastProvider, order: dict[str, Any]
) -> None:
    simulator.fault(**order)
    with pytest.raises(CreateUnknown):
        rent(provider)
    assert len(provider.listing()) == (order["kind"] == K.CREATE_FALSE_BUT_RENTS)


def test_a_create_is_asked_for_once_whatever_is_answered(
    simulator: Simulator, provider: vast.VastProvider
) -> None:
    for kind in (K.SILENCE, K.SERVER_ERROR, K.RATE_LIMITED, K.GARBLED):
        before = len(creates(simulator))
        simulator.fault(kind, endpoint="create")
        with pytest.raises((CreateUnknown, ProviderBusy)):
            rent(provider)
        assert len(creates(simulator)) == before + 1


def test_what_is_asked_for_is_what_vast_ai_must_be_asked_for(
    simulator: Simulator, provider: vast.VastProvider
) -> None:
    ref = rent(
        provider,
        "dm-asked",
        disk_bytes=41 * GB + 1,
        agent_name="night owl · 7",
        environment={"WANDB_MODE": "offline"},
    )
    row = simulator.contract(ref)
    assert (row["label"], row["disk_gb"], row["image"], row["runtype"]) == (
        "dm-asked",
        42,
        "image:1",
        "ssh_proxy",
    )
    assert row["env"] == {
        "WANDB_MODE": "offline", "DORMOUSE_URL": "http://127.0.0.1:1", "DORMOUSE_JOIN_TOKEN": "once-only",
        "DORMOUSE_AGENT_NAME": "night owl · 7", "DORMOUSE_WORKSPACE": "/workspace", "DORMOUSE_PROVIDER": "vast",
        "DORMOUSE_VAST_URL": simulator.url,
    }  # fmt: skip
    body = create_body(box_spec("dm"), WHEEL, image="i")
    assert body["cancel_unavail"] is True and "price" not in body and "DORMOUSE_VAST_URL" not in body["env"]


def test_what_does_not_fit_into_the_request_is_refused_before_it_is_sent(
    simulator: Simulator, provider: vast.VastProvider
) -> None:
    before = len(creates(simulator))
    with pytest.raises(ProviderRefused, match="WANDB_NAME is longer than the 256"):
        rent(provider, environment={"WANDB_NAME": 256 * "x"})
    assert len(creates(simulator)) == before
    with pytest.raises(Invalid, match="takes 4096"):
        onstart(box_spec("dm", url=f"https://{'x' * 3000}.example"), WHEEL)


def test_the_script_fetches_the_agent_by_its_hash_and_is_a_script() -> None:
    spec = BoxSpec(label="dm", disk_bytes=GB, url="https://pool.example.com", join_token="secret-token")
    script = onstart(spec, AgentWheel(name="dormouse_agent-0.1.0-py3-none-any.whl", sha256=64 * "a"))
    assert f"https://pool.example.com/agent/dormouse_agent-0.1.0-py3-none-any.whl#sha256={64 * 'a'}" in script
    assert "secret-token" not in script and len(script) < 2500
    subprocess.run(["/bin/sh", "-n"], input=script.encode(), check=True)


# -- reading ----------------------------------------------------------------------------------------------------------


def test_an_answer_about_another_box_or_none_says_nothing_of_this_one(
    simulator: Simulator, provider: vast.VastProvider
) -> None:
    ref = rent(provider)
    for kind in (K.GARBLED, K.SERVER_ERROR, K.SILENCE, K.RATE_LIMITED):
        simulator.fault(kind, endpoint="read")
        with pytest.raises(ProviderBusy):
            provider.read(ref)
    simulator.fault(K.SUCCESS_FALSE, endpoint="read")
    with pytest.raises(ProviderRefused):
        provider.read(ref)
    assert provider.read(ref) is not None and provider.read("1") is None


@pytest.mark.parametrize(
    "kind", [K.LISTING_GONE, K.LISTING_PAGED_OFF, K.LISTING_SHORT, K.GARBLED, K.SERVER_ERROR, K.SILENCE]
)
def test_a_listing_that_is_not_whole_raises(
    simulator: Simulator, provider: vast.VastProvider, kind: K
) -> None:
    for label in ("dm-1", "dm-2"):
        rent(provider, label)
    simulator.fault(kind, **({"endpoint": "list"} if kind in (K.GARBLED, K.SERVER_ERROR, K.SILENCE) else {}))
    with pytest.raises(ProviderBusy):
        provider.listing()
    assert {box.label for box in provider.listing()} == {"dm-1", "dm-2"}


def test_a_listing_of_several_pages_is_whole(
    provider: vast.VastProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vast, "PAGE_ROWS", 2)
    refs = [rent(provider, f"dm-{number}") for number in range(5)]
    assert [box.ref for box in provider.listing()] == refs


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_a_stopped_box_keeps_its_disk_is_billed_for_it_and_runs_again(
    simulator: Simulator, provider: vast.VastProvider
) -> None:
    ref = rent(provider)
    eventually(lambda: phase(provider, ref) is Phase.RUNNING)
    provider.stop(ref)
    eventually(lambda: phase(provider, ref) is Phase.STOPPED)
    gpu, disk = (simulator.contract(ref)["usd"][name] for name in ("gpu", "disk"))
    simulator.forward(3600)
    later = simulator.contract(ref)["usd"]
    assert later["gpu"] == gpu and later["disk"] > disk + 0.002 and simulator.box(ref).is_dir()
    simulator.fault(K.START_QUEUED)
    with pytest.raises(StartQueued, match="state change queued"):
        provider.start(ref)
    provider.start(ref)
    assert phase(provider, ref) in (Phase.LOADING, Phase.RUNNING), "never called a failure just after a start"
    eventually(lambda: phase(provider, ref) is Phase.RUNNING)


# -- pace -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_vast_ais_own_limits_are_never_reached_by_calls_that_take_their_turn(
    tmp_path: Path, valkey: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes' worth of clients, on a simulator that counts as vast.ai does, here a twentieth as long.

    It counts arrivals: on a machine that is busy with other things some come later than their turn was taken, and the
    next one does not, so that the turns are three times as far apart as they must be.
    """
    limits = {name: (count, seconds * 0.15) for name, (count, seconds) in vast_pace.LIMITS.items()}
    monkeypatch.setattr(vast_pace, "LIMITS", limits)
    monkeypatch.setattr(vast, "OFFERS_LIFE_S", 0.0)
    simulator = Simulator(tmp_path / "simulator", pace=0.05).start()
    try:
        clients = [vast_at(simulator.url, "sim-pace") for _ in "ab"]
        refs = [client.create(client.offers(ANY)[0].id, box_spec("dm")) for client in clients]
        for _ in range(3):
            for client, ref in zip(clients, refs, strict=True):
                assert client.read(ref) is not None and len(client.listing()) == 2
        for client, ref in zip(clients, refs, strict=True):
            client.destroy(ref)
        assert {call["status"] for call in simulator.books()["calls"]} == {200}
    finally:
        simulator.stop()


def test_a_turn_that_is_far_off_is_put_off_and_not_waited_for(valkey: object) -> None:
    pauses: list[float] = []
    pace = Pace("sim-far", pause=pauses.append)
    pace.take("create")
    with pytest.raises(ProviderBusy) as busy:
        Pace("sim-far", pause=pauses.append).take("create")
    assert 3 < busy.value.retry_after_s <= 4.5 and pauses == []
    Pace("sim-another").take("create")
    for _ in range(10):
        pace.take("search")
    with pytest.raises(ProviderBusy):
        pace.take("search")


def test_a_429_silences_every_process_for_as_long_as_it_says(
    simulator: Simulator, valkey: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = vast_at(simulator.url, "sim-held")
    simulator.fault(K.RATE_LIMITED, endpoint="list", seconds=30)
    with pytest.raises(ProviderBusy) as busy:
        provider.listing()
    assert busy.value.retry_after_s == 30
    calls = len(simulator.books()["calls"])
    with pytest.raises(ProviderBusy) as busy:
        vast_at(simulator.url, "sim-held").listing()
    assert 25 < busy.value.retry_after_s <= 30 and len(simulator.books()["calls"]) == calls


def creates(simulator: Simulator) -> list[Any]:
    return [call for call in simulator.books()["calls"] if call["endpoint"] == "create"]


def phase(provider: vast.VastProvider, ref: str) -> Phase | None:
    facts = provider.read(ref)
    return facts and facts.phase


def test_the_simulator_bills_nothing_while_a_host_is_offline(
    simulator: Simulator, provider: vast.VastProvider
) -> None:
    ref = rent(provider)
    eventually(lambda: phase(provider, ref) is Phase.RUNNING)
    simulator.fault(K.OFFLINE, seconds=3600)
    eventually(lambda: phase(provider, ref) is Phase.OFFLINE)
    before = sum(simulator.contract(ref)["usd"].values())
    simulator.forward(1800)
    assert sum(simulator.contract(ref)["usd"].values()) == before
    simulator.forward(3600)
    assert sum(simulator.contract(ref)["usd"].values()) > before


def test_a_containers_own_key_opens_that_container_and_nothing_else(
    simulator: Simulator, provider: vast.VastProvider
) -> None:
    ref, other = rent(provider, "dm-1"), rent(provider, "dm-2")
    own = {"Authorization": f"Bearer {simulator.contract(ref)['container_key']}"}
    url = f"{simulator.url}/api/v0/instances"
    assert requests.delete(f"{url}/{other}/", json={}, headers=own).status_code == 403
    assert requests.get(f"{simulator.url}/api/v1/instances/", headers=own).status_code == 403
    assert requests.delete(f"{url}/{ref}/", json={}, headers=own).json() == {"success": True}
    assert provider.read(ref) is None and provider.read(other) is not None
