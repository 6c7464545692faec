"""Limits of how often somebody may ask. They spare the machine; where the cache is away, they let everybody through."""

from __future__ import annotations

import logging
from typing import Any

import redis
from rest_framework.request import Request
from rest_framework.throttling import ScopedRateThrottle

log = logging.getLogger(__name__)


class ScopedThrottle(ScopedRateThrottle):
    """ScopedRateThrottle, except that a broker that is away refuses nobody."""

    def allow_request(self, request: Request, view: Any) -> bool:
        try:
            return super().allow_request(request, view)
        except redis.RedisError as error:
            log.warning("broker away, %s goes unthrottled: %s", getattr(view, "throttle_scope", "?"), error)
            return True
