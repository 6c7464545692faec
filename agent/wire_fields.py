"""Reading the fields of a message: each of the right type and within its limits, or a WireError that names it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class WireError(ValueError):
    """A message that cannot be understood; its text names the field, what was found and what is wanted."""


def text(body: Mapping[str, Any], name: str, *, required: bool = False, at_most: int = 1024) -> str | None:
    value = body.get(name)
    if value is None and not required:
        return None
    if not isinstance(value, str) or (required and not value):
        raise WireError(f"{name} must be text, not {value!r}")
    return value[:at_most]


def whole(body: Mapping[str, Any], name: str, *, required: bool = False) -> int | None:
    value = body.get(name)
    if value is None and not required:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise WireError(f"{name} must be a whole number from 0, not {value!r}")
    return value


def number(body: Mapping[str, Any], name: str, *, low: float, high: float = math.inf) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WireError(f"{name} must be a number, not {value!r}")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False  # a whole number beyond every float
    if not finite:
        raise WireError(f"{name} must be a finite number")
    if not low <= value <= high:
        raise WireError(f"{name} must be between {low:g} and {high:g}, not {value!r}")
    return float(value)


def items(body: Mapping[str, Any], name: str, *, at_most: int = 1024) -> list[Any]:
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > at_most:
        raise WireError(f"{name} must be a list of at most {at_most}")
    return value


def counts(body: Mapping[str, Any], name: str) -> dict[str, int]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > 32:
        raise WireError(f"{name} must be an object of counts")
    return {str(key)[:32]: whole(value, key) or 0 for key in value}
