"""What came from outside, made storable."""

from __future__ import annotations

import math
from typing import Any


def storable(value: Any) -> Any:
    """`value` (JSON as Python sees it) without what no database stores: NUL characters, lone surrogates, and numbers
    beyond every float (1e999), which become null."""
    if isinstance(value, str):
        return value.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value
