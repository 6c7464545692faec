from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from core.errors import Invalid
from hibernation.providers.base import OfferQuery
from hibernation.providers.local_catalogue import CATALOGUE_FILE, DEFAULT_CATALOGUE, GB, catalogue_read
from tests.hibernation.providers.hosts import LocalHost

MACHINE = {
    "machine_id": "m1",
    "gpu_name": "H100",
    "region": "attic",
    "price_usd_per_h": "2.5",
    "gpu_mem_bytes": 80 * 2**30,
}


def test_the_default_one_has_choices_of_gpu_region_and_price(tmp_path: Path) -> None:
    machines = catalogue_read(tmp_path)
    assert {machine.machine_id for machine in DEFAULT_CATALOGUE} == set(machines)
    for attribute, least in (("gpu_name", 3), ("region", 3), ("price_usd_per_h", 4)):
        assert len({getattr(machine, attribute) for machine in machines.values()}) >= least


def test_the_disk_is_part_of_the_price(tmp_path: Path) -> None:
    machine = catalogue_read(tmp_path)["m-sp-4090"]
    assert (
        machine.total_usd_per_h(disk_bytes=720 * GB)
        == machine.price_usd_per_h + machine.disk_usd_per_gb_month
    )


def test_machines_of_ones_own_are_offered(make_host: Callable[..., LocalHost], tmp_path: Path) -> None:
    host = make_host()
    host.folder.mkdir()
    (host.folder / CATALOGUE_FILE).write_text(json.dumps([MACHINE]))
    offers = host.start().provider.offers(OfferQuery(disk_bytes=0))
    assert {(offer.machine_id, offer.region, offer.price_usd_per_h) for offer in offers} == {
        ("m1", "attic", Decimal("2.5"))
    }


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{", "not JSON"),
        ("[]", "not a list of machines"),
        ('{"machine_id": "m1"}', "not a list of machines"),
        (json.dumps([{**MACHINE, "colour": "red"}]), "colour"),
        (json.dumps([{"machine_id": "m1"}]), "missing"),
        (json.dumps([{**MACHINE, "price_usd_per_h": "dear"}]), "price_usd_per_h"),
        (json.dumps([{**MACHINE, "price_usd_per_h": -1}]), "price_usd_per_h"),
        (json.dumps([{**MACHINE, "gpu_mem_bytes": "80 GiB"}]), "gpu_mem_bytes"),
        (json.dumps([{**MACHINE, "capacity": True}]), "capacity"),
        (json.dumps([{**MACHINE, "capacity": 0}]), "capacity"),
        (json.dumps([{**MACHINE, "gpu_name": 4090}]), "gpu_name"),
        (json.dumps([MACHINE, MACHINE]), "same machine_id"),
    ],
)
def test_a_catalogue_that_cannot_be_used_is_refused_by_name(text: str, names: str, tmp_path: Path) -> None:
    (tmp_path / CATALOGUE_FILE).write_text(text)
    with pytest.raises(Invalid, match=names) as refused:
        catalogue_read(tmp_path)
    assert CATALOGUE_FILE in refused.value.message


def test_a_host_with_such_a_catalogue_ends_at_once_with_the_reason(
    make_host: Callable[..., LocalHost],
) -> None:
    host = make_host()
    host.folder.mkdir()
    (host.folder / CATALOGUE_FILE).write_text("{")
    with pytest.raises(AssertionError, match="ended at once"):
        host.start()
    assert host.process is not None and host.process.wait(5) == 1
    host.process = None
    assert "not JSON" in (host.folder.parent / "host.log").read_text()
