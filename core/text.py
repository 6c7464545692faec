"""Text that came from outside, made storable."""

from __future__ import annotations

from typing import Any


def storable(value: Any) -> Any:
    """`value` (JSON as Python sees it) without what PostgreSQL refuses to store: NUL characters and lone surrogates."""
    if isinstance(value, str):
        return value.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value
