"""Nothing secret reaches a log: tokens, presigned URLs, credentials in addresses."""

from __future__ import annotations

import logging
import re
import time

_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "<token>"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{12,}"), r"\1 <token>"),
    (
        re.compile(r"""(?i)(["'](?:\w*secret|\w*token|owner_key|password)["']\s*:\s*)(?:"[^"]*"|'[^']*')"""),
        r"\1<secret>",
    ),
    (re.compile(r"""(?i)\b(secret|token|owner_key|password)=[^\s"',&]+"""), r"\1=<secret>"),
    (re.compile(r"(\w+://)[^/\s@:]*:[^/\s@]*@"), r"\1<credentials>@"),
    # A presigned URL is a secret from its question mark on; so is the path with query that urllib3 logs.
    (re.compile(r"(?i)\?[^\s\"']*(?:signature|credential|token|expires|sig)=[^\s\"']*"), "?<signed>"),
)


def redact(text: str) -> str:
    """The text with everything that looks like a credential taken out."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


class RedactingFormatter(logging.Formatter):
    """Times in UTC; the whole record is redacted, with the exception's text and traceback."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def configure_logging(level: str) -> None:
    """Everything to standard error. Celery's and kombu's own chatter only from warnings on, unless debugging."""
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    if level.lower() != "debug":
        for name in ("celery", "kombu", "urllib3", "requests", "py.warnings"):
            logging.getLogger(name).setLevel(logging.WARNING)
