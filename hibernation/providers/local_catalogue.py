"""The machines that the local host pretends to be: GPU, region, price, room. `catalogue.json` in its folder replaces them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from core.errors import Invalid
from hibernation.providers.local_files import json_read

CATALOGUE_FILE = "catalogue.json"
GB = 10**9
GIB = 1024**3
HOURS_PER_MONTH = 720
_CENT_OF_A_CENT = Decimal("0.0001")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine. capacity: how many boxes it takes at once; gpu_mem_bytes: per GPU; disk_bytes: the most that one box gets.

    price_usd_per_h: of the GPUs of one box, without its disk.
    """

    machine_id: str
    gpu_name: str
    region: str
    price_usd_per_h: Decimal
    gpu_mem_bytes: int
    gpu_count: int = 1
    capacity: int = 4
    disk_bytes: int = 2000 * GB
    disk_usd_per_gb_month: Decimal = Decimal("0.10")
    upload_usd_per_gb: Decimal = Decimal("0.002")
    download_usd_per_gb: Decimal = Decimal("0.002")
    reliability: float = 0.99

    def total_usd_per_h(self, *, disk_bytes: int) -> Decimal:
        """What an hour of a box with such a disk costs, to the hundredth of a cent."""
        disk = self.disk_usd_per_gb_month * disk_bytes / GB / HOURS_PER_MONTH
        return (self.price_usd_per_h + disk).quantize(_CENT_OF_A_CENT)


def _machine(
    machine_id: str, gpu_name: str, mem_gib: int, region: str, price: str, *, gpus: int = 1
) -> Machine:
    return Machine(
        machine_id=machine_id,
        gpu_name=gpu_name,
        gpu_count=gpus,
        gpu_mem_bytes=mem_gib * GIB,
        region=region,
        price_usd_per_h=Decimal(price),
    )


DEFAULT_CATALOGUE = (
    _machine("m-sp-4090", "RTX 4090", 24, "local-sp", "0.42"),
    _machine("m-sp-a100", "A100", 80, "local-sp", "1.35"),
    _machine("m-sp-t4", "Tesla T4", 16, "local-sp", "0.15"),
    _machine("m-us-4090", "RTX 4090", 24, "local-us", "0.36"),
    _machine("m-us-4090-2", "RTX 4090", 24, "local-us", "0.72", gpus=2),
    _machine("m-us-a100", "A100", 80, "local-us", "1.19"),
    _machine("m-eu-4090", "RTX 4090", 24, "local-eu", "0.45"),
    _machine("m-eu-t4", "Tesla T4", 16, "local-eu", "0.17"),
)


def catalogue_read(folder: Path) -> dict[str, Machine]:
    """The machines by id: those of `catalogue.json` where there is one, else the default ones.

    Raises Invalid, naming the entry and the field, where the file cannot be used.
    """
    path = folder / CATALOGUE_FILE
    try:
        found = json_read(path)
    except ValueError as error:
        raise Invalid(
            f"{path} is not JSON: {error}", hint="repair it, or remove it for the default one"
        ) from error
    machines = DEFAULT_CATALOGUE if found is None else _machines(found, path)
    return {machine.machine_id: machine for machine in machines}


def _machines(found: object, path: Path) -> tuple[Machine, ...]:
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found) or not found:
        raise Invalid(
            f"{path} is not a list of machines", hint='like [{"machine_id": "m1", "gpu_name": "T4", …}]'
        )
    machines = tuple(_machine_from(item, f"{path}, machine {index + 1}") for index, item in enumerate(found))
    if len({machine.machine_id for machine in machines}) < len(machines):
        raise Invalid(f"{path} has two machines with the same machine_id")
    return machines


def _machine_from(item: Mapping[str, Any], where: str) -> Machine:
    known = {field.name: str(field.type) for field in fields(Machine)}
    unknown = sorted(set(item) - set(known))
    if unknown:
        raise Invalid(f"{where}: unknown field {unknown[0]!r}", hint=f"known are {', '.join(known)}")
    values: dict[str, Any] = {
        name: _value(value, known[name], f"{where}: {name}") for name, value in item.items()
    }
    try:
        machine = Machine(**values)
    except TypeError as error:
        needed = "machine_id, gpu_name, region, price_usd_per_h, gpu_mem_bytes"
        raise Invalid(f"{where}: a field is missing", hint=f"needed are {needed}") from error
    if machine.capacity < 1 or machine.gpu_count < 1 or machine.disk_bytes < 1 or not machine.machine_id:
        raise Invalid(f"{where}: machine_id, capacity, gpu_count and disk_bytes may not be empty or 0")
    return machine


def _value(value: object, kind: str, where: str) -> object:
    if kind == "str" and isinstance(value, str):
        return value
    if isinstance(value, bool) or kind == "str":
        raise Invalid(f"{where} is {value!r}, which is not {'text' if kind == 'str' else 'a number'}")
    if kind == "int" and isinstance(value, int) and value >= 0:
        return value
    if kind == "float" and isinstance(value, int | float) and 0 <= value <= 1:
        return float(value)
    if kind == "Decimal" and isinstance(value, int | float | str):
        try:
            amount = Decimal(str(value))
        except InvalidOperation:
            amount = Decimal("NaN")
        if amount.is_finite() and 0 <= amount < 10_000:
            return amount
    raise Invalid(
        f"{where} is {value!r}, which is out of range", hint="prices as text or number from 0, sizes whole"
    )
