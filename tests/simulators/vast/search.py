"""The search: fields, operators, aliases and order as vast.ai has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

AT_MOST = 64
ALIASES = {
    "cuda_vers": "cuda_max_good", "dph": "dph_total", "reliability": "reliability2", "dlperf_usd": "dlperf_per_dphtotal",
    "verified": "verification",
}  # fmt: skip
NOT_FIELDS = {
    "order",
    "limit",
    "type",
    "allocated_storage",
    "disable_bundling",
    "q",
    "select_cols",
    "client_id",
}
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda found, wanted: found == wanted,
    "neq": lambda found, wanted: found != wanted,
    "gt": lambda found, wanted: found > wanted,
    "gte": lambda found, wanted: found >= wanted,
    "lt": lambda found, wanted: found < wanted,
    "lte": lambda found, wanted: found <= wanted,
    "in": lambda found, wanted: found in wanted,
    "notin": lambda found, wanted: found not in wanted,
}


class UnknownKey(Exception):
    """The text is vast.ai's message."""


def searched(rows: list[dict[str, Any]], body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that fit, in order, at most 64. Raises UnknownKey."""
    found = [
        row
        for row in rows
        if all(_fits(row, name, rule) for name, rule in body.items() if name not in NOT_FIELDS)
    ]
    for column, direction in reversed(body.get("order") or []):
        name = ALIASES.get(column, column)
        found.sort(key=lambda row: row.get(name) or 0, reverse=str(direction).startswith("desc"))
    return found[: min(AT_MOST, int(body.get("limit") or AT_MOST))]


def _fits(row: Mapping[str, Any], name: str, rule: Any) -> bool:
    field = ALIASES.get(name, name)
    if field not in row:
        raise UnknownKey(f"{name} is not a valid search key")
    rules = rule if isinstance(rule, dict) else {"eq": rule}
    return all(_holds(row, name, field, operator, wanted) for operator, wanted in rules.items())


def _holds(row: Mapping[str, Any], name: str, field: str, operator: str, wanted: Any) -> bool:
    if operator not in OPERATORS:
        raise UnknownKey(f"{name}: {operator} is not an operator")
    if name == "id":
        return False  # to look one offer up, filter by ask_contract_id
    found = row[field]
    if name == "verified":
        found = found == "verified"
    if name == "geolocation":
        found = str(found).rpartition(",")[2].strip()
    if isinstance(wanted, list):
        return OPERATORS[operator](found, [_like(found, item) for item in wanted])
    return OPERATORS[operator](found, _like(found, wanted))


def _like(found: Any, wanted: Any) -> Any:
    """The official command line sends numbers and truth as text."""
    if isinstance(wanted, str) and isinstance(found, bool):
        return wanted.casefold() in ("true", "1", "yes")
    if isinstance(wanted, str) and isinstance(found, int | float):
        return float(wanted)
    return wanted
