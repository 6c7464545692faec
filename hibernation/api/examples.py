"""Examples for the OpenAPI document."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiExample

AUTO_HIBERNATION = {
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

CONFIG = OpenApiExample("policy", value={"auto_hibernation": AUTO_HIBERNATION}, request_only=True)

RESOLVED = OpenApiExample(
    "resolved",
    value={
        "auto_hibernation": {
            **AUTO_HIBERNATION,
            "minimum_awake_minutes": 10,
            "signals": {
                "vram_percent": None,
                "cpu_percent": None,
                "net_bytes_per_s": None,
                "ssh_sessions": None,
                "jupyter_sessions": None,
            },
            "verify_share": 0.02,
        },
        "own": {"auto_hibernation": {"pause_after_idle_minutes": 3}},
        "origins": {
            "enabled": "default",
            "pause_after_idle_minutes": "instance",
            "schedule.timezone": "owner",
        },
    },
    response_only=True,
)

SCHEDULE = OpenApiExample("office hours", value=AUTO_HIBERNATION["schedule"], request_only=True)

CREATE = OpenApiExample(
    "an instance",
    value={
        "name": "llm-dev",
        "account": "acc_0123456789abcdef",
        "gpu_type": "RTX 4090",
        "region": "",
        "price_cap_usd_per_h": "0.6000",
        "disk_bytes": 50 * 1024**3,
        "on_wake": "jupyter lab --no-browser",
        "config": {"auto_hibernation": AUTO_HIBERNATION},
    },
    request_only=True,
)

WAKE = OpenApiExample("another GPU", value={"gpu_type": "RTX 5090", "region": "eu"}, request_only=True)

KEEP_AWAKE = OpenApiExample("two hours", value={"minutes": 120}, request_only=True)

INSTANCE = OpenApiExample(
    "asleep",
    value={
        "id": "i_0123456789abcdef",
        "name": "llm-dev",
        "status": "hibernated",
        "reason": "generation 3 is verified and box 4711 is seen to be gone",
        "why": "generation 3 is verified and box 4711 is seen to be gone",
        "owner": "alice",
        "account": "acc_0123456789abcdef",
        "gpu_type": "RTX 4090",
        "region": "",
        "price_cap_usd_per_h": "0.6000",
        "disk_bytes": 50 * 1024**3,
        "on_wake": "jupyter lab --no-browser",
        "epoch": 3,
        "worker": "w_0123456789abcdef",
        "box": None,
        "boxes": [],
        "price_usd_per_h": "0.0000",
        "gpu_util": None,
        "last_active_at": "2026-11-21T14:29:30Z",
        "idle_since": None,
        "idle_due_at": None,
        "awake_since": "2026-11-21T09:00:41Z",
        "keep_awake_until": None,
        "hibernated_at": "2026-11-21T14:34:02Z",
        "delete_due_at": "2026-11-21T15:04:02Z",
        "snapshot": "sn_0123456789abcdef",
        "restore_incomplete": False,
        "progress": None,
        "schedule": {"next_wake_at": "2026-11-22T12:00:00Z", "next_sleep_at": "2026-11-22T21:00:00Z"},
        "auto_hibernation": AUTO_HIBERNATION,
        "created_at": "2026-11-01T12:00:00Z",
    },
    response_only=True,
)
