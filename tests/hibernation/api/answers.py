"""What the tests of the routes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Client = Callable[..., Any]

POLICY = {
    "auto_hibernation": {
        "enabled": True,
        "pause_after_idle_minutes": 3,
        "delete_after_pause_minutes": 30,
        "gpu_usage_threshold": 5,
        "check_interval_seconds": 30,
        "wake_method": "manual",
        "schedule": {
            "wake_time": "09:00",
            "sleep_time": "18:00",
            "timezone": "America/Sao_Paulo",
            "weekdays": [0, 1, 2, 3, 4, 5, 6],
        },
    }
}
"""The configuration of the design document, as it stands."""


def refused(answer: Any, status: int) -> dict[str, Any]:
    """The error, as every refusal looks."""
    assert answer.status_code == status, answer.content
    body = answer.json()
    assert body["code"] and body["message"]
    assert "hint" in body
    return dict(body)
