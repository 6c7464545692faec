"""How a log line looks: text for people, JSON for machines. To standard error; whoever starts us keeps the file."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class Utc(logging.Formatter):
    """Text, with times in UTC to the millisecond: events and logs then read side by side."""

    converter = time.gmtime
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


class Json(Utc):
    """One object a line: at, level, logger, message, what the line gives as `fields`, and the exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class NotReadiness(logging.Filter):
    """Drops Django's line for each 503 of /readyz: it is asked every few seconds, and its answer says it all."""

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(getattr(record, "request", None), "path", "") != "/readyz"


def logging_config(form: str, *, debug: bool) -> dict[str, Any]:
    """logging.config's dictionary. form: text or json."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "text": {"()": "config.logs.Utc", "format": TEXT},
            "json": {"()": "config.logs.Json"},
        },
        "filters": {"not_readiness": {"()": "config.logs.NotReadiness"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": form}},
        "root": {"handlers": ["stderr"], "level": "INFO"},
        "loggers": {
            # Its own handler would print each line twice.
            "django": {"handlers": [], "propagate": True, "level": "INFO"},
            "django.request": {"filters": ["not_readiness"]},
            "django.server": {"handlers": [], "propagate": True},
            # A line for each message would be several a second, for ticks that mostly found nothing to do.
            "celery.app.trace": {"level": "INFO" if debug else "WARNING"},
            "celery.worker.strategy": {"level": "INFO" if debug else "WARNING"},
            "celery.beat": {"level": "INFO" if debug else "WARNING"},
            "botocore": {"level": "WARNING"},
            "urllib3": {"level": "WARNING"},
        },
    }
