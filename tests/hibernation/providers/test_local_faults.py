"""Each fault of the local host does what its meaning says, as often as it was ordered, to whom it was meant for."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import Invalid
from hibernation.providers.base import (
    CreateUnknown,
    OfferGone,
    OfferQuery,
    Phase,
    ProviderBusy,
    ProviderRefused,
)
from hibernation.providers.local_faults import (
    MEANING,
    Fault,
    FaultBook,
    FaultKind,
    K,
    fault_add,
    faults_clear,
    faults_standing,
    main,
)
from tests.hibernation.providers.hosts import DISK_BYTES, LocalHost, box_spec, eventually, lives


def test_every_fault_has_a_meaning() -> None:
    assert set(MEANING) == set(FaultKind)


def test_a_create_goes_wrong_as_ordered_and_then_goes_right(host: LocalHost) -> None:
    for kind, error in (
        (K.CREATE_OFFER_GONE, OfferGone),
        (K.CREATE_BUSY, ProviderBusy),
        (K.CREATE_REFUSED, ProviderRefused),
        (K.CREATE_LOST, CreateUnknown),
    ):
        fault_add(host.folder, kind, count=2)
        for _ in range(2):
            with pytest.raises(error):
                host.create("dm-1")
        assert host.provider.listing() == [] and faults_standing(host.folder) == []
    host.create("dm-1")


def test_a_fault_hits_only_the_label_and_machine_it_is_meant_for(host: LocalHost) -> None:
    fault_add(host.folder, K.CREATE_REFUSED, label="dm-alice-*", machine="m-eu-t4")
    offers = {offer.machine_id: offer for offer in host.provider.offers(OfferQuery(disk_bytes=DISK_BYTES))}
    for machine, label in (("m-eu-t4", "dm-bob-1"), ("m-us-4090", "dm-alice-1")):
        host.provider.create(offers[machine].id, box_spec(label))
    offer = host.provider.offers(OfferQuery(gpu_type="T4", region="local-eu", disk_bytes=DISK_BYTES))[0]
    with pytest.raises(ProviderRefused):
        host.provider.create(offer.id, box_spec("dm-alice-1"))


@pytest.mark.slow
def test_a_create_that_broke_off_may_show_late(host: LocalHost) -> None:
    fault_add(host.folder, K.CREATE_UNKNOWN, seconds=1)
    with pytest.raises(CreateUnknown):
        host.create("dm-late")
    assert host.provider.find("dm-late") is None
    box = eventually(lambda: host.provider.find("dm-late"))
    assert host.provider.read(box.ref) is not None


def test_a_box_that_never_boots_loads_for_ever_and_can_be_destroyed(host: LocalHost) -> None:
    fault_add(host.folder, K.BOOT_NEVER)
    ref = host.create("dm-1")
    other = host.create("dm-2")
    eventually(lambda: host.phase(other) is Phase.RUNNING)
    assert host.phase(ref) is Phase.LOADING and not (host.box(ref) / "agent.log").exists()
    host.provider.destroy(ref)
    host.until_gone(ref)


def test_a_box_that_boots_slowly_loads_that_much_longer(host: LocalHost) -> None:
    fault_add(host.folder, K.BOOT_SLOW, seconds=0.5)
    slow, quick = host.create("dm-slow"), host.create("dm-quick")
    eventually(lambda: host.phase(quick) is Phase.RUNNING)
    assert host.phase(slow) is Phase.LOADING
    eventually(lambda: host.phase(slow) is Phase.RUNNING)


def test_a_box_that_dies_is_gone_with_all_that_was_on_it(host: LocalHost) -> None:
    dies, stays = host.create("dm-dies"), host.create("dm-stays")
    given = host.given(dies)
    fault_add(host.folder, K.BOX_DIES, label="dm-dies")
    host.until_gone(dies)
    assert not host.box(dies).exists() and lives(given["identities"]) == []
    assert len(lives(host.given(stays)["identities"])) == 3


def test_a_machine_without_power_offers_nothing_and_its_boxes_start_again_after(host: LocalHost) -> None:
    ref = host.create("dm-1")
    given = host.given(ref)
    facts = host.provider.read(ref)
    assert facts is not None
    fault_add(host.folder, K.MACHINE_OFFLINE, machine=facts.machine_id)
    eventually(lambda: lives(given["identities"]) == [])
    assert host.phase(ref) is Phase.OFFLINE
    everywhere = OfferQuery(disk_bytes=DISK_BYTES)
    assert facts.machine_id not in {offer.machine_id for offer in host.provider.offers(everywhere)}
    (host.box(ref) / "workspace" / "kept").write_text("kept")
    faults_clear(host.folder)
    eventually(lambda: host.phase(ref) is Phase.RUNNING)
    eventually(lambda: (host.box(ref) / "workspace" / "starts").read_text() == "xx")
    assert (host.box(ref) / "workspace" / "kept").read_text() == "kept"


def test_a_power_cut_ends_by_itself_after_its_seconds(host: LocalHost) -> None:
    ref = host.create("dm-1")
    eventually(lambda: host.phase(ref) is Phase.RUNNING)
    fault_add(host.folder, K.MACHINE_OFFLINE, seconds=0.3)
    assert host.phase(ref) is Phase.OFFLINE
    eventually(lambda: host.phase(ref) is Phase.RUNNING)
    assert faults_standing(host.folder) == []


def test_a_destroy_that_is_not_taken_says_so(host: LocalHost) -> None:
    ref = host.create("dm-1")
    fault_add(host.folder, K.DESTROY_BUSY, seconds=4)
    with pytest.raises(ProviderBusy) as busy:
        host.provider.destroy(ref)
    assert busy.value.retry_after_s == 4 and host.provider.read(ref) is not None


def test_a_listing_that_is_not_answered_is_busy(host: LocalHost) -> None:
    fault_add(host.folder, K.LISTING_BUSY, seconds=4)
    with pytest.raises(ProviderBusy) as busy:
        host.provider.find("dm-1")
    assert busy.value.retry_after_s == 4
    assert host.provider.listing() == []


def test_faults_outlive_the_host(host: LocalHost) -> None:
    fault_add(host.folder, K.CREATE_REFUSED, count=2)
    with pytest.raises(ProviderRefused):
        host.create("dm-1")
    host.kill()
    host.start()
    with pytest.raises(ProviderRefused):
        host.create("dm-1")
    host.create("dm-1")


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"seconds": -1}, {"seconds": float("nan")}], ids=lambda wrong: next(iter(wrong))
)
def test_a_fault_that_cannot_be_meant_is_refused(wrong: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        Fault(kind=K.BOX_DIES, **wrong)  # type: ignore[arg-type]


def test_a_book_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "faults.json").write_text("{")
    with pytest.raises(Invalid, match=r"faults\.json"):
        FaultBook(tmp_path)


def test_faults_are_ordered_from_the_command_line(
    host: LocalHost, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(host.folder), "add", "box_dies", "--label", "dm-*", "--count", "2"]) == 0
    assert "box_dies" in capsys.readouterr().out
    assert [(fault.kind, fault.count, fault.label) for fault in faults_standing(host.folder)] == [
        (K.BOX_DIES, 2, "dm-*")
    ]
    assert main([str(host.folder), "clear"]) == 0
    assert faults_standing(host.folder) == []
    assert main([str(host.folder / "nowhere"), "list"]) == 1
    assert "no local host answers" in capsys.readouterr().err
