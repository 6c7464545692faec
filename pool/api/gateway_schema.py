"""The two agent routes that the gateway answers itself, for the OpenAPI document: Django never sees them."""

from __future__ import annotations

from typing import Any

from agent import wire

ERROR = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
NUMBER: dict[str, Any] = {"type": "number", "nullable": True}

POST: dict[str, Any] = {
    "type": "object",
    "description": "What an agent says of itself once per check interval. All but the first two may be null or absent.",
    "required": ["worker_id", "epoch"],
    "properties": {
        "worker_id": {"type": "string"},
        "epoch": {"type": "integer"},
        "timestamp": {"type": "string", "format": "date-time", "nullable": True},
        "instance_id": {"type": "string", "nullable": True},
        "session_runtime_hours": NUMBER,
        "max_session_hours": NUMBER,
        "gpu_util": {**NUMBER, "description": "percent, the highest of any GPU; null: unknown, never idle"},
        "status": {"type": "string", "nullable": True},
        "gpus": {"type": "array", "items": {"$ref": "#/components/schemas/AgentGpuRequest"}},
        "cpu_util": NUMBER,
        "net_bytes_per_s": NUMBER,
        "disk_free_bytes": {"type": "integer", "nullable": True},
        "sessions": {"type": "object", "additionalProperties": {"type": "integer"}},
        "jobs": {"type": "array", "items": {"type": "string"}, "description": "dispatches that it holds"},
        "health_url": {"type": "string", "nullable": True},
    },
}
ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["next_in_s", "epoch", "orders"],
    "properties": {
        "next_in_s": {"type": "number"},
        "epoch": {"type": "integer"},
        "orders": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["kind", "id"],
                "properties": {
                    "kind": {"type": "string", "enum": list(wire.ORDERS)},
                    "id": {"type": "string"},
                },
            },
        },
    },
}
REFUSALS: dict[str, Any] = {
    "401": {"description": "fetch a new access token", **ERROR},
    "409": {"description": "`stand_down`", **ERROR},
    "429": {"description": "too often", **ERROR},
    "503": {"description": "the broker is away: try again after Retry-After seconds", **ERROR},
}


def add_gateway_routes(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """A post-processing hook of drf-spectacular."""
    result["paths"][wire.STATUS] = {
        "post": {
            "operationId": "agent_status",
            "description": "A status post. Answered by the gateway; the answer carries what stands ordered.",
            "tags": ["agent"],
            "security": [{"agent": []}],
            "requestBody": {"required": True, "content": {"application/json": {"schema": POST}}},
            "responses": {
                "200": {"description": "taken", "content": {"application/json": {"schema": ANSWER}}},
                "403": {"description": "another worker's post", **ERROR},
                **REFUSALS,
            },
        }
    }
    result["paths"][wire.QUEUE] = {
        "post": {
            "operationId": "agent_queue",
            "description": "A long poll of the worker's own queue. Answered by the gateway.",
            "tags": ["agent"],
            "security": [{"agent": []}],
            "parameters": [
                {
                    "name": "wait",
                    "in": "query",
                    "description": f"seconds, at most {wire.POLL_WAIT_LIMIT_S}",
                    "schema": {"type": "number"},
                }
            ],
            "responses": {
                "200": {
                    "description": "a Celery message, as it lay in the queue",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                },
                "204": {"description": "nothing came"},
                **REFUSALS,
            },
        }
    }
    result["paths"] = dict(sorted(result["paths"].items()))
    return result
