"""What a worker says of itself when it is asked: the fields of GET /health, from wherever they come. Pure."""

from __future__ import annotations

import math
from typing import Any

from agent import wire
from core.text import storable

NUMBERS = ("sessionRuntimeHours", "maxSessionHours", "utilizationPercentage")
TEXTS = ("status", "gpu", "provider", "timestamp")
TEXT_CHARS = 80
LARGEST = 1e9


class BadAnswer(ValueError):
    """An answer that is not that of GET /health; the text says why."""


def answer_read(body: object) -> dict[str, Any]:
    """The seven fields of an answer, each checked; whatever else it holds is left out. Raises BadAnswer."""
    if not isinstance(body, dict):
        raise BadAnswer("the answer is no JSON object")
    if not isinstance(body.get("status"), str):
        raise BadAnswer("the answer has no status")
    answer: dict[str, Any] = {name: _text(name, body.get(name)) for name in TEXTS}
    answer.update({name: _number(name, body.get(name)) for name in NUMBERS})
    return answer


def answer_of(post: wire.StatusPost, *, provider: str) -> dict[str, Any]:
    """The same fields, from a status post."""
    hours, most = post.session_runtime_hours, post.max_session_hours
    return {
        "status": (post.status or "unknown")[:TEXT_CHARS],
        "sessionRuntimeHours": hours,
        "maxSessionHours": most,
        "utilizationPercentage": round(100 * hours / most, 2) if hours is not None and most else None,
        "gpu": post.gpus[0].name[:TEXT_CHARS] if post.gpus else None,
        "provider": provider,
        "timestamp": (post.timestamp or "")[:TEXT_CHARS] or None,
    }


def _text(name: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise BadAnswer(f"{name} is no text")
    return None if value is None else str(storable(value))[:TEXT_CHARS]


def _number(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadAnswer(f"{name} is no number")
    if (isinstance(value, float) and not math.isfinite(value)) or abs(value) > LARGEST:
        raise BadAnswer(f"{name} is out of all proportion")
    return float(value)
